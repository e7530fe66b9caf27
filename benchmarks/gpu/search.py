"""The 63-configuration search against the one-by-one loops (a) and (b) of probe.py."""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from dataclasses import replace

import torch

from benchmarks.gpu.context import Context, synchronize
from benchmarks.gpu.rates import least_seconds
from benchmarks.probe import accuracy, features, from_loader, from_slices, one_by_one
from layercache.probing.heads import HeadSpec
from layercache.probing.training.config import HParams, TrainConfig, paper_grid
from layercache.probing.training.fit import fit
from layercache.testing import InMemoryTokens

TARGET = 200


def measure(context: Context) -> None:
    """Time search and final fit, ours completely and the loops from complete fits."""
    n, tokens, width, classes = (120, 4, 16, 3) if context.tiny else (2500, 24, 384, 10)
    data, _ = features(Namespace(cache=None, shape=[n, tokens, width, classes]))
    data.x, data.labels = data.x.to(context.device), data.labels.to(context.device)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    val, train, both = (part.sort().values for part in (order[: n // 5], order[n // 5 :], order))
    config = TrainConfig(epochs=1, min_steps=4) if context.tiny else TrainConfig()
    head = HeadSpec(kind="attentive", tokens=tokens, width=width, classes=classes)
    grid = paper_grid("attentive")
    seconds: dict[str, float] = {}
    loops: dict[str, float] = {}
    best = grid[0]
    for precision in ("fp32", "bf16"):
        synchronize(context.device)
        start = time.perf_counter()
        best = search(data, context.device, precision, head, grid, train, val, both, config)
        synchronize(context.device)
        seconds[precision] = time.perf_counter() - start
    for name, source in (("loop_b", from_slices), ("loop_a", from_loader)):
        loops[name] = loop(context, name, source, data, head, grid, best, train, val, both, config)
        context.emit(
            f"({name[-1]}) {'sliced tensors' if name == 'loop_b' else 'DataLoader'}, one by one",
            loops[name],
            "s",
            note=f"{len(grid)} x a complete fit + the final fit",
        )
    schedule, final = config.schedule(len(train)), config.schedule(len(both))
    for precision, ours in seconds.items():
        least = [
            least_seconds(
                context.rates,
                flop=2 * s.batch_size * (4 * tokens**2 * width + 12 * width**2),
                precision=precision,
                nbytes=4 * (6 * s.batch_size * tokens * width + 56 * width**2),
            )
            for s in (schedule, final)
        ]
        floor = None
        if least[0] and least[1]:
            floor = least[0] * schedule.steps * len(grid) + least[1] * final.steps
        context.emit(
            f"ours, {precision}",
            ours,
            "s",
            roofline=floor / ours if floor else None,
            target=f"loop_a >= {TARGET}",
            note=f"{len(train)} rows of {tokens} x {width}, {schedule.steps} steps of "
            f"{schedule.batch_size}; selected {best}",
            **{name: value / ours for name, value in loops.items()},
        )


def search(
    data: InMemoryTokens,
    device: str,
    precision: str,
    head: HeadSpec,
    grid: list[HParams],
    train: torch.Tensor,
    val: torch.Tensor,
    both: torch.Tensor,
    config: TrainConfig,
) -> HParams:
    """Train the grid, refit the best configuration on all rows, and return it."""
    shared = {"head": head, "seed": 0, "train_config": config, "device": device}
    fits = fit(data, configs=grid, train=train, val=val, precision=precision, **shared)  # type: ignore[arg-type]
    scored = [f for f in fits if f.val_metrics]
    best = max(scored, key=lambda f: f.val_metrics["balanced_accuracy"])  # type: ignore[index]
    hparams = HParams(**best.hparams)
    fit(data, configs=[hparams], train=both, val=None, precision=precision, **shared)  # type: ignore[arg-type]
    return hparams


def loop(
    context: Context,
    name: str,
    source: object,
    data: InMemoryTokens,
    head: HeadSpec,
    grid: list[HParams],
    best: HParams,
    train: torch.Tensor,
    val: torch.Tensor,
    both: torch.Tensor,
    config: TrainConfig,
) -> float:
    """Return the seconds of a whole search with a loop, from one or two complete fits."""
    common = {"head": head, "seed": 0}
    warm = replace(config, epochs=1, min_steps=0)
    one_by_one(source, data, config=grid[0], rows=train, train_config=warm, **common)  # type: ignore[arg-type]
    times = []
    for hparams in [grid[0]] if name == "loop_a" else [grid[0], grid[-1]]:
        synchronize(context.device)
        start = time.perf_counter()
        module = one_by_one(
            source,
            data,
            config=hparams,
            rows=train,
            train_config=config,
            **common,  # type: ignore[arg-type]
        )
        accuracy(module, data, val)
        times.append(time.perf_counter() - start)
    fits = statistics.mean(times)
    # the final fit has more rows, and its steps as many as its schedule
    steps = config.schedule(len(both)).steps / config.schedule(len(train)).steps
    rows = config.schedule(len(both)).batch_size / config.schedule(len(train)).batch_size
    return fits * len(grid) + fits * max(1.0, steps * rows)

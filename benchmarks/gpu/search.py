"""The 63-configuration search against the one-by-one loops (a) and (b) of probe.py."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.gpu.context import Context, synchronize
from benchmarks.gpu.rates import least_seconds
from benchmarks.one_by_one import accuracy, from_loader, from_slices, one_by_one
from benchmarks.probe import features
from layercache.probing.heads import HeadSpec
from layercache.probing.training.config import HParams, TrainConfig, paper_grid
from layercache.probing.training.fit import fit
from layercache.testing import InMemoryTokens

TARGET = 200
LOOPS = {
    "loop_b": ("(b) sliced tensors, one by one", from_slices),
    "loop_a": ("(a) DataLoader, one by one", from_loader),
}


@dataclass(frozen=True)
class Task:
    """The data, the grid and the schedule of the search."""

    data: InMemoryTokens
    head: HeadSpec
    grid: list[HParams]
    train: Tensor
    val: Tensor
    both: Tensor
    """Rows of train and val, for the final fit."""
    config: TrainConfig
    device: str


def measure(context: Context) -> None:
    """Time search and final fit: ours completely, the loops by a fit."""
    task = make_task(context)
    loops: dict[str, float] = {}
    for name, (what, source) in LOOPS.items():
        try:
            # of what is left, a third for each loop and for ours
            seconds = (context.deadline - time.monotonic()) / 3
            loops[name], note = time_loop(task, source, max_seconds=seconds)
            context.emit(what, loops[name], "s", note=note)
        except Exception as e:
            context.fail(what, e)
    steps = task.config.schedule(len(task.train)).steps
    for precision in ("fp32", "bf16"):
        what = f"ours, {precision}"
        if not context.has_time(what, kind="ours", least=10):
            continue
        try:
            synchronize(task.device)
            start = time.perf_counter()
            best = search(task, precision)
            synchronize(task.device)
            ours = time.perf_counter() - start
        except Exception as e:
            context.fail(what, e)
            continue
        context.took("ours", ours)
        floor = roofline(context, task, precision)
        context.emit(
            what,
            ours,
            "s",
            roofline=floor / ours if floor else None,
            target=f"loop_a >= {TARGET}",
            note=f"{len(task.train)} rows of {task.head.tokens} x {task.head.width}, "
            f"{steps} steps; selected {best.lr:g}, {best.weight_decay:g}, {best.dropout:g}",
            **{name: value / ours for name, value in loops.items()},
        )


def make_task(context: Context) -> Task:
    """Return a search on synthetic tokens, a fifth of them for validation."""
    n, tokens, width, classes = (120, 4, 16, 3) if context.tiny else (2500, 24, 384, 10)
    data, _ = features(Namespace(cache=None, shape=[n, tokens, width, classes]))
    data.x, data.labels = data.x.to(context.device), data.labels.to(context.device)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return Task(
        data,
        HeadSpec(kind="attentive", tokens=tokens, width=width, classes=classes),
        list(paper_grid("attentive")),
        order[n // 5 :].sort().values,
        order[: n // 5].sort().values,
        order.sort().values,
        TrainConfig(epochs=1, min_steps=4) if context.tiny else TrainConfig(),
        context.device,
    )


def search(task: Task, precision: str) -> HParams:
    """Train the grid, refit the best configuration on all rows, and return it."""

    def run(configs: list[HParams], train: Tensor, val: Tensor | None) -> list[object]:
        return fit(  # type: ignore[return-value]
            task.data,
            head=task.head,
            configs=configs,
            train=train,
            val=val,
            seed=0,
            train_config=task.config,
            device=task.device,
            precision=precision,
        )

    scored = [f for f in run(task.grid, task.train, task.val) if f.val_metrics]  # type: ignore[attr-defined]
    best = max(scored, key=lambda f: f.val_metrics["balanced_accuracy"])  # type: ignore[attr-defined]
    hparams = HParams(**best.hparams)  # type: ignore[attr-defined]
    run([hparams], task.both, None)
    return hparams


def time_loop(task: Task, source: object, *, max_seconds: float) -> tuple[float, str]:
    """Return the seconds of a whole search with a loop, and how they were measured.

    One fit is run, completely if `max_seconds` allow it and else for fewer steps. The final fit has
    more rows, so it takes as much longer as its steps have more rows.
    """

    def run(config: TrainConfig) -> float:
        synchronize(task.device)
        start = time.perf_counter()
        module = one_by_one(
            source,
            task.data,
            head=task.head,
            config=task.grid[0],
            rows=task.train,
            seed=0,
            train_config=config,
        )
        accuracy(module, task.data, task.val)
        synchronize(task.device)
        return time.perf_counter() - start

    epoch = replace(task.config, epochs=1, min_steps=0)
    run(epoch)  # warm-up
    epoch_seconds = run(epoch)
    schedule, final = (task.config.schedule(len(rows)) for rows in (task.train, task.both))
    epochs = max(1, min(schedule.epochs, int(max_seconds / epoch_seconds)))
    seconds = run(replace(task.config, epochs=epochs, min_steps=0)) * schedule.epochs / epochs
    longer = final.steps * final.batch_size / (schedule.steps * schedule.batch_size)
    part = "a complete fit" if epochs == schedule.epochs else f"{epochs}/{schedule.epochs} of a fit"
    note = f"from {part}, for {len(task.grid)} and the final one"
    return seconds * (len(task.grid) + max(1.0, longer)), note


def roofline(context: Context, task: Task, precision: str) -> float | None:
    """Return the seconds that the steps of all fits take at the machine's rates."""
    tokens, width, total = task.data.tokens, task.data.width, 0.0
    for rows, n_fits in ((task.train, len(task.grid)), (task.both, 1)):
        schedule = task.config.schedule(len(rows))
        least = least_seconds(
            context.rates,
            flop=2 * schedule.batch_size * (4 * tokens**2 * width + 12 * width**2),
            precision=precision,
            nbytes=4 * (6 * schedule.batch_size * tokens * width + 56 * width**2),
        )
        if least is None:
            return None
        total += least * schedule.steps * n_fits
    return total

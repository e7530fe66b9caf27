"""A training step of the attentive head against the textbook module and the roofline."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.gpu.context import Context, synchronize
from benchmarks.gpu.rates import least_seconds
from benchmarks.probe import textbook
from benchmarks.step import CLASSES, make_step
from layercache.probing.heads import HeadSpec

TARGET = 10
N_CONFIGS = 63


def measure(context: Context) -> None:
    """Measure every shape: the textbook module, and ours eager, as CUDA graphs and in bf16."""
    shapes = [(4, 16)] if context.tiny else [(24, 768), (24, 384), (48, 1024)]
    rows = 32 if context.tiny else 2048
    count = 3 if context.tiny else N_CONFIGS
    for tokens, width in shapes:
        what = f"{tokens} x {width}"
        if not context.has_time(f"{what}, textbook module"):
            continue
        plain = time_step(textbook_step(tokens, width, rows, context.device), context.device)
        for precision in ("fp32", "bf16"):
            least = least_seconds(
                context.rates,
                flop=2 * rows * (4 * tokens**2 * width + 3 * (4 * width**2 + CLASSES * width)),
                precision=precision,
                nbytes=4 * (6 * rows * tokens * width + 56 * width**2),
            )
            if precision == "fp32":
                context.emit(
                    f"{what}, textbook module, fp32",
                    plain * 1e3,
                    "ms",
                    roofline=least / plain if least else None,
                    note=f"{rows} rows, {CLASSES} classes, 1 configuration",
                )
            # reduce-overhead records CUDA graphs; there are none on a CPU
            for mode in (None, "reduce-overhead") if context.device != "cpu" else (None,):
                label = f"{what}, ours, {precision}{', CUDA graphs' if mode else ''}"
                if not context.has_time(label, kind=str(mode), least=20 if mode else 3):
                    continue
                start = time.monotonic()
                try:
                    step = make_step(
                        tokens=tokens,
                        width=width,
                        rows=rows,
                        n_configs=count,
                        precision=precision,
                        device=context.device,
                        compile_mode=mode,
                    )
                    seconds = time_step(step, context.device) / count
                    context.emit(
                        label,
                        seconds * 1e3,
                        "ms",
                        textbook=plain / seconds,
                        roofline=least / seconds if least else None,
                        target=f"textbook >= {TARGET}",
                        note=f"per configuration of {count}",
                    )
                except Exception as e:
                    context.fail(label, e)
                context.took(str(mode), time.monotonic() - start)


def textbook_step(tokens: int, width: int, rows: int, device: str) -> Callable[[], object]:
    """Return a training step of the textbook module."""
    head = HeadSpec(kind="attentive", tokens=tokens, width=width, classes=CLASSES)
    module = textbook(head, 0.1).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    x = nn.functional.normalize(torch.randn(rows, tokens, width, device=device), dim=-1)
    y = torch.randint(0, CLASSES, (rows,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()

    return step


def time_step(step: Callable[[], object], device: str, *, seconds: float = 1.0) -> float:
    """Return the median seconds of a step, after three that are not timed."""
    for _ in range(3):
        step()
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 3 or (time.monotonic() < end and len(times) < 50):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)

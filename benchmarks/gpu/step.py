"""A training step of the attentive head against the textbook module and the roofline."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.gpu.context import Context, synchronize
from benchmarks.gpu.rates import least_seconds
from benchmarks.one_by_one import textbook
from benchmarks.step import CLASSES, make_step
from layercache.probing.heads import HeadSpec

TARGET = 10
N_CONFIGS = 63
GRAPHS = "reduce-overhead"
"""Mode of torch.compile that records CUDA graphs."""


def measure(context: Context) -> None:
    """Measure every shape: the textbook module, ours eager and, last, as CUDA graphs."""
    shapes = [(4, 16)] if context.tiny else [(24, 768), (24, 384), (48, 1024)]
    plain: dict[tuple[int, int], float] = {}
    for shape in shapes:
        what = f"{shape[0]} x {shape[1]}, textbook module, fp32"
        if context.has_time(what):
            try:
                plain[shape] = measure_textbook(context, what, *shape)
            except Exception as e:
                context.fail(what, e)
        for precision in ("fp32", "bf16"):
            measure_ours(context, *shape, precision=precision, mode=None, plain=plain.get(shape))
    if context.device == "cpu":
        return  # there are no CUDA graphs
    for precision in ("fp32", "bf16"):
        for shape in shapes:
            measure_ours(context, *shape, precision=precision, mode=GRAPHS, plain=plain.get(shape))


def measure_textbook(context: Context, what: str, tokens: int, width: int) -> float:
    """Write and return the seconds of a step of the textbook module."""
    rows = n_rows(context)
    seconds = time_step(textbook_step(tokens, width, rows, context.device), context.device)
    floor = roofline(context, tokens, width, "fp32")
    context.emit(
        what,
        seconds * 1e3,
        "ms",
        roofline=floor / seconds if floor else None,
        note=f"{rows} rows, {CLASSES} classes, 1 configuration",
    )
    return seconds


def measure_ours(
    context: Context,
    tokens: int,
    width: int,
    *,
    precision: str,
    mode: str | None,
    plain: float | None,
) -> None:
    """Write the time of our step per configuration.

    Half as many configurations are trained together where the device has no room for all of them.
    """
    what = f"{tokens} x {width}, ours, {precision}{', CUDA graphs' if mode else ''}"
    if not context.has_time(what, kind=str(mode), least=20 if mode else 3):
        return None
    start = time.monotonic()
    count = 3 if context.tiny else N_CONFIGS
    seconds = None
    while seconds is None:
        try:
            step = make_step(
                tokens=tokens,
                width=width,
                rows=n_rows(context),
                n_configs=count,
                precision=precision,
                device=context.device,
                compile_mode=mode,
            )
            seconds = time_step(step, context.device) / count
        except torch.OutOfMemoryError as e:
            count //= 2
            if count == 0:
                return context.fail(what, e)
        except Exception as e:
            return context.fail(what, e)
        finally:
            step = None
            release_memory(context.device)
    context.took(str(mode), time.monotonic() - start)
    floor = roofline(context, tokens, width, precision)
    context.emit(
        what,
        seconds * 1e3,
        "ms",
        textbook=plain / seconds if plain else None,
        roofline=floor / seconds if floor else None,
        target=f"textbook >= {TARGET}",
        note=f"per configuration of {count}",
    )
    return None


def n_rows(context: Context) -> int:
    """Return the rows of a batch."""
    return 32 if context.tiny else 2048


def roofline(context: Context, tokens: int, width: int, precision: str) -> float | None:
    """Return the seconds of a step per configuration at the machine's rates (see probe.py)."""
    rows = n_rows(context)
    return least_seconds(
        context.rates,
        flop=2 * rows * (4 * tokens**2 * width + 3 * (4 * width**2 + CLASSES * width)),
        precision=precision,
        nbytes=4 * (6 * rows * tokens * width + 56 * width**2),
    )


def release_memory(device: str) -> None:
    """Give the memory of the last step back, and forget what was compiled for it."""
    torch._dynamo.reset()
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


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

"""Time a training step of the attentive head by rows and shape, beside its lower bounds.

    python benchmarks/step.py                    all shapes, 1 and 8 configurations, fp32 and bf16
    python benchmarks/step.py --against DIR      beside the code of another checkout, in turn
    python benchmarks/step.py --cpu-time         processor time of one thread, for a busy machine

The lower bound on arithmetic is counted in benchmarks/probe.py; here it is divided by the rate of a
square float32 matrix product, measured in the same run. That on memory is 7 passes of AdamW over
the 8 D D parameters of a configuration, at the rate of a copy of 256 MiB.

Steps in float32 and in bfloat16 are timed in turn. The last columns say which part of a search by
halving would be saved if all of its stages but the last one ran in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
ROWS = (46, 163, 230, 512, 2048)
SHAPES = ((24, 96), (24, 384), (24, 768), (48, 1024))
CLASSES = 10
PRECISIONS = ("fp32", "bf16")
DISTINCT_CONFIGS = 60
"""Configurations of the paper's grid that halving trains: three equal three others."""
TOTAL_SUMS = 2**26
"""Elements of the weighted sums of a timed call, above which it has fewer configurations."""


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time")
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--shapes", nargs="*", default=[f"{s}x{d}" for s, d in SHAPES])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args)))
        return
    sys.path.insert(0, str(HERE))
    from benchmarks.machine import describe

    print(describe())
    checkouts = {"this": HERE} | ({"other": args.against.resolve()} if args.against else {})
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(args.repeats):
        for name, folder in checkouts.items():
            runs[name].append(run_child(folder, args))
    print_table(runs, args)


def run_child(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return the measurements of a process of its own, with the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    if args.cpu_time:
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", "--rows", *map(str, args.rows)]
    command += ["--shapes", *args.shapes] + (["--cpu-time"] if args.cpu_time else [])
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, cwd="/"
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return milliseconds per configuration and step, and the machine's rates."""
    import torch

    clock = time.process_time if args.cpu_time else time.perf_counter
    square = torch.randn(2048, 2048)
    large = torch.randn(2**26)
    target = torch.empty_like(large)
    rates = {
        "GFLOP/s": 2 * 2048**3 / median(lambda: square @ square, clock=clock) / 1e9,
        "GB/s": 2 * 2**28 / median(lambda: target.copy_(large), clock=clock) / 1e9,
    }
    result = dict(rates)
    for shape in args.shapes:
        tokens, width = map(int, shape.split("x"))
        for rows in args.rows:
            several = max(1, min(8, TOTAL_SUMS // (rows * tokens * width)))
            for name, n_configs in (("1", 1), ("8", several)):
                steps = [
                    make_step(
                        tokens=tokens,
                        width=width,
                        rows=rows,
                        n_configs=n_configs,
                        precision=precision,
                    )
                    for precision in PRECISIONS
                ]
                for precision, seconds in zip(
                    PRECISIONS, medians(*steps, clock=clock), strict=True
                ):
                    result[f"{shape} {rows} {name} {precision}"] = seconds / n_configs * 1e3
    return result


def rung_share() -> float:
    """Return the part of a search by halving that its stages before the last one take."""
    from layercache.probing.search.strategies import RUNGS

    configs, done, before = DISTINCT_CONFIGS, 0.0, 0.0
    for rung in RUNGS:
        before += configs * (rung.epochs - done)
        configs, done = round(rung.kept * configs), rung.epochs
    return before / (before + configs * (1 - done))


def make_step(
    *,
    tokens: int,
    width: int,
    rows: int,
    n_configs: int,
    precision: str,
    device: str = "cpu",
    compile_mode: str | None = None,
) -> Callable[[], object]:
    """Return a training step of some configurations with dropout 0.1.

    `compile_mode` is that of torch.compile for the forward and its gradient, or None.
    """
    import torch

    from layercache.probing.heads import HeadSpec
    from layercache.probing.training.config import HParams, TrainConfig
    from layercache.probing.training.config_batch import ConfigBatch

    batch = ConfigBatch(
        HeadSpec(kind="attentive", tokens=tokens, width=width, classes=CLASSES),
        [HParams(lr=1e-3, weight_decay=1e-4, dropout=0.1)] * n_configs,
        seed=0,
        train_config=TrainConfig(),
        steps=10**6,
        class_weights=None,
        device=torch.device(device),
        precision=precision,
    )
    if compile_mode:
        batch.head.logits = torch.compile(batch.head.logits, mode=compile_mode)
    x = torch.nn.functional.normalize(torch.randn(rows, tokens, width, device=device), dim=-1)
    y = torch.randint(0, CLASSES, (rows,), device=device)
    return lambda: batch.step(x, y, step=0)


def median(call: Callable[[], object], *, clock: Callable[[], float], repeats: int = 5) -> float:
    """Return the median seconds of a call, after one that is not timed."""
    return medians(call, clock=clock, repeats=repeats)[0]


def medians(
    *calls: Callable[[], object], clock: Callable[[], float], repeats: int = 5
) -> list[float]:
    """Return the median seconds of each call; they run in turn, first once without being timed."""
    from layercache.probing.training.freed_memory import retain_freed_memory

    times: list[list[float]] = [[] for _ in calls]
    with retain_freed_memory():  # as in a search
        for call in calls:
            call()
        for _ in range(repeats):
            for call, seconds in zip(calls, times, strict=True):
                start = clock()
                call()
                seconds.append(clock() - start)
    return [statistics.median(seconds) for seconds in times]


def print_table(runs: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """Print medians over the runs, milliseconds per configuration and step."""
    of_runs = {
        name: {key: statistics.median(run[key] for run in parts) for key in parts[0]}
        for name, parts in runs.items()
    }
    this, other = of_runs["this"], of_runs.get("other")
    print(
        f"{this['GFLOP/s']:.0f} GFLOP/s in a square product, {this['GB/s']:.0f} GB/s in a copy; "
        f"ms per configuration, median of {len(runs['this'])} processes"
        f"{', processor time of one thread' if args.cpu_time else ''}\n"
    )
    header = (
        "| tokens x width | rows | 1 configuration | up to 8 | 1, bf16 | up to 8, bf16 "
        "| arithmetic | memory | halving saved, 1 (%) | up to 8 (%) |"
    )
    print(header + (" other code, up to 8 | ratio |" if other else ""))
    print("|---|---|---|---|---|---|---|---|---|---|" + ("---|---|" if other else ""))
    for shape in args.shapes:
        tokens, width = map(int, shape.split("x"))
        for rows in args.rows:
            fp32, bf16 = (
                [this[f"{shape} {rows} {name} {precision}"] for name in ("1", "8")]
                for precision in PRECISIONS
            )
            products = rows * (4 * tokens**2 * width + 3 * (4 * width**2 + CLASSES * width))
            floors = [
                2 * products / this["GFLOP/s"] / 1e6,
                7 * 8 * width**2 * 4 / this["GB/s"] / 1e6,
            ]
            times = " | ".join(f"{t:.1f}" for t in fp32 + bf16 + floors)
            saved = " | ".join(
                f"{100 * rung_share() * (1 - low / full):.0f}"
                for full, low in zip(fp32, bf16, strict=True)
            )
            line = f"| {shape} | {rows} | {times} | {saved} |"
            if other:
                old = other[f"{shape} {rows} 8 fp32"]
                line += f" {old:.1f} | {fp32[1] / old:.2f} |"
            print(line)


if __name__ == "__main__":
    main()

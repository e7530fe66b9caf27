"""Cost and memory of training 63 configurations in groups of several sizes.

    python benchmarks/group_size.py
    python benchmarks/group_size.py --rows 2048 --configurations 16 --sizes 16 8 4

Attentive head at 24 x 768, batches of 46 rows (a dataset of 288 images). Each size is run in a
process of its own, whose peak memory is read at its end; the sizes take turns. The first steps of
each group, which map memory, are not timed. Processor time is given as well as wall-clock time,
because it depends less on other jobs of the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peak_memory import peak_memory

WARM_UP = 2
"""Steps of each group that are not timed."""


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Train all groups of one size; return seconds per step of all of them, and peak bytes."""
    import torch

    from layercache.probing.heads import HeadSpec
    from layercache.probing.training.config import TrainConfig, paper_grid
    from layercache.probing.training.fit import fit
    from layercache.testing import InMemoryTokens

    configs = paper_grid("attentive")[: args.configurations]
    draw = torch.Generator().manual_seed(0)
    data = InMemoryTokens(
        torch.randn(5 * args.rows, 24, args.width, generator=draw),
        torch.randint(0, args.classes, (5 * args.rows,), generator=draw),
    )
    ends: list[tuple[float, float]] = []
    fit(
        data,
        head=HeadSpec(kind="attentive", tokens=24, width=args.width, classes=args.classes),
        configs=configs,
        train=torch.arange(data.rows),
        val=None,
        seed=0,
        train_config=TrainConfig(epochs=args.epochs, min_steps=0),
        configs_per_pass=args.size,
        keep_parameters=False,  # as in a search
        on_progress=lambda *_: ends.append((time.perf_counter(), time.process_time())),
    )
    steps = 5 * args.epochs
    wall = cpu = 0.0
    for first in range(0, len(ends), steps):
        (wall_0, cpu_0), (wall_1, cpu_1) = ends[first + WARM_UP - 1], ends[first + steps - 1]
        wall, cpu = wall + wall_1 - wall_0, cpu + cpu_1 - cpu_0
    return {
        "wall": wall / (steps - WARM_UP),
        "cpu": cpu / (steps - WARM_UP),
        "peak": peak_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[63, 32, 16, 8])
    parser.add_argument("--configurations", type=int, default=63)
    parser.add_argument("--rows", type=int, default=46, help="rows of a batch")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2, help="of 5 steps each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.size:
        print(json.dumps(measure(args)))
        return
    from benchmarks.machine import describe

    print(describe())
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in args.sizes}
    for _ in range(args.rounds):
        for size, results in runs.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--size", str(size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(size, results[-1], file=sys.stderr, flush=True)
    base = runs[args.sizes[0]]
    print(
        f"{args.configurations} configurations, 24 x {args.width}, {args.rows} rows, medians of "
        f"{args.rounds} rounds\n"
        "| group size | ms per step and configuration | ratio of wall-clock time | ratio of "
        "processor time | peak memory (GB) |\n|---|---|---|---|---|"
    )
    for size, results in runs.items():
        step = statistics.median(r["wall"] for r in results) / args.configurations
        wall, cpu = (
            statistics.median(r[k] / b[k] for r, b in zip(results, base, strict=True))
            for k in ("wall", "cpu")
        )
        peak = max(r["peak"] for r in results)
        print(f"| {size} | {step * 1e3:.1f} | {wall:.2f} | {cpu:.2f} | {peak / 1e9:.2f} |")


if __name__ == "__main__":
    main()

"""Time the default search of the attentive head on few samples, beside earlier code and a loop.

    python benchmarks/search_time.py --against DIR [--rows 288] [--steps 100] [--repeats 3]

The 63 configurations on 80 % of the rows, for a part of the 1,000 steps that are the default: full
is all of them in one pass, auto the two passes of `--search coordinate` (9 and 12 configurations).
Each measurement is a process of its own, in turn; --against is another checkout, whose full search
is timed as well. The loop trains the textbook module from a DataLoader, one configuration after the
other (loop (a) of probe.py); a few steps of one configuration are timed, and multiplied. Tokens are
random, since the time does not depend on them; no final fit, no test.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
CLASSES = 10
AUTO = (9, 12)
"""Configurations of the two passes of `--search coordinate` over the default grid."""
LOOP_STEPS = 10


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--rows", type=int, default=288, help="training samples")
    parser.add_argument("--shape", default="24x768", help="tokens x width")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=("full", "auto", "loop"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(measure(args.child, args))
        return
    sys.path.insert(0, str(HERE))
    from benchmarks.machine import describe

    print(describe())
    runs: dict[str, tuple[Path, str]] = {"full": (HERE, "full"), "auto": (HERE, "auto")}
    if args.against:
        runs["full, the other checkout"] = (args.against.resolve(), "full")
    runs["textbook module, one by one"] = (HERE, "loop")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, (folder, what) in runs.items():
            seconds[name].append(run_child(folder, what, args))
    full = statistics.median(seconds["full"])
    auto = statistics.median(seconds["auto"])
    print(f"{args.rows} rows, {args.shape}, {args.steps} steps, medians of {args.repeats} runs")
    print("| search | time (s) | over full | over auto |\n|---|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.1f} | {median / full:.2f} | {median / auto:.2f} |")


def run_child(folder: Path, what: str, args: argparse.Namespace) -> float:
    """Return the seconds of a process of its own, with the code of a checkout."""
    options = ["--rows", args.rows, "--shape", args.shape, "--steps", args.steps]
    command = [sys.executable, __file__, "--child", what, *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True
    )
    return float(result.stdout.split()[-1])


def measure(what: str, args: argparse.Namespace) -> float:
    """Return the seconds of one search."""
    import torch

    from layercache.probing.heads import HeadSpec
    from layercache.probing.training.config import TrainConfig, paper_grid
    from layercache.probing.training.fit import fit
    from layercache.testing import InMemoryTokens

    tokens, width = map(int, args.shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.rows, tokens, width, generator=generator)
    data = InMemoryTokens(x, torch.arange(args.rows) % CLASSES)
    head = HeadSpec(kind="attentive", tokens=tokens, width=width, classes=CLASSES)
    cut = args.rows * 4 // 5
    train, val = torch.arange(cut), torch.arange(cut, args.rows)
    grid = paper_grid("attentive")

    def time_fit(n_configs: int, steps: int) -> float:
        steps_per_epoch = TrainConfig().schedule(cut).steps_per_epoch
        config = TrainConfig(epochs=-(-steps // steps_per_epoch), min_steps=0)
        began = time.perf_counter()
        fit(
            data,
            head=head,
            configs=grid[:n_configs],
            train=train,
            val=val,
            seed=0,
            train_config=config,
        )
        return time.perf_counter() - began

    if what == "loop":
        return len(grid) * args.steps * time_loop(data, head, train)
    time_fit(1, 1)
    return sum(time_fit(n, args.steps) for n in (AUTO if what == "auto" else (len(grid),)))


def time_loop(data: object, head: object, train: object) -> float:
    """Return the seconds of one step of loop (a)."""
    sys.path.insert(0, str(HERE))
    from benchmarks.one_by_one import from_loader, one_by_one
    from layercache.probing.training.config import TrainConfig, paper_grid

    def run(epochs: int) -> tuple[float, int]:
        config = TrainConfig(epochs=epochs, min_steps=0)
        began = time.perf_counter()
        one_by_one(
            from_loader,
            data,  # type: ignore[arg-type]
            head=head,  # type: ignore[arg-type]
            config=paper_grid("attentive")[0],
            rows=train,  # type: ignore[arg-type]
            seed=0,
            train_config=config,
        )
        return time.perf_counter() - began, config.schedule(len(train)).steps  # type: ignore[arg-type]

    run(1)
    seconds, steps = run(-(-LOOP_STEPS // run(1)[1]))
    return seconds / steps


if __name__ == "__main__":
    main()

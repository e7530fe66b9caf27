"""Time the default search of the attentive head on few samples, beside earlier code and a loop.

    python benchmarks/search_time.py --against DIR [--rows 288] [--steps 100] [--repeats 3]

Times are those of `layercache.probe` on a cache of random tokens: 63 configurations on 80 % of the
rows for a part of the 1,000 steps that are the default, final fit and test; auto is `--search
coordinate`, which trains 12 to 14 of them. Some seconds are spent once, whatever the number of
steps, so ratios of few steps understate the difference. Each measurement is a process of its own,
in turn; --against is another checkout, whose full search is timed as well. The loop trains the
textbook module from a DataLoader, one configuration after the other (loop (a) of probe.py); a few
steps of one configuration are timed, and multiplied.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
CLASSES = 10
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
    """Return the seconds of one probe, or of the loop."""
    import numpy as np
    import torch

    import layercache
    from layercache.probing.heads import HeadSpec
    from layercache.probing.training.config import TrainConfig, paper_grid
    from layercache.testing import InMemoryTokens, write_cache

    tokens, width = map(int, args.shape.split("x"))
    rows = {"train": args.rows, "test": CLASSES}
    labels = {split: np.arange(n) % CLASSES for split, n in rows.items()}
    n_fitted = args.rows * 4 // 5
    if what == "loop":
        x = torch.randn(args.rows, tokens, width, generator=torch.Generator().manual_seed(0))
        head = HeadSpec(kind="attentive", tokens=tokens, width=width, classes=CLASSES)
        data = InMemoryTokens(x, torch.from_numpy(labels["train"]))
        return (
            len(paper_grid("attentive"))
            * args.steps
            * time_loop(data, head, torch.arange(n_fitted))
        )
    draw = np.random.default_rng(0)
    x_ltnd = {
        split: draw.standard_normal((tokens // 2, 2, n, width), np.float32).astype(np.float16)
        for split, n in rows.items()
    }
    options: dict[str, Any] = {"search": "coordinate"} if what == "auto" else {}
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(x_ltnd, labels, root=Path(folder))

        def time_probe(steps: int, **more: Any) -> float:
            epochs = -(-steps // TrainConfig().schedule(n_fitted).steps_per_epoch)
            began = time.perf_counter()
            layercache.probe(
                cache,
                head="attentive",
                train_config=TrainConfig(epochs=epochs, min_steps=0),
                device="cpu",
                progress=False,
                **options,
                **more,
            )
            return time.perf_counter() - began

        time_probe(1, configs=paper_grid("attentive")[:1])
        return time_probe(args.steps)


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

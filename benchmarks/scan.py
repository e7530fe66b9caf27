"""Measure `layercache scan` against the limits of the machine.

Writes a cache of random tokens with a weak class signal, scans it, and prints for each stage its
time next to its floor: the operations that it counts, at the rates that large products and Cholesky
decompositions in single precision reach in the same run, and its bytes at the rate of a plain read
of the same files. Of a symmetric product half is counted.

    python benchmarks/scan.py [--rows 40000 --test 10000] [--layers 12 --width 768] [--classes 10]

On a shared machine compare the ratios, of processor time on one thread, to which other load adds
least: OMP_NUM_THREADS=1 python benchmarks/scan.py --clock processor
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe

import layercache
from layercache import testing
from layercache.probing.closed_form import cholesky
from layercache.probing.closed_form.blocked_cholesky import decompose
from layercache.probing.scan import rows as scan_rows
from layercache.probing.scan import runner
from layercache.probing.scan.plan import ScanPlan, plan_scan

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
KINDS = ("cls", "ap")
STAGES = {
    "read": "read the training split, products of tokens",
    "search": "select the settings",
    "refit": "fit to all training rows",
    "test": "read the test split, outputs",
}


def make_tokens(rows: int, *, layers: int, width: int, y: np.ndarray) -> np.ndarray:
    """Return tokens (L, T, N, D), float16: noise around a common mean, a little by class."""
    generator = np.random.default_rng(0)
    base = generator.standard_normal((4096 + layers * len(KINDS), width), dtype=np.float32)
    centers = 0.08 * generator.standard_normal((int(y.max()) + 1, width), dtype=np.float32)
    x = np.empty((layers, len(KINDS), rows, width), np.float16)
    for layer in range(layers):
        for kind in range(len(KINDS)):
            order = generator.integers(0, 4096, rows)
            noise = base[order] + 0.5 * base[generator.permutation(order)]
            x[layer, kind] = noise + 1.0 + centers[y] * (layer + 1) / layers
    return x


def best_of(function: Callable[[], Any], clock: Clock, *, times: int) -> float:
    """Return the shortest duration of a call."""
    durations = []
    for _ in range(times):
        began = clock()
        function()
        durations.append(clock() - began)
    return min(durations)


def product_rate(width: int, clock: Clock) -> float:
    """Return the operations per second of X' X in single precision."""
    x = torch.randn(2048, width)
    return 2 * 2048 * width**2 / best_of(lambda: x.t() @ x, clock, times=20)


def cholesky_rate(size: int, clock: Clock) -> float:
    """Return the operations per second of the faster Cholesky decomposition: torch's or ours."""
    matrix = torch.rand(size, size)
    matrix = matrix + matrix.t()
    matrix.diagonal().add_(size)
    theirs = best_of(lambda: torch.linalg.cholesky(matrix), clock, times=5)
    ours = best_of(lambda: decompose(matrix.clone()), clock, times=5)
    return size**3 / 3 / min(theirs, ours)


def read_rate(folder: Path, clock: Clock) -> float:
    """Return the bytes per second of a plain read of the cache's files into one buffer."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    size = max(file.stat().st_size for file in files)
    buffer = bytearray(size)

    def read() -> None:
        for file in files:
            with file.open("rb", buffering=0) as stream:
                stream.readinto(buffer)

    return sum(file.stat().st_size for file in files) / best_of(read, clock, times=2)


def product_operations(plan: ScanPlan, rows: int) -> float:
    """Return the operations of the products of `rows` rows: each pair of features once."""
    pairs = {
        (s, t)
        for subset in plan.subsets
        if not plan.in_samples(subset)
        for s in subset.tokens
        for t in subset.tokens
        if s <= t
    }
    return sum((1.0 if s == t else 2.0) * rows * plan.width**2 for s, t in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--subsets", help="as in layercache scan")
    args = parser.parse_args()
    print(f"{describe()}; {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        labels = {
            split: np.arange(n) % args.classes
            for split, n in (("train", args.rows), ("test", args.test))
        }
        tokens = {
            split: make_tokens(len(y), layers=args.layers, width=args.width, y=y)
            for split, y in labels.items()
        }
        cache = testing.write_cache(tokens, labels, root=Path(folder), classes=args.classes)
        del tokens
        measure(cache, subsets=args.subsets, clock=CLOCKS[args.clock])


def measure(cache: layercache.Cache, *, subsets: str | None, clock: Clock) -> None:
    """Scan a cache and print the table."""
    train, test = cache.split("train").rows, cache.split("test").rows
    plan = plan_scan(cache, rows=train, subsets=subsets)
    seconds: dict[str, float] = {}
    solved: dict[str, list[int]] = defaultdict(list)
    stage = [""]

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            stage[0] = name
            began = clock()
            result = method(*values, **options)
            seconds[name] = clock() - began
            return result

        return call

    solve = cholesky.ShiftedMatrix.solve

    def count(self: cholesky.ShiftedMatrix, *values: Any, **options: Any) -> Any:
        solved[stage[0]].append(len(self.matrix))
        return solve(self, *values, **options)

    cholesky.ShiftedMatrix.solve = count
    for name in STAGES:
        setattr(runner.Scanner, name, timed(name, getattr(runner.Scanner, name)))
    product = product_rate(plan.width, clock)
    read = read_rate(Path(str(cache.path)), clock)
    sizes = {min(len(s.tokens) * plan.width, train) for s in plan.subsets}
    rates = {size: cholesky_rate(size, clock) for size in sizes}
    began = clock()
    layercache.scan(cache, subsets=subsets)
    whole = clock() - began
    product = max(product, product_rate(plan.width, clock))
    rows = scan_rows.split_rows(cache.split("train").labels, seed=0)
    row_bytes = 2 * len(plan.pairs) * plan.width
    width = len(plan.pairs) * plan.width
    single = {
        "read": product_operations(plan, len(rows.train)),
        "search": 2.0 * len(rows.queries) * len(rows.references) * width,
        "refit": product_operations(plan, len(rows.val)),
        "test": 2.0 * test * len(rows.references) * width,
    }
    single["read"] += sample_operations(plan, train)
    read_bytes = {"read": train * row_bytes, "test": test * row_bytes}
    print(f"{train} + {test} rows, {len(plan.pairs)} tokens x {plan.width}")
    print(
        f"products {product / 1e9:.0f} GFLOP/s, decompositions "
        + ", ".join(f"{rate / 1e9:.0f} at {size}" for size, rate in sorted(rates.items()))
        + f", in single precision; read {read / 1e9:.1f} GB/s\n"
    )
    print(
        "| stage | products (GFLOP) | decompositions (GFLOP) | read (GB) | floor (s) | time (s) |"
    )
    print("|---|---|---|---|---|---|")
    floors = {}
    for name, words in STAGES.items():
        operations = {n: n**3 / 3 for n in set(solved[name])}
        decompositions = sum(operations[n] for n in solved[name])
        nearest = {n: min(rates, key=lambda size, n=n: abs(size - n)) for n in operations}
        floors[name] = (
            single[name] / product
            + sum(operations[n] / rates[nearest[n]] for n in solved[name])
            + read_bytes.get(name, 0) / read
        )
        print(
            f"| {words} | {single[name] / 1e9:.0f} | {decompositions / 1e9:.0f} "
            f"| {read_bytes.get(name, 0) / 1e9:.2f} | {floors[name]:.1f} | {seconds[name]:.1f} |"
        )
    floor = sum(floors.values())
    print(f"| whole scan | | | | {floor:.1f} | {whole:.1f} |")
    print(f"\ntime over floor: {whole / floor:.2f}; {describe()}")


def sample_operations(plan: ScanPlan, rows: int) -> float:
    """Return the operations of the products of samples, in subsets of more features than rows."""
    tokens = {s for subset in plan.subsets if plan.in_samples(subset) for s in subset.tokens}
    return 1.0 * len(tokens) * plan.width * rows**2


if __name__ == "__main__":
    main()

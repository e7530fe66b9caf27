"""Compare a shuffled epoch over features larger than the memory budget with cold disk reads.

Writes a synthetic cache larger than the budget (a ViT-B: 12 layers x {CLS, AP} x 768). Before each
pass the files are dropped from the page cache. The passes run in turn, several times:

    disk     the files read front to back by two threads of preadv into touched buffers, and by
             four threads, which is what an epoch uses
    stored   the reads of a shuffled epoch, window by window, with the data discarded
    epoch    a shuffled epoch of normalised batches, as used in evaluation or noise-free training
    noisy    the same with the paper's feature noise, which adds arithmetic but no reads

Prints medians, and the peak memory above that at the start.

    python benchmarks/stream.py [--gigabytes 4] [--budget 400MB] [--rounds 3]
                                [--device cuda] [--folder /mnt/disk]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from machine import describe

from layercache._units import format_bytes, parse_bytes
from layercache.cache import Cache, open_cache
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens
from layercache.probing.training.config import Noise
from layercache.testing import make_spec, make_writer, write_labels

LAYERS, KINDS, WIDTH, BATCH = 12, ("cls", "ap"), 768, 2048
CHUNK = 8 * 2**20


def write(root: Path, gigabytes: float) -> Cache:
    """Write a cache of random tokens of about the given size."""
    rows = int(gigabytes * 1e9 / (LAYERS * len(KINDS) * WIDTH * 2))
    layers = tuple(range(1, LAYERS + 1))
    spec = make_spec(rows, depth=LAYERS, width=WIDTH, layers=layers, tokens=KINDS)
    rng = np.random.default_rng(0)
    with make_writer(root, spec) as writer:
        for block in writer.pending:
            n = min(writer.block_rows, rows - block * writer.block_rows)
            x_ltnd = rng.standard_normal((LAYERS, len(KINDS), n, WIDTH), dtype=np.float32)
            writer.write(block, x_ltnd.astype(np.float16))
        writer.finish()
    labels = {"train": np.arange(rows, dtype=np.int64) % 2}
    write_labels(writer.path, spec, labels, classes=("a", "b"))
    return open_cache(writer.path)


def files_of(cache: Cache) -> list[Path]:
    """List the token shards of the train split."""
    return sorted(
        (
            p
            for p in (cache.path / "train.zarr" / "tokens").rglob("*")
            if p.is_file() and p.suffix != ".json"
        ),
        key=str,
    )


def drop(files: list[Path]) -> None:
    """Drop files from the page cache, so that the next read comes from the disk."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_plainly(files: list[Path], *, threads: int) -> int:
    """Read every byte, each thread into its own buffer of touched memory; return the byte count."""
    buffers = threading.local()

    def read(file: Path) -> int:
        if not hasattr(buffers, "own"):
            buffers.own = bytearray(CHUNK)
        fd, at = os.open(file, os.O_RDONLY), 0
        try:
            while n := os.preadv(fd, [buffers.own], at):
                at += n
        finally:
            os.close(fd)
        return at

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(read, files))


class Peak:
    """Peak resident size of the process above that at the start, sampled every 5 ms."""

    def __enter__(self) -> Peak:
        self.start, self.most, self._stop = _resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, _resident() - self.start)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--budget", default="400MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="folder on the disk to measure; default: the temporary folder",
    )
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="layercache-stream-", dir=given.folder))
    try:
        cache = write(folder, given.gigabytes)
        measure(
            cache,
            budget=parse_bytes(given.budget, name="budget"),
            rounds=given.rounds,
            device=torch.device(given.device),
        )
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Passes:
    """What `time_passes` measured."""

    seconds: dict[str, float]
    """Median of each pass."""
    peaks: dict[str, int]
    """Peak memory of each pass above that at the start, bytes."""
    nbytes: int
    """Size of the files."""
    n_files: int
    shape: tuple[int, int]
    """Images, tokens of an image."""
    window_rows: int


def time_passes(cache: Cache, *, budget: int, rounds: int, device: torch.device) -> Passes:
    """Time every pass over the cache, in turn."""
    files, split = files_of(cache), cache.split("train")
    size = sum(file.stat().st_size for file in files)
    pairs = tuple((layer, token) for layer in cache.spec.layers for token in cache.spec.tokens)
    features = StreamedTokens(
        SplitSelection((TokenSource(split, pairs),), np.arange(split.rows)),
        device=device,
        memory_budget=budget,
    )
    rows = np.arange(split.rows)

    def stored(number: int) -> None:
        for _ in features.iter_stored(rows, order=torch.Generator().manual_seed(number)):
            pass

    def epoch(number: int, noise: Noise | None = None) -> None:
        for x, _ in features.iter_batches(
            rows, batch_size=BATCH, seed=0, epoch=number, noise=noise, train=True
        ):
            assert x.shape[1:] == (len(pairs), WIDTH)
        if device.type == "cuda":
            torch.cuda.synchronize()

    passes = {
        "disk": lambda number: read_plainly(files, threads=2),
        "disk, four threads": lambda number: read_plainly(files, threads=4),
        "stored": stored,
        "epoch": epoch,
        "noisy": lambda number: epoch(number, Noise()),
    }
    # Warm up: torch's one-time initialisation must not count as part of an epoch.
    next(iter(features.iter_batches(rows[:8], batch_size=8, noise=Noise(), train=True)))
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    peaks: dict[str, int] = dict.fromkeys(passes, 0)
    for number in range(rounds):
        for name, run in passes.items():
            drop(files)
            with Peak() as peak:
                start = time.perf_counter()
                run(number)
                seconds[name].append(time.perf_counter() - start)
            peaks[name] = max(peaks[name], peak.most)
    return Passes(
        {name: statistics.median(values) for name, values in seconds.items()},
        peaks,
        size,
        len(files),
        (split.rows, len(pairs)),
        features.window_rows,
    )


def measure(cache: Cache, *, budget: int, rounds: int, device: torch.device) -> None:
    """Time every pass over the cache and print the table."""
    passes = time_passes(cache, budget=budget, rounds=rounds, device=device)
    n_rows, n_tokens = passes.shape
    print(f"{describe()}\n")
    print(
        f"{format_bytes(passes.nbytes)} in {passes.n_files} files: {n_rows} images x {n_tokens} "
        f"tokens x {WIDTH}; page cache dropped before every pass."
    )
    batch = format_bytes(BATCH * n_tokens * WIDTH * (2 + 4))
    print(
        f"Memory budget {format_bytes(budget)}: two windows of {passes.window_rows} images; a "
        f"batch of {BATCH} images, stored and normalised, takes another {batch}."
    )
    print(f"Medians of {rounds} rounds.\n")
    print(
        "| pass | time (s) | MB/s | ratio to disk, two threads | ratio to disk, four threads "
        "| peak memory |\n|---|--:|--:|--:|--:|--:|"
    )
    for name, value in passes.seconds.items():
        over = " | ".join(
            f"{passes.seconds[disk] / value:.2f}" for disk in ("disk", "disk, four threads")
        )
        print(
            f"| {name} | {value:.2f} | {passes.nbytes / value / 1e6:.0f} | {over} "
            f"| {format_bytes(passes.peaks[name])} |"
        )


if __name__ == "__main__":
    main()

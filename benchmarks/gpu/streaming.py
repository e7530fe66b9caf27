"""Reads from the page cache and a shuffled epoch from disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cache as reads
import stream
import torch

from benchmarks.gpu.context import Context
from layercache._units import parse_bytes


def measure(context: Context) -> None:
    """Measure verified reads with and without the interpreter's lock, and streamed epochs."""
    with tempfile.TemporaryDirectory(prefix="layercache-bench-") as folder:
        try:
            read_cached(context, Path(folder) / "read")
        except Exception as e:
            context.fail("reads from the page cache", e)
        if context.has_time("streamed epochs", least=15):
            stream_epochs(context, Path(folder) / "stream")


def read_cached(context: Context, folder: Path) -> None:
    """Write the rate of every read of cache.py over plain reads of the same bytes."""
    rows, repeats = (1024, 1) if context.tiny else (12_288, 5)
    medians, size = reads.bench_reads(folder, rows=rows, repeats=repeats, device=context.device)
    base = "two threads of preadv"
    rate = size[base] / medians[base] / 1e9
    for name, seconds in medians.items():
        if not name.startswith("zarr"):
            value = size[name] / seconds / 1e9
            context.emit(f"cached, {name}", value, "GB/s", roofline=value / rate)


def stream_epochs(context: Context, folder: Path) -> None:
    """Write the rate of every pass of stream.py over that of the disk."""
    folder.mkdir()
    cache = stream.write(folder, 0.05 if context.tiny else 2)
    passes = stream.time_passes(
        cache,
        budget=parse_bytes("40MB" if context.tiny else "400MB", name="budget"),
        rounds=1 if context.tiny else 2,
        device=torch.device(context.device),
    )
    for name, seconds in passes.seconds.items():
        context.emit(
            f"from disk, {name}",
            passes.nbytes / seconds / 1e9,
            "GB/s",
            roofline=passes.seconds["disk"] / seconds,
            target="roofline >= 0.8" if name == "epoch" else "",
            note=f"peak memory {passes.peaks[name] / 2**20:.0f} MiB",
        )

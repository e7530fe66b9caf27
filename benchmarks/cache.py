"""Compare the cache's write and read rates with plain files and with zarr.

    python benchmarks/cache.py [--rows N] [--folder DIR] [--device cuda]

The token array is that of a ViT-B (12 layers x {CLS, AP} x 768, float16). All variants run in turn,
`--repeats` times, on the same bytes; medians are printed. Files are read from the page cache, as
after an extraction on the same machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from machine import describe

from layercache.cache import (
    CacheSpec,
    DatasetIdentity,
    SplitIdentity,
    SplitWriter,
    digest_ids,
    open_cache,
    select_pairs,
)
from layercache.cache.format import crc32c
from layercache.cache.format.layout import SplitLayout
from layercache.cache.reading.chunks import VERIFIED
from layercache.cache.reading.page_aligned import PAGE_BYTES, empty_page_aligned

ONE = (6, "ap")


def make_spec(rows: int) -> tuple[CacheSpec, list[str]]:
    """Return the spec and ids of a ViT-B cache with one split of the given size."""
    ids = [str(i) for i in range(rows)]
    identity = SplitIdentity(rows=rows, ids=digest_ids(ids), content="bytes:")
    dataset = DatasetIdentity(
        name="bench",
        limit=None,
        limit_seed=0,
        splits={"train": identity},
    )
    spec = CacheSpec(
        model="vit_b16",
        architecture="vit_base_patch16_224",
        weights="",
        depth=12,
        width=768,
        tap="norm2",
        layers=tuple(range(1, 13)),
        tokens=("cls", "ap"),
        projected=False,
        preprocessing={},
        precision="fp32",
        storage_dtype="float16",
        dataset=dataset,
    )  # fmt: skip
    return spec, ids


def in_turn(repeats: int, calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return each call's median seconds, without the first (warm-up) round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s[1:]) for name, s in seconds.items()}


def plain_read(files: list[Path], flat: np.ndarray, *, threads: int) -> None:
    """Read the same bytes, file by file, with preadv into a given buffer.

    This is the upper limit for reads from the page cache on this machine.
    """
    size = flat.nbytes // len(files)

    def one(i: int) -> None:
        fd = os.open(files[i], os.O_RDONLY)
        done = 0
        while done < size:
            done += os.preadv(fd, [flat[i * size + done : (i + 1) * size]], done)
        os.close(fd)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(files))))


def bench_reads(
    folder: Path, *, rows: int, repeats: int, device: str
) -> tuple[dict[str, float], dict[str, int]]:
    """Return the median seconds and the bytes of each kind of read."""
    spec, ids = make_spec(rows)
    block = (
        np.random.default_rng(0)
        .standard_normal((12, 2, SplitLayout(spec, "train").block_rows, 768), dtype=np.float32)
        .astype(np.float16)
    )
    with SplitWriter(folder, spec, "train", ids=ids) as writer:
        for b in writer.pending:
            writer.write(b, block)
        writer.finish()
    split = open_cache(writer.path).split("train")
    pairs = select_pairs(spec, layers="all", tokens="cls+ap")
    if device == "cpu":
        out = empty_page_aligned((24, rows, 768), np.dtype(np.float16))
        out[:] = 0  # touched
    else:
        import torch

        pinned = torch.zeros((24, rows, 768), dtype=torch.float16, pin_memory=True)
        out = pinned.numpy()
    memory = np.zeros(out.nbytes + 2 * PAGE_BYTES, np.uint8)
    start = -memory.ctypes.data % PAGE_BYTES + 64
    shifted = memory[start : start + out.nbytes].view(out.dtype).reshape(out.shape)
    flat, one = out.reshape(-1).view(np.uint8), out[0].copy()[None]
    lay = SplitLayout(spec, "train")
    files = [writer.path / lay.shard(b) for b in range(lay.blocks)]

    def checked() -> None:
        VERIFIED.clear()
        split.read(pairs, out=out)

    def checked_by(extend: Callable[[int, int, int], int] | None) -> Callable[[], None]:
        def read() -> None:
            chosen, crc32c._EXTEND = crc32c._EXTEND, extend
            checked()
            crc32c._EXTEND = chosen

        return read

    def one_checked() -> None:
        VERIFIED.clear()
        split.read([ONE], out=one)

    calls: dict[str, Callable[[], object]] = {
        "two threads of preadv": lambda: plain_read(files, flat, threads=2),
        "full read": lambda: split.read(pairs, out=out, verify=False),
        "full read into a buffer 64 bytes after a page's beginning": lambda: split.read(
            pairs, out=shifted, verify=False
        ),
        "full read, all checksums verified": checked,
        "the same, with the interpreter's lock held": checked_by(None),
        "the same, with the lock released": checked_by(crc32c._find_extend()),
        "one layer and token": lambda: split.read([ONE], out=one, verify=False),
        "one layer and token, checksums verified": one_checked,
    }
    if device != "cpu":

        def to_device() -> None:
            split.read(pairs, out=out, verify=False)
            pinned.to(device, non_blocking=True)
            torch.cuda.synchronize()

        calls[f"full read and copy to {device}"] = to_device
    medians = in_turn(repeats, calls)
    import zarr

    some = min(rows, 4096)  # zarr is so slow that all rows would take seconds
    array = zarr.open_array(writer.path / lay.group / "tokens", mode="r")
    naive = zarr.create_array(folder / "naive.zarr", shape=(12, 2, some, 768), dtype=array.dtype)
    naive[...] = array[:, :, :some]
    slow: dict[str, Callable[[], object]] = {
        f"zarr, the same files, {some} rows": lambda: array[:, :, :some],
        f"zarr, default layout, {some} rows": lambda: naive[...],
        f"zarr, default layout, one layer and token, {some} rows": lambda: naive[5, 1],
    }
    size = {name: out.nbytes // 24 if name.startswith("one ") else out.nbytes for name in medians}
    size |= dict(
        zip(
            slow,
            (out.nbytes * some // rows, out.nbytes * some // rows, out.nbytes * some // rows // 24),
            strict=True,
        )
    )
    return medians | in_turn(2, slow), size


def bench_writes(
    folder: Path, *, repeats: int, compressor: str | None
) -> tuple[dict[str, float], int]:
    """Return the median seconds and the bytes of writing a row block in several ways.

    A committed block is checked, checksummed, synced, renamed and recorded; tofile only leaves the
    bytes in the page cache.
    """
    spec, ids = make_spec(512 * 3 * (repeats + 1))
    block = (
        np.random.default_rng(0)
        .standard_normal((12, 2, 512, 768), dtype=np.float32)
        .astype(np.float16)
    )

    def synced() -> None:
        with (folder / "plain").open("wb") as file:
            block.tofile(file)
            os.fsync(file.fileno())

    with SplitWriter(folder, spec, "train", ids=ids, compressor=compressor) as writer:
        pending = iter(writer.pending)

        def two() -> None:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda b: writer.write(b, block), [next(pending), next(pending)]))

        medians = in_turn(
            repeats,
            {
                "ndarray.tofile": lambda: block.tofile(folder / "plain"),
                "tofile and fsync": synced,
                "write": lambda: writer.write(next(pending), block),
                "write, two at a time": two,
            },
        )
        medians["write, two at a time"] /= 2
    return medians, block.nbytes


def table(
    title: str, medians: dict[str, float], size: dict[str, int], base: str, targets: dict[str, str]
) -> None:
    """Print time, rate, and the ratio of each rate to that of `base`."""
    print(
        f"\n| {title} | time (ms) | rate (GB/s) | ratio to {base} | target |\n|---|---|---|---|---|"
    )
    for name, seconds in medians.items():
        rate, of = size[name] / seconds / 1e9, size[name] / seconds / (size[base] / medians[base])
        print(f"| {name} | {seconds * 1e3:.1f} | {rate:.2f} | {of:.2f} | {targets.get(name, '')} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=24576)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="folder to write to; default: the temporary folder",
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(describe())
    folder = Path(tempfile.mkdtemp(prefix="layercache-bench-", dir=options.folder))
    try:
        medians, size = bench_reads(
            folder / "read", rows=options.rows, repeats=options.repeats, device=options.device
        )
        targets = {"full read": ">= 0.9", "full read, all checksums verified": ">= 0.55"}
        table(
            f"read {size['full read'] / 1e6:.0f} MB",
            medians,
            size,
            "two threads of preadv",
            targets,
        )
        ratio = 24 * medians["one layer and token"] / medians["full read"]
        print(f"\none layer and token takes {ratio:.2f} / (L T) of a full read (target <= 1.3)")
        shutil.rmtree(folder / "read")
        medians, block = bench_writes(folder, repeats=options.repeats, compressor=None)
        table(
            f"write a row block of {block / 1e6:.0f} MB",
            medians,
            dict.fromkeys(medians, block),
            "ndarray.tofile",
            {"write": ">= 0.25"},
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

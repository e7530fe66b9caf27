"""Measure how the cost per row grows with the number of rows, up to millions of images.

    python benchmarks/scale.py [--sets 128000:100 1281167:1000 14197122:21841] [--width 8]
                               [--folder /mnt/disk]    14 million rows need 5.5 GB of disk
    python benchmarks/scale.py --objects moto --sets 128000:100 1281167:1000
                                                       on a local S3 server

The caches have the true number of rows, ids, labels, row blocks and records, but narrow synthetic
tokens. Row blocks hold as many rows as those of a ViT-B (12 layers x {CLS, AP} x 768, float16), and
the tokens pass through the project's own writer and reader. Every step runs in its own process and
reports its time and peak memory; the process that writes the first half is killed at its end.

The cost per row should not grow with the number of rows. The last column is the ratio of the cost
per row in the largest set to that in the second largest; 1 is ideal.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe as machine
from benchmarks.peak_memory import peak_memory
from benchmarks.vit_b_spec import KINDS, LAYERS, SPLIT, WIDTH, make_spec, narrow
from layercache.cache import (
    Cache,
    CacheSpec,
    SplitWriter,
    digest_ids,
    open_cache,
)
from layercache.cache.describe import describe
from layercache.cache.format import layout
from layercache.cache.remove import remove
from layercache.cache.storage.paths import CachePath, as_cache_path
from layercache.cache.verify import verify
from layercache.testing import write_labels
from tests.objects import server


class Steps:
    """Operations on the cache, one method per process.

    Each method yields the name of a part when that part is finished; an empty name marks untimed
    preparation.
    """

    def __init__(self, root: CachePath, rows: int, classes: int, width: int) -> None:
        self.root, self.rows, self.classes, self.width = root, rows, classes, width
        self.pickled = Path(tempfile.gettempdir()) / f"layercache-scale-{os.getppid()}.pickle"

    def samples(self) -> tuple[list[str], np.ndarray[Any, Any], CacheSpec]:
        """Return ImageNet-like ids, labels, and the spec with their digests."""
        labels = np.arange(self.rows, dtype=np.int64) % self.classes
        ids = [f"n{c:08d}/n{c:08d}_{i}.JPEG" for i, c in enumerate(labels.tolist())]
        return (
            ids,
            labels,
            make_spec(
                self.rows,
                self.width,
                ids=digest_ids(ids),
            ),
        )

    def names(self) -> list[str]:
        return [f"class {c}" for c in range(self.classes)]

    def cache(self) -> Cache:
        return open_cache(root=self.root, dataset=f"made_up_{self.rows}")

    def imports(self) -> Iterator[str]:
        yield "imports only"

    def identity(self) -> Iterator[str]:
        self.samples()
        yield "generate ids, digest ids"

    def sent(self) -> Iterator[str]:
        from layercache.extraction.datasets.image_files import FileSamples

        ids, labels, _ = self.samples()
        yield ""
        self.pickled.write_bytes(
            pickle.dumps(FileSamples("/images", ids, labels), pickle.HIGHEST_PROTOCOL)
        )
        yield "pickle the samples for a decoding process"

    def received(self) -> Iterator[str]:
        from layercache.extraction.datasets.image_files import FileSamples

        samples: FileSamples = pickle.loads(self.pickled.read_bytes())
        assert len(samples.ids) == self.rows
        self.pickled.unlink()
        yield "unpickle them in a decoding process"

    def write(self) -> Iterator[str]:
        ids, labels, spec = self.samples()
        yield ""
        with SplitWriter(self.root, spec, SPLIT, ids=ids) as writer:
            write_labels(writer.path, spec, {SPLIT: labels}, classes=self.names())
            yield "begin a split"
            blocks = writer.pending[: len(writer.pending) // 2]
            self.fill(writer, blocks)
            yield f"write the first half ({len(blocks)} row blocks), killed at its end"
            os.kill(os.getpid(), signal.SIGKILL)

    def resume(self) -> Iterator[str]:
        ids, _, spec = self.samples()
        yield ""
        with SplitWriter(self.root, spec, SPLIT, ids=ids) as writer:
            yield "resume (half of the records exist)"
            self.fill(writer, writer.pending)
            yield "write the second half"
            writer.finish()
            yield "finish the split"

    def again(self) -> Iterator[str]:
        ids, _, spec = self.samples()
        yield ""
        with SplitWriter(self.root, spec, SPLIT, ids=ids) as writer:
            assert writer.complete
        yield "extract again when complete"

    def opened(self) -> Iterator[str]:
        split = self.cache().split(SPLIT)
        yield "open a split"
        assert len(split.labels) == self.rows
        yield "read labels"

    def ids(self) -> Iterator[str]:
        split = self.cache().split(SPLIT)
        yield ""
        assert len(split.ids) == self.rows
        yield "read ids"

    def progress(self) -> Iterator[str]:
        cache = self.cache()
        yield ""
        done, blocks = cache.progress(SPLIT)
        assert done == blocks
        yield "read progress"

    def info(self) -> Iterator[str]:
        cache = self.cache()
        yield ""
        assert describe(cache)["splits"][SPLIT]["complete"]
        yield "cache info, cache ls"

    def verified(self) -> Iterator[str]:
        cache = self.cache()
        yield ""
        assert not verify(cache)
        yield "cache verify"

    def folds(self) -> Iterator[str]:
        from layercache.probing.splits.stratified_split import folds

        labels = self.cache().split(SPLIT).labels
        yield ""
        [fold] = folds(labels, np.arange(self.rows), shots=None, seed=0)
        assert len(fold.train) + len(fold.val) == self.rows
        yield "stratified validation split"

    def epoch(self) -> Iterator[str]:
        import torch

        from layercache.probing.data.split_selection import SplitSelection, TokenSource
        from layercache.probing.data.streaming import StreamedTokens

        split = self.cache().split(SPLIT)
        pairs = tuple((layer, kind) for layer in split.spec.layers for kind in KINDS)
        yield ""
        features = StreamedTokens(
            SplitSelection((TokenSource(split, pairs),), np.arange(split.rows)),
            device=torch.device("cpu"),
            memory_budget=400 * 10**6,
        )
        yield "open streamed features, 400 MB"
        for number in range(2):
            assert (
                sum(
                    len(y)
                    for _, y in features.iter_batches(
                        np.arange(split.rows), batch_size=2048, epoch=number, train=True
                    )
                )
                == self.rows
            )
            yield f"shuffled epoch, {'checksums verified' if number == 0 else 'second pass'}"

    def removed(self) -> Iterator[str]:
        cache = self.cache()
        yield ""
        remove(cache)
        yield "cache rm"

    def fill(self, writer: SplitWriter, blocks: tuple[int, ...]) -> None:
        """Write the same random tokens to every block."""
        tokens = (
            np.random.default_rng(0)
            .standard_normal((LAYERS, len(KINDS), writer.block_rows, self.width), np.float32)
            .astype(np.float16)
        )
        for block in blocks:
            writer.write(
                block, tokens[:, :, : min(writer.block_rows, self.rows - block * writer.block_rows)]
            )


STEPS = (
    "imports",
    "identity",
    "sent",
    "received",
    "write",
    "resume",
    "again",
    "opened",
    "ids",
    "progress",
    "info",
    "verified",
    "folds",
    "epoch",
    "removed",
)


def run(steps: Steps, name: str) -> None:
    """Run one step in this process and print one line of JSON per part."""
    narrow(steps.width)
    parts = getattr(steps, name)()
    begin = time.perf_counter()
    for what in parts:
        seconds = time.perf_counter() - begin
        peak = peak_memory()
        if what:
            print(
                json.dumps(
                    {
                        "what": what.split(" (")[0] if "row blocks" in what else what,
                        "seconds": seconds,
                        "peak": peak,
                    }
                ),
                flush=True,
            )
        begin = time.perf_counter()


@contextmanager
def root_in(where: Path | None, objects: str | None) -> Iterator[str]:
    """Provide a temporary cache root in a folder or on a local object-storage server."""
    folder = Path(tempfile.mkdtemp(prefix="layercache-scale-", dir=where))
    try:
        if objects is None:
            yield str(folder)
        else:
            with server.running(objects, folder) as running:
                os.environ |= server.environment(running)
                yield f"s3://{server.BUCKET}"
    finally:
        shutil.rmtree(folder)


def measure(
    root: str, rows: int, classes: int, width: int, *, note: Callable[[str], None]
) -> dict[str, tuple[float, float]]:
    """Run every step in its own process; return part name -> (seconds, peak bytes)."""
    found = {}
    for name in STEPS:
        command = [
            sys.executable,
            __file__,
            "--step",
            name,
            "--sets",
            f"{rows}:{classes}",
            "--width",
            str(width),
            "--root",
            root,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, -signal.SIGKILL if name == "write" else 0):
            raise SystemExit(done.stderr)
        for line in done.stdout.splitlines():
            part = json.loads(line)
            found[part["what"]] = (part["seconds"], part["peak"])
            note(
                f"{rows} rows: {part['what']}: {part['seconds']:.2f} s, "
                f"peak {part['peak'] / 1e6:.0f} MB"
            )
    return found


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def rows_and_classes(text: str) -> tuple[int, int]:
    rows, classes = text.split(":")
    return int(rows), int(classes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sets",
        type=rows_and_classes,
        nargs="+",
        default=[(128_000, 100), (1_281_167, 1000), (14_197_122, 21_841)],
    )
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="folder on the disk to measure; default: the temporary folder",
    )
    parser.add_argument(
        "--objects",
        choices=["moto", "swift"],
        default=None,
        help="use object storage on this local server instead of a folder",
    )
    parser.add_argument("--step", choices=STEPS, default=None, help="internal: run this step only")
    parser.add_argument("--root", default=None, help="internal: cache root of --step")
    given = parser.parse_args()
    if given.step:
        run(Steps(as_cache_path(given.root), *given.sets[0], given.width), given.step)
        return
    with root_in(given.folder, given.objects) as root:
        found = {
            rows: measure(root, rows, classes, given.width, note=progress)
            for rows, classes in sorted(given.sets)
        }
    blocks = {rows: -(-rows // layout.block_rows(make_spec(rows, WIDTH), rows)) for rows in found}
    print(f"{machine()}\n")
    print(
        "| step | "
        + " | ".join(f"{n:,} rows, {blocks[n]:,} row blocks: time (s), peak (MB)" for n in found)
        + " | growth of time per row |"
    )
    print("|---|" + "--:|" * (len(found) + 1))
    for what in found[max(found)]:
        cells = [
            f"{seconds:.2f}, {peak / 1e6:.0f}" for seconds, peak in (found[n][what] for n in found)
        ]
        last = sorted(found)[-2:]
        growth = found[last[-1]][what][0] / last[-1] / (found[last[0]][what][0] / last[0])
        print(f"| {what} | {' | '.join(cells)} | {growth:.2f} |")


if __name__ == "__main__":
    main()

"""A program that kills one extraction of every source in the middle, and continues it.

`python -m tests.extraction.models.conformance.killing NAME...` prints a JSON line per source: its
name, and what became of it. A fork per run keeps it fast; nothing here starts a thread before.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from layercache.cache.format import layout
from layercache.extraction.api import extract
from layercache.extraction.pipeline import async_writer
from tests.extraction.fakes import Pictures, dataset, tree
from tests.extraction.killing import Killer
from tests.extraction.models.conformance.sources import SOURCES


def run(name: str, folder: Path, at: int | None) -> NoReturn:
    """Extract a source below a folder; die before the disk's operation number `at`."""
    source = SOURCES[name]()
    (folder / "model").mkdir(parents=True, exist_ok=True)
    model, options = source.save(source.build(), folder / "model")
    killer = Killer(folder / "caches", at)
    layout.MAX_SHARD_BYTES = 4096
    async_writer.SAVE_INTERVAL_S = 0  # the first rows of a block are saved after every batch
    model_name = model if isinstance(model, str) else model.name
    done = extract(
        models=[model],
        weights={model_name: options["weights"]} if options else {},
        dataset=dataset({"train": Pictures(22), "test": Pictures(9, first=1000)}),
        tokens="ap",
        tap="block",
        cache=folder / "caches",
        batch_size=4,
        workers=0,
        device="cpu",
        progress=False,
    )
    images = sum(extraction.images for extraction in done)
    os.write(1, json.dumps({"operations": killer.count, "images": images}).encode())
    os._exit(0)


def forked(name: str, folder: Path, at: int | None) -> tuple[int, dict[str, Any]]:
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.dup2(write, 1)
        run(name, folder, at)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.loads(text or "{}")


def main(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        # one folder for both: an address is recorded with its path
        here = folder / name
        code, whole = forked(name, here, None)
        assert code == 0, name
        expected = tree(here / "caches")
        (here / "caches").rename(folder / f"{name}-whole")
        killed, _ = forked(name, here, whole["operations"] * 2 // 3)
        continued, again = forked(name, here, None)
        files = tree(here / "caches")
        result = {
            "killed": killed,
            "continued": continued,
            "whole": whole["images"],
            "images": again.get("images"),
            "differ": sorted(
                key for key in files.keys() | expected if files.get(key) != expected.get(key)
            ),
        }
        print(json.dumps([name, result]), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="layercache-tests-") as temporary:
        main(Path(temporary), sys.argv[1:])

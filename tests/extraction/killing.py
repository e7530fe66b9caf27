"""A program that kills extractions at every operation on the disk, and continues them.

`python -m tests.extraction.killing FOLDER STRIDE`: one undisturbed run, then for every STRIDE-th
operation a run that dies just before it (a write dies half way through), and one that continues.
Prints one JSON line per kill: the operation, the exit codes, whether the bytes are those of the
undisturbed run, how many images the continuation did. A fork per run keeps it fast; nothing here
starts a thread before.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from layercache.cache.format import layout
from layercache.extraction import plan
from layercache.extraction.api import extract
from layercache.extraction.pipeline import async_writer
from tests.extraction.fakes import FakeBackbone, Pictures, dataset, tree

DIED = 9
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killer:
    """Ends the process at operation number `at` below `folder`; counts them all."""

    def __init__(self, folder: Path, at: int | None) -> None:
        self.folder, self.at, self.count = str(folder), at, 0
        self.lock = threading.RLock()
        self.writev, self.fsync = os.writev, os.fsync
        sys.addaudithook(self.hook)
        os.writev, os.fsync = self.half, self.synced

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (
            event == "open" and isinstance(args[2], int) and args[2] & WRITES
        )
        if changes and any(
            isinstance(a, str | os.PathLike) and os.fspath(a).startswith(self.folder) for a in args
        ):
            self.step(event)

    def half(self, fd: int, parts: Any) -> int:
        def write() -> None:
            first = memoryview(parts[0]).cast("B")
            os.write(fd, first[: len(first) // 2])

        self.step("writev", write)
        return self.writev(fd, parts)

    def synced(self, fd: int) -> None:
        self.step("fsync")
        self.fsync(fd)

    def step(self, event: str, last_words: Callable[[], object] = lambda: None) -> None:
        with self.lock:
            if self.count == self.at:
                last_words()
                os.write(1, json.dumps({"died": event}).encode())
                os._exit(DIED)
            self.count += 1


def run(folder: Path, at: int | None) -> NoReturn:
    killer = Killer(folder, at)
    layout.MAX_SHARD_BYTES = 512
    async_writer.SAVE_INTERVAL_S = 0  # the first rows of a block are saved after every batch
    plan.describe_model = lambda name, **_: None  # type: ignore[assignment,return-value]
    plan.load_encoder = lambda name, **_: FakeBackbone(name=name, weights_digest=name[0] * 64)  # type: ignore[assignment]
    splits = {"train": Pictures(22, broken=frozenset({3})), "test": Pictures(9, first=1000)}
    done = extract(
        models=["a", "b"],
        dataset=dataset(splits),
        cache=folder,
        batch_size=5,
        workers=0,
        on_error="skip",
        progress=False,
    )
    os.write(
        1, json.dumps({"operations": killer.count, "images": sum(e.images for e in done)}).encode()
    )
    os._exit(0)


def forked(folder: Path, at: int | None) -> tuple[int, dict[str, Any]]:
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.dup2(write, 1)
        run(folder, at)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.loads(text or "{}")


def contents(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of every file; in a lock, a killed process leaves its name behind."""
    return {path: b"" if path.endswith(".lock") else data for path, data in tree(folder).items()}


def main(folder: Path, stride: int, start: int = 0) -> None:
    code, whole = forked(folder / "whole", None)
    assert code == 0
    right = contents(folder / "whole")
    print(json.dumps(whole), flush=True)
    for at in range(start, whole["operations"], stride):
        here = folder / "cut"
        killed, words = forked(here, at)
        code, again = forked(here, None)
        files = contents(here)
        same = files == right
        words["differ"] = sorted(
            key for key in files.keys() | right.keys() if files.get(key) != right.get(key)
        )
        print(
            json.dumps(
                {
                    "at": at,
                    "killed": killed,
                    "continued": code,
                    "same": same,
                    "images": again.get("images"),
                    **words,
                }
            ),
            flush=True,
        )
        shutil.rmtree(here)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))

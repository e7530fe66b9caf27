"""The program of a decoding process.

A fresh interpreter on one end of a socket: neither a fork (unsafe beside torch's threads) nor multiprocessing's spawn (which imports
the caller's main module again). It ends when the socket does, so it never outlives its parent. Imports neither torch nor timm, unless
the samples do.

Messages in: a Setup, then per split a Split, then Tasks. Messages out: a Done per Task, or a Broken and the end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline.decode_rows import Transform, decode_rows
from layercache.extraction.pipeline.shared_memory import Shape, views

PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from layercache.extraction.pipeline.decode_worker import main; main()"
"""For `python -c`; arguments: the parent's sys.path as JSON, the number of the socket."""


@dataclass(frozen=True)
class Setup:
    """Where to write, and how politely to run."""

    ring: int
    """File descriptor of the shared memory."""
    slots: int
    """Slots of the ring."""
    rows: int
    """Rows of one slot."""
    shapes: tuple[Shape, ...]
    """What each transform gives."""
    nice: int
    """Added to the process's niceness."""


@dataclass(frozen=True)
class Split:
    """What the coming tasks are about."""

    samples: Samples
    transforms: Sequence[Transform]
    """As many as the setup has shapes."""


@dataclass(frozen=True)
class Task:
    """Decode rows start..stop-1 into a slot."""

    slot: int
    """Number of the slot."""
    offset: int
    """Where row `start` goes in the slot."""
    start: int
    stop: int


@dataclass(frozen=True)
class Done:
    """A task's end."""

    task: Task
    failed: dict[int, str]
    """row -> reason, see work.decode_rows."""
    seconds: float
    """Wall time of the task."""


@dataclass(frozen=True)
class WorkerFailure:
    """The worker cannot go on."""

    text: str
    """Its traceback."""


def serve(pipe: Connection) -> None:
    """Work until the parent closes the pipe (EOFError)."""
    setup: Setup = pipe.recv()
    os.nice(setup.nice)
    slots = views(setup.ring, slots=setup.slots, rows=setup.rows, shapes=setup.shapes)
    split: Split | None = None
    while True:
        message: Split | Task = pipe.recv()
        if isinstance(message, Split):
            split = message
            continue
        assert split is not None
        began = time.perf_counter()
        rows = slice(message.offset, message.offset + message.stop - message.start)
        failed = decode_rows(
            split.samples,
            split.transforms,
            [part[rows] for part in slots[message.slot]],
            message.start,
            message.stop,
        )
        pipe.send(Done(message, failed, time.perf_counter() - began))


def main() -> None:
    """Serve the socket whose number is the second argument."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    pipe = Connection(int(sys.argv[2]))
    try:
        serve(pipe)
    except (EOFError, ConnectionError):
        pass  # the parent is done, or gone
    except Exception:
        pipe.send(WorkerFailure(traceback.format_exc()))

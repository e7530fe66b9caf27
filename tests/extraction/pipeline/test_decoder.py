from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from layercache.errors import WorkerError
from layercache.extraction.pipeline.decode import RowRange
from layercache.extraction.pipeline.decoder import Decoder, ThreadDecoder
from layercache.extraction.pipeline.process_decoder import ProcessDecoder
from tests.extraction.fakes import LARGE, SIDE, SMALL, Pictures, image

SHAPES = [(3, SIDE, SIDE), (3, 9, 9)]
CHUNKS = [
    RowRange(0, 10),
    RowRange(10, 13),
    RowRange(13, 23),
    RowRange(40, 50),
    RowRange(50, 53),
]


@pytest.fixture(params=["thread", "processes"])
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    made = (
        ThreadDecoder(shapes=SHAPES, rows=10)
        if request.param == "thread"
        else ProcessDecoder(workers=2, shapes=SHAPES, rows=10, slots=2)
    )
    yield made
    made.close()


def test_decoder_yields_chunks_in_order_with_every_transform_of_every_row(decoder: Decoder) -> None:
    for first in (0, 200):  # two splits, one decoder
        samples = Pictures(60, first=first, broken=frozenset({11, 52}))
        with closing(decoder.run(samples, [SMALL, LARGE], CHUNKS)) as run:
            seen = []
            for got in run:
                seen.append(got.rows)
                for k, transform in enumerate([SMALL, LARGE]):
                    assert got.pixels[k].shape == (got.rows.rows, *SHAPES[k])
                    for row in range(*got.rows):
                        right = (
                            np.zeros(SHAPES[k])
                            if row in samples.broken
                            else transform.resize_and_crop(Image.fromarray(image(first + row)))
                        )
                        assert np.array_equal(got.pixels[k][row - got.rows.start], right)
                assert set(got.failures) == samples.broken & set(range(*got.rows))
                assert all(samples.ids[row] in text for row, text in got.failures.items())
                got.release()
        assert seen == CHUNKS
    assert decoder.busy_seconds > 0


def test_decoder_runs_ahead_by_no_more_than_its_slots(decoder: Decoder, tmp_path: object) -> None:
    log = f"{tmp_path}/log"
    with closing(
        decoder.run(
            Pictures(1000, log=log),
            [SMALL, LARGE],
            [RowRange(i, i + 10) for i in range(0, 1000, 10)],
        )
    ) as run:
        next(run)
        time.sleep(0.3)
        with open(log) as f:
            assert len(f.readlines()) <= 30


def loaded(modules: str) -> str:
    """What a fresh process has imported after the worker's module."""
    code = f"""import sys
import layercache.extraction.pipeline.process_decoder
import layercache.extraction.models.preprocessing.transform
print([m for m in {modules} if m in sys.modules])"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_process_decoder_worker_imports_neither_torch_nor_timm() -> None:
    assert loaded("['torch', 'timm', 'torchvision', 'PIL']") == "['PIL']"


def consume(decoder: Decoder, samples: Pictures) -> None:
    for got in decoder.run(samples, [SMALL, LARGE], CHUNKS):
        got.release()


def fail(make: Callable[[], ProcessDecoder], samples: Pictures) -> str:
    decoder = make()
    try:
        with pytest.raises(WorkerError) as error:
            consume(decoder, samples)
        return str(error.value)
    finally:
        decoder.close()


def test_process_decoder_with_a_killed_worker_names_its_signal_and_samples() -> None:
    text = fail(
        lambda: ProcessDecoder(workers=2, shapes=SHAPES, rows=10),
        Pictures(60, deadly=frozenset({45})),
    )
    assert "was killed by SIGKILL (out of memory?)" in text
    assert "between samples 'pic/00" in text
    assert "the same command continues" in text


class Exhausting(Pictures):
    """Needs more memory than there is for one image."""

    def load(self, row: int) -> Image.Image:
        if row == 12:
            raise MemoryError
        return super().load(row)


def test_decoder_without_memory_raises_with_the_sample(decoder: Decoder) -> None:
    with pytest.raises(WorkerError, match=r"sample 'pic/0012': the memory did not suffice") as info:
        consume(decoder, Exhausting(60))
    assert "Traceback" not in str(info.value)


class Unloadable(Pictures):
    """Arrives in no worker."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return getattr, ("layercache", "nothing_of_this_name")


def test_process_decoder_with_samples_that_cannot_be_loaded_shows_the_traceback() -> None:
    text = fail(lambda: ProcessDecoder(workers=1, shapes=SHAPES, rows=10), Unloadable(60))
    assert "nothing_of_this_name" in text
    assert "workers=0 decodes in this process" in text


def test_process_decoder_workers_end_with_their_parent() -> None:
    code = (
        "import os, sys\nsys.path[:0] = [os.getcwd()]\n"
        "from layercache.extraction.pipeline.process_decoder import ProcessDecoder\n"
        "from layercache.extraction.pipeline.decode import RowRange\n"
        "from tests.extraction.fakes import SMALL, Pictures\n"
        "decoder = ProcessDecoder(workers=2, shapes=[(3, 6, 6)], rows=4)\n"
        "next(decoder.run(Pictures(8), [SMALL], [RowRange(0, 4), RowRange(4, 8)]))\n"
        "print(*decoder.process_ids, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    deadline = time.monotonic() + 10
    while workers and time.monotonic() < deadline:
        workers = [pid for pid in workers if alive(pid)]
        time.sleep(0.02)
    assert not workers


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_thread_decoder_raises_what_its_thread_raised() -> None:
    class Broken(Pictures):
        @property
        def ids(self) -> list[str]:
            raise RuntimeError("no ids today")

    decoder = ThreadDecoder(shapes=SHAPES, rows=10)
    with pytest.raises(RuntimeError, match="no ids today"):
        list(decoder.run(Broken(60, broken=frozenset({0})), [SMALL, LARGE], CHUNKS))
    decoder.close()

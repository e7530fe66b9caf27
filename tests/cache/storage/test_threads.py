from __future__ import annotations

import threading

import pytest

from layercache._devices import available_cores
from layercache.cache.storage.threads import in_threads


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_in_threads_does_every_job_once(threads: int) -> None:
    done: list[int] = []
    in_threads(done.append, range(1000), threads=threads)
    assert sorted(done) == list(range(1000))


def test_in_threads_runs_jobs_concurrently() -> None:
    barrier = threading.Barrier(3, timeout=10)  # breaks, unless three jobs wait at once
    in_threads(lambda _: barrier.wait(), range(3), threads=3)


def test_in_threads_after_a_failure_begins_no_job_and_raises_it() -> None:
    begun: list[int] = []

    def work(job: int) -> None:
        begun.append(job)
        if job == 5:
            raise ValueError("the fifth")

    with pytest.raises(ValueError, match="the fifth"):
        in_threads(work, range(10_000), threads=2)
    assert len(begun) < 10_000


def test_there_is_a_core() -> None:
    assert available_cores() >= 1

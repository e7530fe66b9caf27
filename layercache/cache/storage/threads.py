"""A few threads for many short jobs.

This is cheaper than a pool with a future per job, which a read of a megabyte would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock, Thread
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_threads(work: Callable[[Job], object], jobs: Sequence[Job], *, threads: int) -> None:
    """Run `work` on every job, in this thread and `threads` - 1 others.

    Raises the first exception, after the jobs then under way have ended.
    """
    lock = Lock()
    queue: Iterator[Job] = iter(jobs)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not failures:
                with lock:
                    job = next(queue, None)
                if job is None:
                    return
                work(job)
        except BaseException as e:
            failures.append(e)

    others = [Thread(target=run) for _ in range(min(threads, len(jobs)) - 1)]
    for thread in others:
        thread.start()
    run()
    for thread in others:
        thread.join()
    if failures:
        raise failures[0]


def map_threads(
    work: Callable[[Job], Result], jobs: Sequence[Job], *, threads: int
) -> list[Result]:
    """Return the results of `work` in the order of the jobs; see `in_threads`."""
    results: dict[int, Result] = {}
    in_threads(lambda i: results.__setitem__(i, work(jobs[i])), range(len(jobs)), threads=threads)
    return [results[i] for i in range(len(jobs))]

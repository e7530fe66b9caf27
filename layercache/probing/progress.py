"""Progress bars of a run of probes: one for each fit where they run one after the other, one over all tasks where they run side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layercache.engine import Progress
from layercache.probing.spec import ProbeSpec


class ProgressDisplay:
    """Shows progress while a context of it lasts; does nothing where it is not to show."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: Any = None
        self._many = False
        self._parts: dict[Any, float] = {}

    @contextmanager
    def one(self, text: str) -> Iterator[None]:
        """A bar over the steps of a search, then over those of the final fit."""
        with self._open(
            desc=text, unit="step", leave=False, mininterval=0.5, dynamic_ncols=True, disable=None
        ):
            yield

    @contextmanager
    def many(self, tasks: int) -> Iterator[None]:
        """A bar over so many tasks, each by its part that is done."""
        self._many, self._parts = True, {}
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        with self._open(
            total=tasks,
            desc=f"{tasks} fits",
            bar_format=layout,
            leave=False,
            mininterval=0.5,
            dynamic_ncols=True,
            disable=None,
        ):
            yield

    def on_progress(self, task: Any, message: Progress) -> None:
        """So much of a task is done."""
        if self._bar is None:
            return
        if self._many:
            self._parts[task] = max(
                self._parts.get(task, 0.0), message.done / max(message.total, 1)
            )
            self._bar.update(min(sum(self._parts.values()), self._bar.total) - self._bar.n)
            return
        if self._bar.total != message.total or message.done < self._bar.n:
            self._bar.reset(message.total)
        self._bar.update(message.done - self._bar.n)

    def task_done(self, task: Any) -> None:
        """A task is done, whatever was heard of it."""
        if self._many:
            self.on_progress(task, Progress(1, 1))

    @contextmanager
    def _open(self, **options: Any) -> Iterator[None]:
        if not self._show:
            yield
            return
        from tqdm import tqdm

        with tqdm(**options) as self._bar:
            yield
        self._bar = None


def describe(spec: ProbeSpec) -> str:
    """A probe in a few words, for people who watch."""
    parts = [
        spec.head,
        spec.tokens.layers,
        spec.tokens.kinds,
        spec.tokens.spatial,
        f"seed {spec.seed}",
    ]
    if spec.shots is not None:
        parts.append(f"{spec.shots} shots")
    if spec.train_fraction is not None:
        parts.append(f"{100 * spec.train_fraction:g} % of train")
    return " ".join(part for part in parts if part)

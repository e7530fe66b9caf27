"""Progress bars of a run of probes, and a probe in a few words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layercache._progress import progress_bar
from layercache.engine import Progress
from layercache.probing.spec import ProbeSpec


class ProgressDisplay:
    """One bar per fit if probes are trained one after another, else one bar over all tasks."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: Any = None
        self._fractions: dict[Any, float] | None = None

    @contextmanager
    def one_probe(self, text: str) -> Iterator[None]:
        """Show a bar over the steps of the search, then over those of the refit."""
        with self._open(desc=text, unit="step"):
            yield

    @contextmanager
    def many_tasks(self, count: int) -> Iterator[None]:
        """Show a bar over this many tasks, each of which counts by the fraction that is done."""
        self._fractions = {}
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        with self._open(total=count, desc=f"{count} fits", bar_format=layout):
            yield

    def on_progress(self, task: Any, message: Progress) -> None:
        """Show how much of a task is done."""
        if self._bar is None:
            return
        if self._fractions is not None:
            fraction = message.done / max(message.total, 1)
            self._fractions[task] = max(self._fractions.get(task, 0.0), fraction)
            done = min(sum(self._fractions.values()), self._bar.total)
            self._bar.update(done - self._bar.n)
            return
        if self._bar.total != message.total or message.done < self._bar.n:
            self._bar.reset(message.total)
        self._bar.update(message.done - self._bar.n)

    def on_done(self, task: Any) -> None:
        """Show that a task is done, even if its last progress message was lost."""
        if self._fractions is not None:
            self.on_progress(task, Progress(1, 1))

    @contextmanager
    def _open(self, **options: Any) -> Iterator[None]:
        with progress_bar(show=self._show, leave=False, mininterval=0.5, **options) as self._bar:
            yield
        self._bar, self._fractions = None, None


def describe(spec: ProbeSpec) -> str:
    """Return a probe in a few words, for logs and progress bars."""
    tokens = spec.tokens
    parts = [spec.head, tokens.layers, tokens.kinds, tokens.spatial, f"seed {spec.seed}"]
    if spec.shots is not None:
        parts.append(f"{spec.shots} shots")
    if spec.train_fraction is not None:
        parts.append(f"{100 * spec.train_fraction:g} % of train")
    return " ".join(part for part in parts if part)

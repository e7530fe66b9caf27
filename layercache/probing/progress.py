"""Progress of a run of probes, as bars or in the log, and a probe in a few words."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layercache._progress import progress_bar
from layercache._units import format_duration
from layercache.engine import Progress
from layercache.probing.spec import ProbeSpec

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 60.0
"""Seconds between two lines of the log, where no bar is shown."""


class ProgressDisplay:
    """One bar per fit if probes are trained one after another, else one bar over all tasks.

    If there is no terminal for a bar, a line is logged every minute.
    """

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: Any = None
        self._fractions: dict[Any, float] | None = None
        self._log = _ProgressLog("")

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
            self._update(done, self._bar.total)
            return
        if self._bar.total != message.total or message.done < self._bar.n:
            self._bar.reset(message.total)
            # steps of an earlier run say nothing about the rate
            self._bar.initial = self._bar.n = message.done - 1
            self._log.restart()
        self._update(message.done, message.total)

    def on_done(self, task: Any) -> None:
        """Show that a task is done, even if its last progress message was lost."""
        if self._fractions is not None:
            self.on_progress(task, Progress(1, 1))

    def _update(self, done: float, total: float) -> None:
        if self._bar.disable:
            self._bar.n = done
            self._log.update(done, total)
        else:
            self._bar.update(done - self._bar.n)

    @contextmanager
    def _open(self, *, desc: str, **options: Any) -> Iterator[None]:
        self._log = _ProgressLog(desc)
        with progress_bar(
            show=self._show, desc=desc, leave=False, mininterval=0.5, **options
        ) as self._bar:
            yield
        self._bar, self._fractions = None, None


class _ProgressLog:
    """Logs progress every LOG_INTERVAL_S."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.restart()

    def restart(self) -> None:
        """Measure the rate anew."""
        self._first: tuple[float, float] | None = None
        self._logged_at = time.monotonic()

    def update(self, done: float, total: float) -> None:
        """Log a line if the last one is long enough ago."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        if now - self._logged_at < LOG_INTERVAL_S:
            return
        self._logged_at = now
        started_at, started = self._first
        left = ""
        if done > started:
            seconds = (total - done) * (now - started_at) / (done - started)
            left = f", about {format_duration(seconds)} left"
        logger.info("%s: %.0f %% trained%s", self._text, 100 * done / total, left)


def describe(spec: ProbeSpec) -> str:
    """Return a probe in a few words, for logs and progress bars."""
    tokens = spec.tokens
    parts = [spec.head, tokens.layers, tokens.kinds, tokens.spatial, f"seed {spec.seed}"]
    if spec.shots is not None:
        parts.append(f"{spec.shots} shots")
    if spec.train_fraction is not None:
        parts.append(f"{100 * spec.train_fraction:g} % of train")
    return " ".join(part for part in parts if part)

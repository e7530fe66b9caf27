"""Progress of a run of probes, as bars or in the log, and a probe in a few words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layercache._progress import ProgressBar
from layercache._units import format_duration
from layercache.engine import Progress
from layercache.probing.spec import ProbeSpec

logger = logging.getLogger(__name__)

TIMED_S = 5.0
"""Seconds of training after which its duration is estimated."""
LONG_S = 600.0
"""Estimated duration from which the log names faster ways."""
FASTER_WAYS = (
    "faster: layercache scan (closed form, every layer), --head linear, --search halving or "
    "coordinate, --fraction 0.1, fewer values for --lr, --weight-decay and --dropout, or a GPU "
    "(--device cuda)"
)


class ProgressDisplay:
    """One bar per fit if probes are trained one after another, else one bar over all tasks.

    If there is no terminal for a bar, lines are logged.
    """

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: ProgressBar | None = None
        self._text = ""
        self._fractions: dict[Any, float] | None = None
        self._estimated = True
        self._named_faster_ways = False

    @contextmanager
    def one_probe(self, text: str) -> Iterator[None]:
        """Show the steps of the search, then those of the refit."""
        self._text, self._estimated = text, False
        with self._open(unit="steps", mininterval=0.5):
            yield

    @contextmanager
    def many_tasks(self, count: int) -> Iterator[None]:
        """Show this many tasks, each of which counts by the fraction that is done."""
        self._text, self._fractions = f"{count} fits", {}
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
        with self._open(total=count, bar_format=layout, mininterval=0.5):
            yield

    @property
    def estimated(self) -> bool:
        """True if no more estimate of the duration will be logged."""
        return self._estimated

    def on_progress(self, task: Any, message: Progress, *, work_left: float = 1.0) -> None:
        """Show how much of a task is done.

        Args:
            task: The task.
            message: How much is done.
            work_left: Remaining work of the search at the start of the task, in units of the task.
        """
        bar = self._bar
        if bar is None:
            return
        if self._fractions is not None:
            fraction = message.done / max(message.total, 1)
            self._fractions[task] = max(self._fractions.get(task, 0.0), fraction)
            bar.move_to(min(sum(self._fractions.values()), bar.total or 0))
            return
        if bar.total != message.total or message.done < bar.done:
            # steps of an earlier run, and the first step, are no measure of the rate
            bar.restart(message.total, done=message.done)
            return
        bar.move_to(message.done)
        self._estimate(bar, work_left)

    def on_done(self, task: Any) -> None:
        """Show that a task is done, even if its last progress message was lost."""
        if self._fractions is not None:
            self.on_progress(task, Progress(1, 1))

    def add_tasks(self, count: int) -> None:
        """Show more tasks than before, where they are shown as one bar."""
        if self._bar is not None and self._fractions is not None:
            self._bar.extend(count)

    def set_note(self, text: str) -> None:
        """Show a remark after the progress, such as the best score so far."""
        if self._bar is not None:
            self._bar.note = text

    def _estimate(self, bar: ProgressBar, work_left: float) -> None:
        """Log how long the search will take, once some steps have been timed."""
        if self._estimated or bar.seconds < TIMED_S or (left := bar.seconds_left) is None:
            return
        self._estimated = True
        steps = f"{(bar.total or 0) - bar.done:,.0f}"
        work = f"{steps} more steps"
        if work_left > 1:
            left *= work_left
            work += " and the rest of the search"
        logger.info("%s: about %s for %s", self._text, format_duration(left), work)
        if left > LONG_S and not self._named_faster_ways:
            self._named_faster_ways = True
            logger.info(FASTER_WAYS)

    @contextmanager
    def _open(self, **options: Any) -> Iterator[None]:
        with ProgressBar(self._text, show=self._show, leave=False, **options) as self._bar:
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
    if spec.target is not None:
        parts.append(f"for {spec.target.name}")
    return " ".join(part for part in parts if part)

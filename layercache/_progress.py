"""Progress of long work: a bar on stderr if that is a terminal, else lines in the log."""

from __future__ import annotations

import logging
import time
from typing import Any, Self

from layercache._printable import escape_control
from layercache._units import format_bytes, format_duration

LOG_INTERVAL_S = 30.0
"""Seconds between two lines of the log, where no bar is shown."""

logger = logging.getLogger(__name__)


def terminal_bar(*, show: bool = True, **options: Any) -> Any:
    """Return a bar of tqdm that is shown if stderr is a terminal; a context manager.

    Args:
        show: False never shows it.
        **options: Options of `tqdm.tqdm`, such as total, desc and unit.
    """
    from tqdm import tqdm

    if "desc" in options:
        options["desc"] = escape_control(options["desc"])
    return tqdm(disable=None if show else True, dynamic_ncols=True, **options)


class ProgressBar:
    """Progress of some work, as a context manager.

    Without a terminal, a line is logged every 30 seconds: what, how much, rate and time left.
    """

    def __init__(
        self,
        text: str,
        *,
        unit: str = "",
        total: float | None = None,
        done: float = 0,
        show: bool = True,
        **options: Any,
    ) -> None:
        """Start at `done`.

        Args:
            text: Name of the work.
            unit: What is counted, in the plural, such as "images"; "B" for bytes; "" where the
                numbers say nothing.
            total: How much there is, if that is known.
            done: How much was done before; it does not count for the rate.
            show: False shows no bar, also on a terminal.
            **options: Other options of `tqdm.tqdm`.
        """
        if unit == "B":
            options |= {"unit_scale": True}
        self._bar = terminal_bar(
            show=show, desc=text, total=total, initial=done, unit=f" {unit}".rstrip(), **options
        )
        self._text, self._unit = text, unit
        self.note = ""
        """Remark at the end of a line, such as the best result so far."""
        self.restart(total, done=done)

    @property
    def done(self) -> float:
        """Amount that is done."""
        return self._done

    @property
    def total(self) -> float | None:
        """Amount in all; None if it is not known."""
        return self._total

    @property
    def seconds(self) -> float:
        """Seconds since the start or the last `restart`."""
        return time.monotonic() - self._started_at

    @property
    def seconds_left(self) -> float | None:
        """Seconds left at the rate so far, or None if that is not known."""
        if self._total is None or self._done <= self._started:
            return None
        return (self._total - self._done) * self.seconds / (self._done - self._started)

    def restart(self, total: float | None, *, done: float = 0) -> None:
        """Begin anew with another total; the rate is measured from here."""
        self._total, self._done, self._started = total, done, done
        self._started_at = self._logged_at = time.monotonic()
        if not self._bar.disable:
            self._bar.reset(total)
            self._bar.initial = self._bar.n = done

    def extend(self, amount: float) -> None:
        """Add to how much there is."""
        self._total = (self._total or 0) + amount
        if not self._bar.disable:
            self._bar.total = self._total

    def advance(self, amount: float) -> None:
        """Count some more as done."""
        self.move_to(self._done + amount)

    def move_to(self, done: float) -> None:
        """Set how much is done."""
        previous, self._done = self._done, done
        if not self._bar.disable:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(done - previous)
            return
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            logger.info("%s: %s", self._text, self._describe())

    def _describe(self) -> str:
        """Return how much is done, in words."""
        parts = []
        if self._unit:
            rate = (self._done - self._started) / self.seconds
            parts += [self._describe_amount(), f"{self._count(rate)}/s"]
        if self._total:
            parts.insert(0, f"{100 * self._done / self._total:.0f} %")
        if (left := self.seconds_left) is not None:
            parts.append(f"about {format_duration(left)} left")
        return ", ".join(parts) + (f"; {self.note}" if self.note else "")

    def _describe_amount(self) -> str:
        if not self._total:
            return self._count(self._done)
        if self._unit == "B":
            return f"{format_bytes(self._done)} of {format_bytes(self._total)}"
        return f"{self._done:,.0f} of {self._total:,.0f} {self._unit}"

    def _count(self, number: float) -> str:
        if self._unit == "B":
            return format_bytes(number)
        return f"{number:.1f} {self._unit}" if number < 10 else f"{number:,.0f} {self._unit}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

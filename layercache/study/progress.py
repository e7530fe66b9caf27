"""Progress bar of a study, over all jobs, weighed by their estimated duration."""

from __future__ import annotations

import sys
from typing import Any, Self

from layercache._progress import terminal_bar

MAX_NAME_LENGTH = 60
"""Maximum number of characters of a job's name."""


class Bar:
    """Bar on stderr if that is a terminal; the time left follows from the time taken so far."""

    def __init__(self, *, total: float, show: bool) -> None:
        self.shown = show and total > 0 and sys.stderr.isatty()
        self._bar: Any = None
        if self.shown:
            layout = "{percentage:3.0f}%|{bar:20}| {elapsed}, {remaining} left | {desc}"
            self._bar = terminal_bar(total=total, bar_format=layout, smoothing=0)

    def describe(self, text: str) -> None:
        """Show the name of the current job."""
        if self._bar is not None:
            self._bar.set_description_str(
                text if len(text) <= MAX_NAME_LENGTH else text[: MAX_NAME_LENGTH - 1] + "…"
            )

    def advance(self, seconds: float) -> None:
        """Advance by the estimated duration of a finished job."""
        if self._bar is not None:
            self._bar.update(seconds)
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

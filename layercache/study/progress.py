"""The one progress bar of a study, over all its cells, weighed by their planned cost."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

WIDEST = 60
"""Characters of a cell's name."""


class Bar:
    """A bar on stderr, where that is a terminal; nothing otherwise. The time left is told from the time that the work done so far has taken."""

    def __init__(self, *, total: float, show: bool) -> None:
        self.shown = show and total > 0 and sys.stderr.isatty()
        self._bar: Any = None
        if self.shown:
            from tqdm import tqdm

            layout = "{percentage:3.0f}%|{bar:20}| {elapsed}, {remaining} left | {desc}"
            self._bar = tqdm(
                total=total, bar_format=layout, smoothing=0, dynamic_ncols=True, leave=True
            )

    def describe(self, text: str) -> None:
        """What is being done."""
        if self._bar is not None:
            self._bar.set_description_str(text if len(text) <= WIDEST else text[: WIDEST - 1] + "…")

    def advance(self, seconds: float) -> None:
        """A cell of this cost is behind us."""
        if self._bar is not None:
            self._bar.update(seconds)
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

"""A clock that a test moves, in place of the module `time`."""

from __future__ import annotations


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

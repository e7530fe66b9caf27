"""What a part of the benchmark is given, and how it reports."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Context:
    """Settings of one part, and the file of its results."""

    device: str
    tiny: bool
    """Smallest sizes, which test the scripts on a CPU."""
    deadline: float
    """Time (time.monotonic()) at which the part is stopped."""
    rows_file: Path
    """JSON lines; each is written as soon as it is measured."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Rates of this machine, from the part `rates`; empty if that failed."""
    _longest: dict[str, float] = field(default_factory=dict)

    def emit(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        target: str = "",
        note: str = "",
        **ratios: float | None,
    ) -> None:
        """Write one result.

        Args:
            what: What was measured.
            value: Its value.
            unit: Unit of the value.
            target: Target, such as "bare >= 0.97".
            note: How it was measured, if that is not plain.
            ratios: Throughput over that of `bare` (forward), `roofline`, `textbook` (module),
                `loop_a`, `loop_b`; None if there is nothing to compare with.
        """
        self._write(
            {
                "what": what,
                "value": value,
                "unit": unit,
                "ratios": {name: ratio for name, ratio in ratios.items() if ratio is not None},
                "target": target,
                "note": note,
            }
        )

    def fail(self, what: str, error: BaseException | str) -> None:
        """Write that a measurement failed, and why; the others go on."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._write({"what": what, "error": text.strip()})

    def has_time(self, what: str, *, kind: str = "", least: float = 5) -> bool:
        """Return whether there is time for one more measurement; write it down if there is not.

        Args:
            what: The measurement.
            kind: Measurements that take about the same time, see `timed`.
            least: Seconds expected when none of the kind was timed.
        """
        expected = 1.2 * self._longest.get(kind, least)
        left = self.deadline - time.monotonic()
        if left < expected:
            self.fail(what, f"not measured: {left:.0f} s left, {expected:.0f} s expected")
        return left >= expected

    def took(self, kind: str, seconds: float) -> None:
        """Note what a measurement of a kind took, for `has_time`."""
        self._longest[kind] = max(seconds, self._longest.get(kind, 0))

    def _write(self, row: dict[str, Any]) -> None:
        with self.rows_file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()

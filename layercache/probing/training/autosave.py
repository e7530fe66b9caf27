"""Saves the state of training every few minutes, so that a killed search continues from there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layercache.errors import StorageError
from layercache.probing.results.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from layercache.probing.training.config import HParams
from layercache.probing.training.training_pass import TrainingPass

logger = logging.getLogger(__name__)

SAVE_INTERVAL_S = 120.0
"""Seconds of training between two saves."""
MAX_SAVE_SHARE = 0.05
"""Largest share of the time that is spent on saving; slow storage is written to less often."""


class Autosave:
    """Saves the passes of one fold, or of the final fit; see `PassSaver`."""

    def __init__(
        self,
        checkpoints: TrainingCheckpoints,
        *,
        probe: str,
        fold: int | None,
        device: str,
        stop_epoch: int | None = None,
        on_saved: Callable[[TrainingCheckpoint], None],
    ) -> None:
        """Start the clock.

        Args:
            checkpoints: Where states are stored.
            probe: Id of the probe.
            fold: Number of the fold; None for the final fit.
            device: Type of the device.
            stop_epoch: Epoch after which the passes stop; None: the last one.
            on_saved: Called after each save.
        """
        self._checkpoints, self._on_saved = checkpoints, on_saved
        self._probe, self._fold, self._device = probe, fold, device
        self._stop_epoch = stop_epoch
        self._earlier_seconds = 0.0
        self._started = time.monotonic()
        self._next_save = self._started + SAVE_INTERVAL_S

    def load(self, configs: Sequence[HParams]) -> Mapping[str, Any] | None:
        """Return the last state of a pass over these configurations, or None."""
        found = self._checkpoints.load(
            self._probe,
            fold=self._fold,
            configs=_plain(configs),
            device=self._device,
            stop_epoch=self._stop_epoch,
        )
        self._earlier_seconds = found[0].seconds if found else 0.0
        self._started = time.monotonic()
        self._next_save = self._started + SAVE_INTERVAL_S
        return found[1] if found else None

    def save_if_due(self, training: TrainingPass) -> None:
        """Store the state of a pass if the last save is long enough ago."""
        now = time.monotonic()
        if now < self._next_save:
            return
        saved = TrainingCheckpoint(
            probe=self._probe,
            fold=self._fold,
            configs=_plain(training.configs),
            device=self._device,
            step=training.step,
            steps=training.steps,
            stop_epoch=self._stop_epoch,
            seconds=self._earlier_seconds + now - self._started,
        )
        try:
            self._checkpoints.save(saved, training.state_dict())
        except StorageError as e:
            logger.warning("training continues, but its state cannot be saved: %s", e)
            self._next_save = math.inf
            return
        self._on_saved(saved)
        duration = time.monotonic() - now
        self._next_save = now + max(SAVE_INTERVAL_S, duration / MAX_SAVE_SHARE)


def _plain(configs: Sequence[HParams]) -> list[dict[str, float]]:
    return [hparams.to_dict() for hparams in configs]

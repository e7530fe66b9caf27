"""Writing of a probe, its unfinished search, and its deletion; probe_store.py has the files."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.format.result_folders import (
    LOCK,
    PARENT,
    RECORD,
    read_state,
)
from layercache.cache.storage.lock import file_lock
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.result_writer import has_litter, sweep, write_result, write_state
from layercache.errors import (
    CacheBusyError,
    CacheCorruptError,
    CacheError,
    ProbeNotFoundError,
    ProbeSchemaError,
)
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.head_checkpoint import HEAD_FILE, Checkpoint
from layercache.probing.results.learning_curves import LearningCurves
from layercache.probing.results.predictions import Predictions
from layercache.probing.results.probe_store import CURVES_FILE, predictions_file
from layercache.probing.results.training_checkpoints import TrainingCheckpoints

logger = logging.getLogger(__name__)

IN_CURVES = ("losses", "val_curve")
"""Fields of a score that a complete probe keeps in a file of its own."""


class ProbeFolder:
    """Writes one probe."""

    def __init__(self, path: CachePath) -> None:
        self.path = path
        """CACHE/probes/<probe id>."""
        self._store = open_store(path)

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Lock the probe against other processes, after waiting for one that holds it.

        What killed processes left in the folder is removed.

        On object storage, which has no locks, two processes may train the same probe. Each writes
        whole files, the record last, and both are the same probe.
        """
        with file_lock(self._store.path(LOCK), wait=wait):
            self._store.remove_temporary()
            yield

    def size(self) -> int:
        """Return the bytes of its files.

        Raises:
            ProbeNotFoundError: The folder holds no probe, finished or not.
        """
        files = self._store.list_files(".")
        linked = isinstance(self.path, Path) and self.path.is_symlink()
        named = self.path.parent.name == PARENT and re.fullmatch(r"[0-9a-f]{12}", self.path.name)
        if linked or not named or not files:
            raise ProbeNotFoundError(
                f"{self.path}: expected the folder of a probe, .../{PARENT}/ID, with its files; "
                "`layercache results` lists the probes with their ids"
            )
        return sum(info.size for info in files.values())

    def remove(self) -> None:
        """Delete the probe with its folder, its record first.

        Raises:
            ProbeNotFoundError: The folder holds no probe, finished or not.
            CacheBusyError: Another process is training it.
        """
        self.size()
        try:
            with self.locked(wait=False):
                self._store.delete(RECORD)
                self._store.delete_all()
        except CacheBusyError:
            raise CacheBusyError(
                f"{self.path}: another process is training this probe: wait for it to end, or "
                "stop it, and run the command again"
            ) from None

    def sweep(self) -> None:
        """Remove what killed processes left in the folder of a complete probe.

        Nothing is done to a probe that another process has locked, or that cannot be written.
        """
        if not isinstance(self.path, Path) or not has_litter(self._store):
            return
        with suppress(CacheError), file_lock(self.path / LOCK):
            TrainingCheckpoints(self.path).clear()
            sweep(self._store)

    def load_search(self, *, replaces: str | None = None) -> tuple[list[ConfigScore], float]:
        """Return what `save_search` wrote, scores and seconds; none if it is of no use.

        Args:
            replaces: Checksum of the complete probe that the new one is to replace.
        """
        try:
            state = read_state(self._store)
            if state is None or state["replaces"] != replaces:
                return [], 0.0
            return [_score(values) for values in state["scores"]], float(state["seconds"])
        except ProbeSchemaError:
            return [], 0.0
        except (CacheCorruptError, KeyError, TypeError, ValueError) as e:
            logger.warning("the search of this probe starts again: %s", e)
            return [], 0.0

    def save_search(
        self, scores: Sequence[ConfigScore], *, seconds: float, replaces: str | None = None
    ) -> None:
        """Write the scores so far, and the seconds behind them; `replaces` as in `load_search`."""
        state = {
            "scores": [asdict(score) for score in scores],
            "seconds": seconds,
            "replaces": replaces,
        }
        write_state(self._store, _plain(state))

    def write(
        self,
        *,
        spec: Mapping[str, Any],
        row: Mapping[str, Any],
        configs: Sequence[ConfigScore],
        head: Checkpoint | None,
        predictions: Sequence[Predictions],
        curves: LearningCurves | None = None,
    ) -> str:
        """Write the probe, its record last, and delete what the search has left.

        A complete probe is replaced in one step.

        Args:
            spec: All that determines the probe.
            row: Its row of the results table.
            configs: Mean scores of all configurations.
            head: The trained head, or None.
            predictions: Outputs on each test set.
            curves: Learning curves, or None for a head without training by epochs.

        Returns:
            The checksum of its record.
        """
        record = {
            "fingerprint": spec["sources"][0]["fingerprint"],
            "spec": spec,
            "row": row,
            "configs": [
                {name: v for name, v in asdict(config).items() if name not in IN_CURVES}
                for config in configs
            ],
            "written_at": round(time.time(), 3),
        }
        files = {predictions_file(i): part.to_bytes() for i, part in enumerate(predictions)}
        if head is not None:
            files[HEAD_FILE] = head.to_bytes()
        if curves is not None:
            files[CURVES_FILE] = curves.to_bytes()
        digest = write_result(self._store, _plain(record), files)
        TrainingCheckpoints(self.path).clear()
        return digest


def _score(values: Mapping[str, Any]) -> ConfigScore:
    """Return a score that was JSON, with its curves as tuples."""
    curve = tuple((int(epoch), value) for epoch, value in values.get("val_curve", ()))
    return ConfigScore(**{**values, "losses": tuple(values.get("losses", ())), "val_curve": curve})


def _plain(value: Any) -> Any:
    """Return plain JSON values; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Holds the features of one selection of tokens, so that the heads and seeds that share it read it once."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layercache._units import format_bytes
from layercache.cache.cache import Cache
from layercache.cache.reading.split import Split
from layercache.cache.storage.read_cache import ReadCache
from layercache.probing.data.resident import Selection, Source, TokenDataset
from layercache.probing.data.streaming import least_budget, load
from layercache.probing.options import MEMORY_FRACTION
from layercache.probing.spec import TokenSelection

logger = logging.getLogger(__name__)

Key = tuple[Any, ...]


class Loader:
    """Loads features when asked for, keeps the last ones of the training and the test split, and says how they are held."""

    def __init__(
        self,
        *,
        device: torch.device,
        mode: str,
        budget: int | None,
        disk: int | None = None,
    ) -> None:
        """disk: bytes of disk for what is streamed over a network; None: a share of what is free; 0: none."""
        self.device = device
        self._disk = disk
        self._spool: ReadCache | None = None
        self._mode = mode
        self._budget = budget
        self._held: dict[str, tuple[Key, TokenDataset]] = {}
        self._logged: set[str] = set()
        self._splits: dict[Key, Split] = {}

    def split(self, cache: Cache, name: str) -> Split:
        """A split, opened once: labels and ids are read from the disk when first asked for."""
        key = (cache.path, name)
        if key not in self._splits:
            self._splits[key] = cache.split(name)
        return self._splits[key]

    def train(
        self, tokens: TokenSelection, split: str, *, keep: np.ndarray[Any, Any]
    ) -> TokenDataset:
        """The features to train on. What was held for other tokens or samples is let go first."""
        key = (*_name(tokens, split), keep.tobytes())
        if "train" not in self._held or self._held["train"][0] != key:
            if "train" in self._held and self._held["train"][0][:-1] != key[:-1]:
                self._held.clear()
                if self._spool:
                    self._spool.new_generation()
            self._held.pop("train", None)
            self._held["train"] = (key, self._load(tokens, split, keep, role="training", taken=0))
        return self._held["train"][1]

    def test(self, tokens: TokenSelection, split: str) -> TokenDataset:
        """The features to test on, within what the training features leave of the memory."""
        key = _name(tokens, split)
        if "test" not in self._held or self._held["test"][0] != key:
            self._held.pop("test", None)
            train = self._held["train"][1] if "train" in self._held else None
            taken = train.selection.nbytes if train is not None and train.mode == "resident" else 0
            rows = self.split(tokens.cache, split).rows
            self._held["test"] = (
                key,
                self._load(tokens, split, np.arange(rows), role="test", taken=taken),
            )
        return self._held["test"][1]

    def _load(
        self,
        tokens: TokenSelection,
        split: str,
        keep: np.ndarray[Any, Any],
        *,
        role: str,
        taken: int,
    ) -> TokenDataset:
        selection = Selection(
            tuple(Source(self.split(cache, split), pairs) for cache, pairs in tokens.sources), keep
        )
        budget = None if self._budget is None else self._budget
        if budget is not None and taken:
            budget = max(budget - taken, least_budget(selection))
        features, how = load(selection, device=self.device, mode=self._mode, budget=budget)
        self._log(f"{role} features {how}")
        if features.mode == "stream":
            self._keep_on_disk([source.split for source in selection.sources])
        return features

    def _keep_on_disk(self, splits: Sequence[Split]) -> None:
        """From now on what these splits give, where it comes over a network, is kept on the disk for the next epoch."""
        if self._disk == 0 or not any(split.remote for split in splits):
            return
        if self._spool is None:
            folder = Path(tempfile.gettempdir())
            budget = (
                int(MEMORY_FRACTION * shutil.disk_usage(folder).free)
                if self._disk is None
                else self._disk
            )
            self._spool = ReadCache(budget=budget, parent=folder)
            why = f"half of what is free in {folder}" if self._disk is None else "as requested"
            self._log(
                f"what is read over the network is kept for the next epoch in up to {format_bytes(budget)} of disk ({why}; --disk-cache)"
            )
        for split in splits:
            split.use_read_cache(self._spool)

    def _log(self, line: str) -> None:
        if line not in self._logged:
            self._logged.add(line)
            logger.info("%s", line)


def _name(tokens: TokenSelection, split: str) -> Key:
    return (split, *((cache.path, pairs) for cache, pairs in tokens.sources))

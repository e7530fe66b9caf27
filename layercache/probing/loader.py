"""Holds the features of one selection of tokens, so that the heads and seeds that share it read it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from layercache.cache.reader import Cache, Split
from layercache.probing.cell import Tokens
from layercache.probing.features import Features, Selection, Source
from layercache.probing.stream import least_budget, load

Key = tuple[Any, ...]


class Loader:
    """Loads features when asked for, keeps the last ones of the training and the test split, and says how they are held."""

    def __init__(self, *, device: torch.device, mode: str, budget: int | None, say: Callable[[str], object]) -> None:
        self.device = device
        self._mode = mode
        self._budget = budget
        self._say = say
        self._held: dict[str, tuple[Key, Features]] = {}
        self._said: set[str] = set()
        self._splits: dict[Key, Split] = {}

    def split(self, cache: Cache, name: str) -> Split:
        """A split, opened once: labels and ids are read from the disk when first asked for."""
        key = (cache.path, name)
        if key not in self._splits:
            self._splits[key] = cache.split(name)
        return self._splits[key]

    def train(self, tokens: Tokens, split: str, *, keep: np.ndarray[Any, Any]) -> Features:
        """The features to train on. What was held for other tokens or samples is let go first."""
        key = (*_name(tokens, split), keep.tobytes())
        if "train" not in self._held or self._held["train"][0] != key:
            if "train" in self._held and self._held["train"][0][:-1] != key[:-1]:
                self._held.clear()
            self._held.pop("train", None)
            self._held["train"] = (key, self._load(tokens, split, keep, role="training", taken=0))
        return self._held["train"][1]

    def test(self, tokens: Tokens, split: str) -> Features:
        """The features to test on, within what the training features leave of the memory."""
        key = _name(tokens, split)
        if "test" not in self._held or self._held["test"][0] != key:
            self._held.pop("test", None)
            train = self._held["train"][1] if "train" in self._held else None
            taken = train.selection.nbytes if train is not None and train.mode == "resident" else 0
            rows = self.split(tokens.cache, split).rows
            self._held["test"] = (key, self._load(tokens, split, np.arange(rows), role="test", taken=taken))
        return self._held["test"][1]

    def _load(self, tokens: Tokens, split: str, keep: np.ndarray[Any, Any], *, role: str, taken: int) -> Features:
        selection = Selection(tuple(Source(self.split(cache, split), pairs) for cache, pairs in tokens.sources), keep)
        budget = None if self._budget is None else self._budget
        if budget is not None and taken:
            budget = max(budget - taken, least_budget(selection))
        features, how = load(selection, device=self.device, mode=self._mode, budget=budget)
        line = f"{role} features {how}"
        if line not in self._said:
            self._said.add(line)
            self._say(line)
        return features


def _name(tokens: Tokens, split: str) -> Key:
    return (split, *((cache.path, pairs) for cache, pairs in tokens.sources))

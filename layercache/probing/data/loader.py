"""Loads datasets and keeps the last ones, so that heads and seeds on the same tokens share them."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layercache._devices import free_memory
from layercache._units import format_bytes, join_words, pluralize
from layercache.cache.cache import Cache
from layercache.cache.reading.split import Split
from layercache.cache.storage.read_cache import ReadCache
from layercache.errors import OptionError
from layercache.probing.data.dataset import TokenDataset
from layercache.probing.data.joined_splits import AnySplit, JoinedSplits, over_splits
from layercache.probing.data.leakage import Digests, token_digests
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens, min_budget
from layercache.probing.options import MEMORY_FRACTION
from layercache.probing.splits.stratified_split import Rows
from layercache.probing.targets.target import Target
from layercache.probing.token_selection import TokenSelection

logger = logging.getLogger(__name__)

MODES = ("auto", "resident", "stream")

MAX_DIGESTS = 16
"""Largest number of datasets whose token digests are kept."""

Key = tuple[Any, ...]


class DatasetLoader:
    """Loads datasets on request and keeps the last one of the training and of the test split."""

    def __init__(
        self,
        *,
        device: torch.device,
        mode: str,
        memory_budget: int | None,
        disk_budget: int | None = None,
    ) -> None:
        """Set where tokens are held.

        Args:
            device: Device of the batches.
            mode: auto, resident or stream.
            memory_budget: Bytes for tokens; None: half of the free memory.
            disk_budget: Bytes of disk for tokens that are streamed over a network; None: half of
                the free space, 0: none.
        """
        self.device = device
        self._mode = mode
        self._memory_budget = memory_budget
        self._disk_budget = disk_budget
        self._read_cache: ReadCache | None = None
        self._loaded: dict[str, tuple[Key, TokenDataset]] = {}
        self._logged: set[str] = set()
        self._splits: dict[Key, Split] = {}
        self._digests: dict[int, tuple[SplitSelection, Digests]] = {}

    def split(self, cache: Cache, name: str) -> Split:
        """Return a split; it is opened once, because labels and ids are read on first use."""
        key = (cache.path, name)
        if key not in self._splits:
            self._splits[key] = cache.split(name)
        return self._splits[key]

    def train(
        self,
        tokens: TokenSelection,
        *splits: str,
        rows: Rows,
        target: Target | None = None,
    ) -> TokenDataset:
        """Return the training dataset.

        Datasets of other tokens or rows are released first.

        Args:
            tokens: Tokens to load.
            *splits: Names of the splits, which are read as one, in this order.
            rows: Ascending rows of the splits.
            target: What to predict; None: the labels of the splits.
        """
        key = (*_key(tokens, splits), rows.tobytes())
        if "train" not in self._loaded or self._loaded["train"][0] != key:
            if "train" in self._loaded and self._loaded["train"][0][:-1] != key[:-1]:
                self._loaded.clear()
                if self._read_cache:
                    self._read_cache.new_generation()
            self._loaded.pop("train", None)
            dataset = self._load(tokens, splits, rows, role="training", bytes_in_use=0)
            self._loaded["train"] = (key, dataset)
        return self._with_target(self._loaded["train"][1], target)

    def test(
        self, tokens: TokenSelection, split: str, *, target: Target | None = None
    ) -> TokenDataset:
        """Return the test dataset, within the memory that the training dataset leaves.

        Args:
            tokens: Tokens to load.
            split: Name of the split.
            target: What to predict; rows without it are left out. None: the labels of all rows.
        """
        opened = self.split(tokens.cache, split)
        rows = np.arange(opened.rows) if target is None else target.rows(opened)
        key = (*_key(tokens, (split,)), rows.tobytes())
        if "test" not in self._loaded or self._loaded["test"][0] != key:
            self._loaded.pop("test", None)
            train = self._loaded["train"][1] if "train" in self._loaded else None
            resident = train is not None and train.mode == "resident"
            bytes_in_use = train.selection.nbytes if train is not None and resident else 0
            dataset = self._load(tokens, (split,), rows, role="test", bytes_in_use=bytes_in_use)
            self._loaded["test"] = (key, dataset)
        return self._with_target(self._loaded["test"][1], target)

    def digests(self, dataset: TokenDataset) -> Digests:
        """Return the token digests of a dataset, (N,); those of the last ones are kept."""
        key = id(dataset.selection)
        if key not in self._digests or self._digests[key][0] is not dataset.selection:
            while len(self._digests) >= MAX_DIGESTS:
                self._digests.pop(next(iter(self._digests)))
            self._digests[key] = (dataset.selection, token_digests(dataset))
        return self._digests[key][1]

    def _with_target(self, dataset: TokenDataset, target: Target | None) -> TokenDataset:
        if target is None or target.is_label:
            return dataset
        selection = dataset.selection
        values = over_splits(target.values, selection.sources[0].split)
        return dataset.with_labels(values[selection.kept_rows])

    def _load(
        self,
        tokens: TokenSelection,
        splits: Sequence[str],
        rows: Rows,
        *,
        role: str,
        bytes_in_use: int,
    ) -> TokenDataset:
        sources = [TokenSource(self._join(cache, splits), p) for cache, p in tokens.sources]
        selection = SplitSelection(tuple(sources), rows)
        budget = self._memory_budget
        if budget is not None and bytes_in_use:
            budget = max(budget - bytes_in_use, min_budget(selection))
        dataset, description = load_dataset(
            selection, device=self.device, mode=self._mode, memory_budget=budget
        )
        self.log_once(f"{role} features {description}")
        if dataset.mode == "stream":
            self._keep_on_disk([source.split for source in sources])
        return dataset

    def _join(self, cache: Cache, names: Sequence[str]) -> AnySplit:
        splits = [self.split(cache, name) for name in names]
        return splits[0] if len(splits) == 1 else JoinedSplits(splits)

    def _keep_on_disk(self, splits: Sequence[AnySplit]) -> None:
        """Keep the bytes of these splits on disk for the next epoch if they come over a network."""
        if self._disk_budget == 0 or not any(split.remote for split in splits):
            return
        if self._read_cache is None:
            folder = Path(tempfile.gettempdir())
            budget, reason = self._disk_budget, "as requested"
            if budget is None:
                budget = int(MEMORY_FRACTION * shutil.disk_usage(folder).free)
                reason = f"half of the free space in {folder}"
            self._read_cache = ReadCache(budget=budget, parent=folder)
            self.log_once(
                f"tokens read over the network are kept for the next epoch in up to "
                f"{format_bytes(budget)} of disk ({reason}; disk_cache)"
            )
        for split in splits:
            split.use_read_cache(self._read_cache)

    def log_once(self, line: str, *, level: int = logging.INFO) -> None:
        """Log a line unless it was logged before."""
        if line not in self._logged:
            self._logged.add(line)
            logger.log(level, "%s", line)


def load_dataset(
    selection: SplitSelection,
    *,
    device: torch.device,
    mode: str = "auto",
    memory_budget: int | None = None,
) -> tuple[TokenDataset, str]:
    """Return the dataset of a selection, and where its tokens are held and why.

    Args:
        selection: Tokens and rows.
        device: Device of the batches.
        mode: auto (resident if the tokens fit into the budget, else stream), resident or stream.
        memory_budget: Bytes; None: half of the device's free memory.

    Raises:
        OptionError: The mode is unknown, or the budget does not hold two row blocks.
    """
    if mode not in MODES:
        raise OptionError(f"features: expected auto, resident or stream, got {mode!r}")
    if memory_budget is None:
        budget = int(MEMORY_FRACTION * free_memory(device))
        limit = f"half of the free memory of {device.type}"
    else:
        budget, limit = memory_budget, "the rest of memory_budget"
    size = (
        f"{pluralize(len(selection.pairs), 'token')} x {len(selection.kept_rows)} samples x "
        f"{selection.width}, {format_bytes(selection.nbytes)}"
    )
    if codecs := dict.fromkeys(str(array.codec.spec) for array in selection.arrays if array.codec):
        size += f", {join_words(list(codecs))} decoded in each batch"
    if mode == "resident" or (mode == "auto" and selection.nbytes <= budget):
        resident = ResidentTokens(selection, device=device)
        reason = "as requested" if mode == "resident" else f"fits {format_bytes(budget)}, {limit}"
        return resident, f"resident on {device.type}: {size} ({reason})"
    if memory_budget is None:
        memory_budget = int(MEMORY_FRACTION * free_memory(torch.device("cpu")))
    streamed = StreamedTokens(selection, device=device, memory_budget=memory_budget)
    reason = "as requested" if mode == "stream" else f"more than {format_bytes(budget)}, {limit}"
    window = format_bytes(streamed.window_rows * selection.row_bytes)
    return streamed, f"streamed through two windows of {window}: {size} ({reason})"


def _key(tokens: TokenSelection, splits: Sequence[str]) -> Key:
    return (tuple(splits), *((cache.path, pairs) for cache, pairs in tokens.sources))

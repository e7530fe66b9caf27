"""Selections of in-memory splits, and what their batches must contain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layercache.probing.data.split_selection import SplitSelection, TokenSource

CPU = torch.device("cpu")
PAIRS = ((1, "cls"), (3, "ap"))


def select(*splits: Any, kept_rows: Any = None, pairs: Any = PAIRS) -> SplitSelection:
    """Return the selection of the same pairs of each split."""
    rows = np.arange(splits[0].rows) if kept_rows is None else np.asarray(kept_rows)
    return SplitSelection(tuple(TokenSource(split, pairs) for split in splits), rows)


def expected(split: Any, rows: Any, pairs: Any = PAIRS) -> torch.Tensor:
    """Return the normalized tokens of some rows, computed one by one in float64."""
    x = np.stack(
        [
            [
                split.x[layer - 1, split.tokens.index(token), r].astype(np.float64)
                for layer, token in pairs
            ]
            for r in rows
        ]
    )
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True)).float()


def read_all(dataset: Any, rows: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [
        (x.clone(), y)
        for x, y in dataset.iter_batches(rows, **{"batch_size": 32, "train": False, **options})
    ]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

"""Leakage: images and groups that are in the training and in the test samples.

Two images whose tokens are equal to the bit are the same image: this needs no digest of the images
next to the tokens, and also finds images that are equal only after preprocessing.

Shapes: N rows, S tokens of a row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from layercache._units import join_words, pluralize
from layercache.probing.data.dataset import TokenDataset

Digests = np.ndarray[Any, np.dtype[np.uint64]]
DIGEST_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Images and groups that some samples share with the training samples."""

    rows: int
    """Number of samples whose image is a training image, too."""
    n_rows: int
    """Number of samples."""
    groups: int | None = None
    """Number of groups that have training samples, too; None without groups."""

    def describe(self, *, samples: str, others: str) -> str:
        """Return in words what is shared, "" if nothing is.

        Args:
            samples: Name of the samples.
            others: Name of those that they are compared with.
        """
        parts = []
        if self.rows:
            parts.append(f"{self.rows} of {pluralize(self.n_rows, 'image')}")
        if self.groups:
            parts.append(pluralize(self.groups, "group"))
        if not parts:
            return ""
        return f"{samples}: {join_words(parts)} are in {others}, too"


def token_digests(dataset: TokenDataset) -> Digests:
    """Return a digest of the last of the S tokens of each row, or of all its codes, (N,)."""
    digests: Digests = np.zeros(dataset.rows, np.uint64)
    for stored, positions, rows in dataset.iter_stored(np.arange(dataset.rows), order=None):
        digests[rows.cpu().numpy()] = [
            int.from_bytes(blake2b(data, digest_size=DIGEST_BYTES).digest(), "little")
            for data in stored.identifying_bytes(positions)
        ]
    return digests


def find_leakage(
    digests: Digests,
    training: Digests,
    *,
    groups: Sequence[str] | None = None,
    training_groups: Sequence[str] | None = None,
) -> Leakage:
    """Return what samples share with the training samples.

    Args:
        digests: Token digests of the samples, (N,).
        training: Those of the training samples.
        groups: Groups of the samples; "" for none.
        training_groups: Groups of the training samples.
    """
    n_groups = None
    if groups is not None and training_groups is not None:
        n_groups = len((set(groups) & set(training_groups)) - {""})
    return Leakage(rows=int(np.isin(digests, training).sum()), n_rows=len(digests), groups=n_groups)

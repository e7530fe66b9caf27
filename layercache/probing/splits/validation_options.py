"""Validation samples: a split of their own, or parts of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from layercache.errors import OptionError

LEAVE_ONE_OUT = "loo"
"""Word that stands for leave-one-out in place of a validation split."""
REFITS = ("train", "train+val")
"""Samples that the selected configuration is trained on where validation is a split of its own."""
MAX_FOLDS = 100
"""Largest number of folds of one repeat; a row's fold is stored in a byte."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Samples that score the configurations; by default 20 % of the training samples."""

    split: str | None = None
    """Split whose samples score them; None: samples of the training split."""
    folds: int | None = None
    """Number of stratified folds; None: one part of 20 % (or few-shot folds)."""
    repeats: int = 1
    """Number of draws of the folds, or of the part."""
    group: str | None = None
    """Annotation column whose groups are held out as a whole."""
    fold_column: str | None = None
    """Annotation column that gives the fold of each sample."""
    scheme: str | None = None
    """LEAVE_ONE_OUT: each training sample is scored by the fit to all others; None: parts."""
    refit: str = "train"
    """Samples that train the selected configuration, one of REFITS; "train+val" needs a split."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Digest of each annotation column, 12 hex digits."""

    def __post_init__(self) -> None:
        if self.folds is not None and not 2 <= self.folds <= MAX_FOLDS:
            raise OptionError(f"folds: expected 2 to {MAX_FOLDS}, got {self.folds}")
        if self.repeats < 1:
            raise OptionError(f"repeats: expected at least 1, got {self.repeats}")
        if self.refit not in REFITS:
            raise OptionError(f"refit: expected {' or '.join(REFITS)}, got {self.refit!r}")
        if self.refit != "train" and self.split is None:
            raise OptionError(
                "refit: all training samples are used in any case unless validation is a split of "
                "its own: give val_split (--val), or leave refit out"
            )
        if self.scheme == LEAVE_ONE_OUT:
            others = {
                "folds": self.folds,
                "fold_column": self.fold_column,
                "group": self.group,
                "repeats": None if self.repeats == 1 else self.repeats,
            }
            if used := [name for name, value in others.items() if value is not None]:
                raise OptionError(
                    f"{used[0]}: val_split {LEAVE_ONE_OUT!r} leaves out one training sample at a "
                    f"time, which allows no {used[0]}: leave one of them out"
                )
        of_train = {"folds": self.folds, "fold_column": self.fold_column}
        chosen = [name for name, value in of_train.items() if value is not None]
        if self.split is not None and (chosen or self.repeats > 1):
            name = (chosen or ["repeats"])[0]
            raise OptionError(
                f"{name}: folds are parts of the training split, and val_split {self.split!r} "
                "selects instead of them: leave one of them out (val_split=None, --val none)"
            )
        if self.fold_column is not None and (self.folds is not None or self.repeats > 1):
            raise OptionError(
                "fold_column: the column gives the folds: leave folds and repeats out"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Annotation columns that it uses."""
        return tuple(name for name in (self.group, self.fold_column) if name is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are not the default, without digests, as plain JSON."""
        return {
            f.name: value
            for f in fields(self)
            if f.name != "digests" and (value := getattr(self, f.name)) != f.default
        }

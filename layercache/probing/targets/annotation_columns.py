"""Annotation columns of the samples of a split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from layercache.errors import UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

    from layercache.cache.cache import Cache

SPLIT = "split"


def read_annotation(cache: Cache, column: str, split: str) -> pd.Series[Any]:
    """Return the values of a column for the rows of a split, in the order of its rows.

    Raises:
        UnknownNameError: There is no such column.
    """
    check_columns(cache, [column])
    table = cache.annotations
    return table.loc[(table[SPLIT] == split).to_numpy(), column]


def read_groups(cache: Cache, column: str, splits: Sequence[str]) -> list[str] | None:
    """Return the group of each row of some splits, one after another, as text.

    "" stands for no group; None: the cache has no such column.
    """
    if column not in cache.annotation_digests:
        return None
    groups: list[str] = []
    for split in splits:
        values = read_annotation(cache, column, split)
        groups += values.astype(object).where(values.notna(), "").map(str).tolist()
    return groups


def check_any_column(caches: Sequence[Cache], column: str) -> None:
    """Raise UnknownNameError if no cache has an annotation column."""
    known = {name for cache in caches for name in cache.annotation_digests}
    if column not in known:
        hint = "(`layercache annotate` adds columns)"
        raise UnknownNameError("annotation column", column, known, hint=hint)


def check_columns(cache: Cache, columns: Iterable[str]) -> None:
    """Raise UnknownNameError if a cache lacks one of these annotation columns."""
    known = list(cache.annotation_digests)
    for column in columns:
        if column not in known:
            hint = f"({cache.path}; `layercache annotate` adds columns)"
            raise UnknownNameError("annotation column", column, known, hint=hint)

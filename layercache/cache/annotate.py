"""Adding columns of a table to a cache as annotations, and removing them. No token is touched."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from layercache._units import join_words, pluralize
from layercache.cache.annotations.build import build_column
from layercache.cache.annotations.changes import ColumnChange, compare
from layercache.cache.annotations.column import (
    FOLDER,
    AnnotatedSplit,
    AnnotationColumn,
    column_key,
)
from layercache.cache.annotations.index import (
    LABEL,
    AnnotationIndex,
    ColumnVersion,
    read_column,
    update_index,
)
from layercache.cache.annotations.match import Matches, match_rows
from layercache.cache.annotations.table import MAX_LISTED, AnnotationTable, read_table
from layercache.cache.cache import Cache, load_cache
from layercache.cache.reading.split import Split
from layercache.cache.storage.base import Store
from layercache.cache.storage.paths import CachePath, as_cache_path
from layercache.errors import CacheIncompleteError, DataError, OptionError, StorageError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def annotate(
    cache: Cache | str | CachePath,
    table: str | os.PathLike[str] | pd.DataFrame,
    *,
    id_column: str | None = None,
    columns: Sequence[str] = (),
    partial: bool = False,
) -> list[ColumnChange]:
    """Add the columns of a table to a cache as annotations, or replace those of the same name.

    Rows belong to samples by their id, and by their split where the table has a column "split".
    Nothing is extracted; probes that used a replaced column keep the version that they used.

    Args:
        cache: A cache, its folder or its address. An open one has the new columns afterwards.
        table: A CSV or parquet file, or a DataFrame; see `read_table`.
        id_column: Column of the ids; default: "id" or "path".
        columns: Columns to add; default: all others.
        partial: Allow rows of other samples, and samples without a row. The latter keep the value
            that a column of this name has, or get none.

    Returns:
        What changed, one entry for each column.

    Raises:
        DataError: The table cannot be used, or an id does not match; the message lists such ids.
        CacheIncompleteError: No split of the cache is complete.
        StorageError: The cache is not writable.
    """
    cache = cache if isinstance(cache, Cache) else load_cache(as_cache_path(cache))
    splits = _complete_splits(cache)
    _check_writable(cache)
    read = read_table(table, id_column=id_column, columns=columns)
    matches = match_rows(read, {split.name: split.all_ids for split in splits})
    _check_matches(cache, splits, read, matches, partial=partial)
    kept = {split.name: split.kept_rows for split in splits}
    identities = {
        name: AnnotatedSplit(rows=split.rows, ids=split.ids)
        for name, split in cache.spec.dataset.splits.items()
    }
    changes: list[ColumnChange] = []

    def change(index: AnnotationIndex) -> tuple[AnnotationIndex, list[AnnotationColumn]]:
        changes.clear()
        stored = _stored_columns(cache, index, read.columns)
        new = {
            name: build_column(
                name,
                column,
                rows=matches.rows,
                splits=identities,
                stored=stored.get(name),
                partial=partial,
            )
            for name, column in read.columns.items()
        }
        changes.extend(compare(column, stored.get(name), kept=kept) for name, column in new.items())
        versions = {name: ColumnVersion.of(column, source="table") for name, column in new.items()}
        merged = AnnotationIndex(
            columns={**index.columns, **versions}, dataset_label=index.dataset_label
        )
        return merged, list(new.values())

    update_index(cache.store, change)
    cache.forget_annotations()
    return changes


def drop_annotations(cache: Cache | str | CachePath, names: Sequence[str]) -> None:
    """Remove annotations from a cache, with the files of all their versions.

    A label that a table has replaced becomes the dataset's own again, which itself stays.

    Raises:
        OptionError: There is no such annotation, or it is the dataset's own label.
        StorageError: The cache is not writable.
    """
    cache = cache if isinstance(cache, Cache) else load_cache(as_cache_path(cache))
    _check_writable(cache)

    def change(index: AnnotationIndex) -> tuple[AnnotationIndex, list[AnnotationColumn]]:
        kept = dict(index.columns)
        for name in names:
            if name not in kept:
                raise OptionError(
                    f"{cache.path}: expected an annotation, got {name!r}; it has "
                    f"{', '.join(kept) or 'none'}"
                )
            if kept[name].source == "dataset":
                raise OptionError(
                    f"{cache.path}: {name!r} is the dataset's own label, which cannot be dropped; "
                    "it is replaced by a table with a column of this name"
                )
            if name == LABEL and index.dataset_label is not None:
                own = read_column(cache.store, index.dataset_label)
                kept[name] = ColumnVersion.of(own, source="dataset")
            else:
                del kept[name]
        return AnnotationIndex(columns=kept, dataset_label=index.dataset_label), []

    index = update_index(cache.store, change)
    _delete_versions(cache.store, index, names)
    cache.forget_annotations()


def _check_writable(cache: Cache) -> None:
    """Raise StorageError for a folder that is read-only."""
    if not isinstance(cache.path, Path):
        return
    effective = os.access in os.supports_effective_ids
    for folder in (cache.path, cache.path / FOLDER):
        may_write = os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)
        if folder.exists() and not may_write:
            raise StorageError(
                f"{folder}: its annotations cannot be changed, as the folder is not writable: get "
                "write permission, or annotate a copy in a root of your own (layercache cache push "
                f"{quote(str(cache.path))} --to ROOT)"
            )


def _delete_versions(store: Store, index: AnnotationIndex, names: Sequence[str]) -> None:
    """Delete the files of columns of these names that the list does not name any more."""
    listed = set(index.files)
    for key in store.list_files(FOLDER):
        digest = key.removeprefix(f"{FOLDER}/").removesuffix(".npz")
        if key in listed or key != column_key(digest):
            continue
        if read_column(store, digest).name in names:
            store.delete(key)


def _complete_splits(cache: Cache) -> list[Split]:
    splits = [cache.split(name) for name in cache.splits if cache.complete(name)]
    if not splits:
        raise CacheIncompleteError(
            f"{cache.path}: expected a complete split, whose ids a table is matched with, got "
            "none: finish the extraction first"
        )
    return splits


def _check_matches(
    cache: Cache,
    splits: Sequence[Split],
    table: AnnotationTable,
    matches: Matches,
    *,
    partial: bool,
) -> None:
    """Raise DataError unless every row has a sample and every sample a row, or count what has not.

    Nothing is expected for skipped samples, which have no tokens.
    """
    gaps: list[str] = []
    matched = 0
    for split in splits:
        rows = matches.rows[split.name]
        matched += int((rows >= 0).sum())
        ids = split.all_ids
        gaps += [ids[row] for row in split.kept_rows[rows[split.kept_rows] < 0]]
    total = sum(split.rows for split in splits)
    missing_splits = [name for name in cache.spec.dataset.splits if not cache.complete(name)]
    problems = []
    if matches.unmatched:
        text = (
            f"{pluralize(len(matches.unmatched), 'row')} of no sample ({_list(matches.unmatched)})"
        )
        if missing_splits:
            text += f"; {join_words(missing_splits)} of the dataset are not extracted"
        problems.append(text)
    if gaps:
        problems.append(f"{pluralize(len(gaps), 'sample')} without a row ({_list(gaps)})")
    if not matched:
        raise DataError(
            f"{table.name}: no id of its {pluralize(len(table.ids), 'row')} is one of the cache's: "
            f"expected ids such as {splits[0].all_ids[0]!r}, got such as "
            f"{table.ids[0] if len(table.ids) else 'none'!r}: choose the column of the ids (--id), "
            "or start from the table of `layercache annotate CACHE --out FILE`"
        )
    if problems and not partial:
        raise DataError(
            f"{table.name}: {matched} of {pluralize(total, 'sample')} of {cache.path} have a row; "
            f"{'; '.join(problems)}: complete the table, or allow both with --partial "
            "(partial=True)"
        )
    for problem in problems:
        logger.info("%s: %s", table.name, problem)


def _list(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_LISTED:,} more" if len(ids) > MAX_LISTED else ""
    return ", ".join(map(repr, ids[:MAX_LISTED])) + more


def _stored_columns(
    cache: Cache, index: AnnotationIndex, names: Mapping[str, Any]
) -> dict[str, AnnotationColumn]:
    """Return the stored columns of these names."""
    digests = index.digests
    return {name: read_column(cache.files, digests[name]) for name in names if name in digests}

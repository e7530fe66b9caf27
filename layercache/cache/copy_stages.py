"""The files of a cache that a copy sends, in order, with the check of their bytes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from layercache.cache.annotations.column import DIGEST_DIGITS, column_key
from layercache.cache.annotations.index import AnnotationIndex
from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.layout import SPEC_KEY, SplitLayout
from layercache.cache.format.records import REPAIR_HINT, BlockRecord, CompleteRecord
from layercache.cache.format.result_folders import (
    PARENT,
    RECORD,
    RETRAIN_HINT,
    alternate,
    scan,
)
from layercache.cache.storage.base import FileSource
from layercache.errors import CacheCorruptError

Check = Callable[[bytes], bool]
"""Returns whether these are the bytes that a file must have."""
Stage = Mapping[str, Check]
"""Files that are sent together, in any order."""


def split_stages(source: FileSource, layout: SplitLayout) -> Iterator[Stage]:
    """Yield the files of a split: shards; records, ids, metadata; the complete record."""
    data = source.read(layout.complete)
    where = str(source.path(layout.complete))
    complete = CompleteRecord.of_split(data, layout, where=where)
    records = source.read_many(layout.record(block) for block in range(layout.blocks))
    shards: dict[str, Check] = {}
    for block in range(layout.blocks):
        key = layout.record(block)
        if key not in records:
            raise CacheCorruptError(f"{source.path(key)} is missing; {REPAIR_HINT}")
        record = BlockRecord.of_block(records[key], layout, block, where=str(source.path(key)))
        shards[layout.shard(block)] = _crc_check(record.crc32c)
    yield shards
    files = {key: digest for key, digest in complete.files.items() if key != SPEC_KEY}
    yield {key: _digest_check(digest) for key, digest in files.items()}
    yield {layout.complete: equal_check(data)}


def annotation_stage(index: AnnotationIndex) -> Stage:
    """Return the files of the columns of a cache; `copy_cache` puts the list of them itself."""
    return {key: _name_check(key) for key in index.files}


def _name_check(key: str) -> Check:
    return lambda data: column_key(sha256(data).hexdigest()[:DIGEST_DIGITS]) == key


def equal_check(expected: bytes) -> Check:
    """Return a check for exactly these bytes."""
    return lambda data: data == expected


def _crc_check(expected: str) -> Check:
    return lambda data: f"{crc32c(data):08x}" == expected


def _digest_check(expected: str) -> Check:
    return lambda data: sha256(data).hexdigest() == expected


@dataclass(frozen=True, kw_only=True)
class ProbeFiles:
    """Files of complete probes, by key, with the check of their bytes."""

    files: dict[str, Check]
    """All but the records."""
    records: dict[str, Check]
    damaged: dict[str, str]
    """Id -> problem of the probes that are left out."""

    def leave_out(self, key: str, problem: str) -> None:
        """Leave out the probe of a file."""
        folder = key.rpartition("/")[0]
        self.records.pop(f"{folder}/{RECORD}", None)
        self.damaged.setdefault(folder.rpartition("/")[2], problem)


def find_probes(source: FileSource, fingerprint: str, keys: Container[str]) -> ProbeFiles:
    """Find the files of the complete probes of a cache.

    Probes that another version of layercache wrote are left out, and a warning names them.

    Args:
        source: The folder of the cache.
        fingerprint: The cache's.
        keys: All files of the cache.
    """
    found = ProbeFiles(files={}, records={}, damaged={})
    if link := _link(source, PARENT):
        found.damaged[PARENT] = link
        return found
    result = scan(source, PARENT, fingerprint=fingerprint)
    result.warn_outdated()
    found.damaged.update(result.damaged)
    for name, record in result.records.items():
        folder = f"{PARENT}/{name}"
        checks = {}
        for file, digest in record.files.items():
            key = f"{folder}/{alternate(file, digest)}"
            checks[key if key in keys else f"{folder}/{file}"] = digest.matches
        links = (_link(source, key) for key in (folder, f"{folder}/{RECORD}", *checks))
        missing = next((key for key in checks if key not in keys), None)
        if problem := next(filter(None, links), None):
            found.damaged[name] = problem
        elif missing:
            path = source.path(missing)
            found.damaged[name] = f"{path} is missing: {RETRAIN_HINT.format(folder=path.parent)}"
        else:
            found.files.update(checks)
            found.records[f"{folder}/{RECORD}"] = record.digest.matches
    return found


def _link(source: FileSource, key: str) -> str | None:
    path = source.path(key)
    if not isinstance(path, Path) or not path.is_symlink():
        return None
    return f"{path}: is a symbolic link, which is not followed: put what it leads to in its place"

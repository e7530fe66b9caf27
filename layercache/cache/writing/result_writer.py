"""Writing the results of another stage into their folders, see format/result_folders.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from layercache.cache.format.result_folders import (
    ALTERNATE,
    RECORD,
    SCHEMA,
    STATE,
    FileDigest,
    alternate,
    read_file,
    read_record,
    seal,
)
from layercache.cache.storage.base import Store


def write_state(store: Store, values: Mapping[str, Any]) -> None:
    """Keep the state of a result that is being made."""
    state = {"schema": SCHEMA, "id": store.path(".").name, **values}
    store.put(STATE, [seal(state)])


def write_result(store: Store, values: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Write the files of a result, then its record, and remove what is not needed any more.

    A complete result is replaced in one step. Its new files have names of their own until the new
    record exists, and take the names of the old ones then. Wherever this is stopped, the files of
    the record that exists can be read, and `sweep` does the rest.

    Args:
        store: The folder of the result.
        values: Plain JSON values, with "spec" and "fingerprint".
        files: Name -> content.

    Returns:
        SHA-256 hex of the record's file.
    """
    digests = {name: FileDigest.of(data) for name, data in files.items()}
    replaces = store.stat(RECORD) is not None
    for name, data in files.items():
        store.put(alternate(name, digests[name]) if replaces else name, [data])
    record = {
        "schema": SCHEMA,
        **values,
        "files": {name: asdict(digest) for name, digest in digests.items()},
    }
    data = seal(record)
    store.put(RECORD, [data])
    sweep(store)
    return FileDigest.of(data).sha256


def has_litter(store: Store) -> bool:
    """Return whether the folder of a complete result holds more than the result."""
    return any(
        "/" in key or key == STATE or ALTERNATE.fullmatch(key) for key in store.list_files(".")
    )


def sweep(store: Store) -> None:
    """Remove what killed processes left in the folder of a result, under its lock.

    Of a complete result, that is the state of its search, and files that were to replace its own
    or have not taken their names yet.

    Raises:
        CacheCorruptError: The record is damaged.
        ProbeSchemaError: Another version of layercache wrote it.
    """
    record = read_record(store)
    if record is not None:
        store.delete(STATE)
        keys = set(store.list_files("."))
        for name, digest in record.files.items():
            if alternate(name, digest) in keys:
                store.put(name, [read_file(store, name, digest)])
        for key in keys:
            match = ALTERNATE.fullmatch(key)
            if (match and match[1] in record.files) or "/" in key:
                store.delete(key)
    store.remove_temporary()

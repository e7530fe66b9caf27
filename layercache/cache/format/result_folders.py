"""Folders of results that another stage keeps in the folder of a cache: the probes.

    probes/<id>/
        probe.json          the record, written last: a folder that has it is complete
        <file>              each file that the record lists with its size and SHA-256
        <file>.<12 hex>     the new file while a complete result is replaced
                            (writing/result_writer.py)
        search.json         state of a result that is being made
        training/           likewise (probing/results/training_checkpoints.py)
        .lock, partial/     held and used while it is made

Record and state are JSON that carries the SHA-256 of its own values. <id> is the digest of the
record's "spec", and "fingerprint" is the cache's, so that a folder that was renamed or moved to
another cache is found as well as a flipped bit.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.storage.base import FileSource
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.threads import in_threads
from layercache.errors import CacheCorruptError, ProbeSchemaError

logger = logging.getLogger(__name__)

PARENT = "probes"
RECORD = "probe.json"
STATE = "search.json"
PASSES = "training"
"""Folder of further states: files that begin with the SHA-256, in hex, of what follows."""
LOCK = ".lock"
SCHEMA = 3
"""Schema of records and states."""
FIRST_SEALED_SCHEMA = 3
"""Records of earlier schemas have no checksum."""
ID_DIGITS = 12
MAX_RECORD_BYTES = 2**26
"""Size above which a file is not read as a record."""
FILE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
ALTERNATE = re.compile(rf"(.+)\.[0-9a-f]{{{ID_DIGITS}}}")
RETRAIN_HINT = "remove {folder} and run the same `layercache probe` again"


@dataclass(frozen=True)
class FileDigest:
    """Size and checksum of a file."""

    size: int
    """Bytes."""
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the digest of these bytes."""
        return cls(len(data), sha256(data).hexdigest())

    def matches(self, data: bytes) -> bool:
        """Return whether these are the bytes."""
        return FileDigest.of(data) == self


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """The record of a complete result."""

    values: Mapping[str, Any]
    """Content that the other stage wrote, with the key "spec"."""
    files: Mapping[str, FileDigest]
    """Name -> digest of every file of the result but the record."""
    digest: FileDigest
    """Digest of the record's own file."""


def seal(values: Mapping[str, Any]) -> bytes:
    """Return plain JSON values as JSON that carries their checksum."""
    sealed = {**values, "sha256": sha256_json(values)}
    return json.dumps(sealed, indent=1, allow_nan=False).encode()


def unseal(data: bytes, *, path: CachePath) -> dict[str, Any]:
    """Return what `seal` was given.

    Args:
        data: Content of the file.
        path: Its path, for messages.

    Raises:
        CacheCorruptError: It is not what `seal` returned.
        ProbeSchemaError: It is undamaged and of another schema.
    """
    hint = RETRAIN_HINT.format(folder=path.parent)
    try:
        values = json.loads(data)
        schema, digest = values["schema"], values.pop("sha256", None)
        intact = sha256_json(values) == digest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CacheCorruptError(f"{path}: is not a record of a probe ({e!r}): {hint}") from None
    unsealed = digest is None and isinstance(schema, int) and schema < FIRST_SEALED_SCHEMA
    if not intact and not unsealed:
        raise CacheCorruptError(f"{path}: does not match its own checksum: {hint}")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        remedy = "upgrade layercache" if newer else "run the same `layercache probe` again"
        raise ProbeSchemaError(
            f"{path}: expected schema {SCHEMA}, got schema {schema}, which another version of "
            f"layercache wrote: {remedy}",
            schema=schema,
        )
    return dict(values)


def read_record(
    source: FileSource, folder: str = ".", *, fingerprint: str | None = None
) -> ResultRecord | None:
    """Return the record of the result in a folder, or None if the result is not complete.

    Args:
        source: Where the folder is.
        folder: Its key.
        fingerprint: Fingerprint of the cache that it must belong to; None: of any.

    Raises:
        CacheCorruptError: The record is damaged, or of another folder.
        ProbeSchemaError: Another version of layercache wrote it.
    """
    key = _key(folder, RECORD)
    path = source.path(key)
    if isinstance(path, Path) and (info := source.stat(key)) and info.size > MAX_RECORD_BYTES:
        raise CacheCorruptError(
            f"{path}: has {info.size} bytes, too many for a record: "
            f"{RETRAIN_HINT.format(folder=path.parent)}"
        )
    try:
        data = source.read(key)
    except (FileNotFoundError, NotADirectoryError):
        return None
    values = unseal(data, path=path)
    try:
        files = {str(name): FileDigest(**digest) for name, digest in values.pop("files").items()}
        result_id = sha256_json(values["spec"])[:ID_DIGITS]
        owner = str(values["fingerprint"])
        valid = all(map(_is_valid, files, files.values()))
    except (KeyError, TypeError, AttributeError) as e:
        valid, reason = False, f" ({e!r})"
    else:
        reason = ""
    hint = RETRAIN_HINT.format(folder=path.parent)
    if not valid:
        raise CacheCorruptError(f"{path}: is not a record of a probe{reason}: {hint}")
    # a folder elsewhere is a copy, which may have any name
    if path.parent.parent.name == PARENT and path.parent.name != result_id:
        raise CacheCorruptError(f"{path}: belongs to probe {result_id}: {hint}")
    if fingerprint is not None and owner != fingerprint:
        raise CacheCorruptError(f"{path}: belongs to another cache ({owner[:12]}): {hint}")
    return ResultRecord(values=values, files=files, digest=FileDigest.of(data))


def _is_valid(name: str, digest: FileDigest) -> bool:
    return (
        FILE_NAME.fullmatch(name) is not None
        and name not in (RECORD, STATE)
        and type(digest.size) is int
        and type(digest.sha256) is str
        and len(digest.sha256) == 64
    )


def read_state(source: FileSource, folder: str = ".") -> dict[str, Any] | None:
    """Return the state of a result that is being made, or None.

    Raises:
        CacheCorruptError: The file is damaged, or another result's.
        ProbeSchemaError: Another version of layercache wrote it.
    """
    key = _key(folder, STATE)
    path = source.path(key)
    try:
        data = source.read(key)
    except (FileNotFoundError, NotADirectoryError):
        return None
    values = unseal(data, path=path)
    if values.pop("id", None) != path.parent.name:
        raise CacheCorruptError(f"{path}: belongs to another probe: remove the file")
    return values


def read_file(source: FileSource, name: str, digest: FileDigest, *, folder: str = ".") -> bytes:
    """Return a file of a complete result. Its size is compared before it is read.

    Raises:
        CacheCorruptError: It is missing, or differs from its record.
    """
    problem = ""
    for candidate in (name, alternate(name, digest)):
        key = _key(folder, candidate)
        info = source.stat(key)
        if info is None:
            problem = problem or "is missing"
        elif info.size != digest.size:
            problem = problem or f"has {info.size} bytes, expected {digest.size}"
        elif digest.matches(data := source.read(key)):
            return data
        else:
            problem = problem or "SHA-256 is not the one of its record"
    path = source.path(_key(folder, name))
    raise CacheCorruptError(f"{path}: {problem}: {RETRAIN_HINT.format(folder=path.parent)}")


def is_whole_pass(data: bytes) -> bool:
    """Return whether a file in PASSES is as it was written."""
    return data[:64] == sha256(memoryview(data)[64:]).hexdigest().encode()


def alternate(name: str, digest: FileDigest) -> str:
    """Return the name of a new file while a complete result is replaced."""
    return f"{name}.{digest.sha256[:ID_DIGITS]}"


def belongs(key: str, record: ResultRecord) -> bool:
    """Return whether a file in the folder of a complete result is, or was, a part of it."""
    match = ALTERNATE.fullmatch(key)
    name = match[1] if match else key
    return name in record.files or name in (RECORD, STATE, LOCK) or "/" in key


@dataclass(frozen=True, kw_only=True)
class ResultScan:
    """The results in CACHE/probes, by id."""

    folder: CachePath
    records: dict[str, ResultRecord] = field(default_factory=dict)
    """Id -> record of the complete results."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Id -> problem of the results whose record is damaged."""
    outdated: list[str] = field(default_factory=list)
    """Ids of the results that another version of layercache wrote."""

    def warn(self) -> None:
        """Log the results that are left out."""
        self.warn_outdated()
        for problem in self.damaged.values():
            logger.warning("left out a damaged probe: %s", problem)

    def warn_outdated(self) -> None:
        """Log the results that another version of layercache wrote."""
        total = len(self.records) + len(self.damaged) + len(self.outdated)
        if self.outdated:
            logger.warning(
                "%s: %d of %d probes left out, which another version of layercache wrote "
                "(expected schema %d): %s; to have them again, run the same `layercache probe` "
                "again",
                self.folder,
                len(self.outdated),
                total,
                SCHEMA,
                ", ".join(sorted(self.outdated)),
            )


def scan(source: FileSource, folder: str = ".", *, fingerprint: str | None = None) -> ResultScan:
    """Read all records in CACHE/probes, the key `folder` of `source`, see `read_record`."""
    ids = source.list_dirs(folder)
    found = ResultScan(folder=source.path(folder))
    records: dict[str, ResultRecord] = {}

    def read(name: str) -> None:
        try:
            record = read_record(source, _key(folder, name), fingerprint=fingerprint)
        except ProbeSchemaError:
            found.outdated.append(name)
        except CacheCorruptError as e:
            found.damaged[name] = str(e)
        else:
            if record is not None:
                records[name] = record

    in_threads(read, ids, threads=source.requests)
    found.records.update((name, records[name]) for name in ids if name in records)
    return found


def _key(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"

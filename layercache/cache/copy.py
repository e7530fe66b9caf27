"""Copying a cache between roots: whole, verified on arrival, resumable.

A root is a folder, object storage or a dataset repository of the Hugging Face Hub.

Order: the spec, the origins (not to the Hub, where others could read the paths in them) and the
annotations; of each split the shards, then records, ids and metadata, then the complete record;
last the probes, each with its record last. So at every moment the target is what a stopped
extraction leaves: incomplete, or true. Every file is compared with its checksum when it is read
(crc32c of the block's record, SHA-256 of the complete record or of the probe's) and again where it
arrived. A file that exists there with its checksum is not sent again.

Annotations that only the target has stay there; of others, the source's version becomes the current
one. Of a probe, only the files that its record lists are sent. A damaged probe does not stop the
others: it is left out and named, and so is what lies behind a symbolic link below probes/.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from layercache.cache.annotations.index import (
    INDEX,
    AnnotationIndex,
    merge_indexes,
    read_index,
    update_index,
)
from layercache.cache.cache import Cache, extract_advice, load_cache
from layercache.cache.copy_stages import (
    Check,
    Stage,
    annotation_stage,
    equal_check,
    find_probes,
    split_stages,
)
from layercache.cache.format.layout import (
    SPEC_KEY,
    SplitLayout,
    cache_folder,
    spec_bytes,
)
from layercache.cache.format.records import REPAIR_HINT
from layercache.cache.format.result_folders import PARENT, RETRAIN_HINT
from layercache.cache.storage.base import FileInfo, FileSource, Store
from layercache.cache.storage.hub import HubRepository, has_digest
from layercache.cache.storage.lock import file_lock
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath, RemotePath, as_cache_path
from layercache.cache.storage.threads import in_threads
from layercache.errors import (
    CacheBusyError,
    CacheCorruptError,
    CacheIncompleteError,
    OptionError,
    StorageError,
)

logger = logging.getLogger(__name__)

MAX_COMMIT_FILES = 64
"""Files of one commit on the Hub."""
MAX_COMMIT_BYTES = 2**29
"""Bytes of one commit on the Hub, but for its last file."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A cache that was copied."""

    source: CachePath
    path: CachePath
    """Folder of the copy: TO/<dataset>/<model>/<fingerprint>."""
    files: int
    """Number of its files."""
    bytes: int
    """Size of its files."""
    sent_files: int
    """Number of the files that did not exist at the target yet."""
    sent_bytes: int
    """Size of these."""
    damaged_probes: Mapping[str, str]
    """Id -> problem of the probes that were not copied."""


def copy_cache(
    source: Cache | str | CachePath,
    *,
    to: str | CachePath,
    progress: Callable[[int], None] | None = None,
    total: Callable[[int], None] | None = None,
) -> Transfer:
    """Copy a cache with its probes below another root.

    It gets the folder of its dataset, model and fingerprint there.

    A copy that was stopped continues when it is called again.

    Args:
        source: A cache, its folder or its address.
        to: The other root: a folder, s3://BUCKET/PREFIX or hf://datasets/USER/NAME.
        progress: Called with a number of bytes, from several threads, when they are at the target.
        total: Called once with the number of all bytes.

    Returns:
        Where the cache is, and what was sent.

    Raises:
        CacheIncompleteError: A split of the source is not complete.
        CacheCorruptError: A file of the source differs from its record.
        OptionError: The target is the source, or another cache is there.
        CacheBusyError: The target is being written.
        StorageError: The target or the source fails.
    """
    cache = source if isinstance(source, Cache) else load_cache(as_cache_path(source))
    path = cache_folder(as_cache_path(to), cache.spec)
    if path == cache.path:
        raise OptionError(f"{path}: the cache is there already; give another root (--to)")
    for split in cache.splits:
        if not cache.complete(split):
            n_committed, n_blocks = cache.progress(split)
            raise CacheIncompleteError(
                f"{cache.path}: split {split!r} is incomplete ({n_committed} of {n_blocks} row "
                f"blocks): finish the extraction, then copy: {extract_advice(cache)}"
            )
    layouts = [SplitLayout(cache.spec, split) for split in cache.splits]
    sizes = {key: info.size for key, info in cache.files.list_files(".").items()}
    probes = find_probes(cache.files, cache.spec.fingerprint, sizes)
    target = _open_target(path)
    to_hub = isinstance(target, _HubTarget)
    index = cache.annotation_index
    origins = {} if to_hub else {origin.key: origin.to_bytes() for origin in cache.origins}
    if total:
        prefixes = tuple(f"{name}/" for lay in layouts for name in (lay.group, lay.commits))
        keys = [key for key in sizes if key == SPEC_KEY or key.startswith(prefixes)]
        keys += [*index.files, INDEX] if index.columns else []
        total(sum(sizes[key] for key in [*keys, *origins, *probes.files, *probes.records]))
    job = _CopyJob(cache.files, sizes, progress or (lambda _: None))
    with ExitStack() as locks:
        for layout in layouts:
            locks.enter_context(file_lock(target.files.path(layout.lock)))
        target.sweep()
        existing = target.files.list_files(".")
        _check_target(cache, target.files, existing)
        target.send(job, {SPEC_KEY: equal_check(spec_bytes(cache.spec))}, existing)
        target.send(job, {key: equal_check(data) for key, data in origins.items()}, existing)
        if index.columns:
            target.send(job, annotation_stage(index), existing)
            job.count(INDEX, sent=target.put_index(index))
        for layout in layouts:
            for stage in split_stages(cache.files, layout):
                target.send(job, stage, existing)
        target.send(job, probes.files, existing)
        for key in [key for key in job.damaged if key in probes.files]:
            probes.leave_out(key, job.damaged[key])
        target.send(job, probes.records, existing)
        target.sweep()
    return Transfer(
        source=cache.path,
        path=path,
        files=job.files,
        bytes=job.bytes,
        sent_files=job.sent_files,
        sent_bytes=job.sent_bytes,
        damaged_probes=probes.damaged,
    )


def _check_target(cache: Cache, target: FileSource, existing: Mapping[str, FileInfo]) -> None:
    """Raise OptionError or CacheBusyError if files at the target are not a part of this cache."""
    if SPEC_KEY in existing and target.read(SPEC_KEY) != spec_bytes(cache.spec):
        raise OptionError(
            f"{target.root}: another cache is there, or its spec is damaged: check it (layercache "
            "cache info), or remove it"
        )
    records = [
        key
        for key in existing
        if key.startswith("commits/")
        and key.endswith(".json")
        and not key.endswith("/complete.json")
    ]
    expected, stored = cache.files.read_many(records), target.read_many(records)
    for key in records:
        if expected.get(key) != stored[key]:
            raise CacheBusyError(
                f"{target.path(key)}: an extraction wrote row blocks there whose bytes are not "
                f"those of {cache.path}: let it finish, or remove that "
                "cache (layercache cache rm) and copy again"
            )


class _CopyJob:
    """The files of the source, and the count of those that are at the target."""

    def __init__(
        self, source: FileSource, sizes: Mapping[str, int], progress: Callable[[int], None]
    ) -> None:
        self.source, self.sizes = source, sizes
        self._progress = progress
        self._lock = Lock()
        self.damaged: dict[str, str] = {}
        """Key -> problem of the files of probes that are not sent."""
        self.files = self.bytes = self.sent_files = self.sent_bytes = 0

    def read(self, key: str, check: Check) -> bytes | None:
        """Return a file of the source, or None if it is damaged and of a probe.

        Raises CacheCorruptError if another file is missing or differs from its record.
        """
        of_probe = key.startswith(f"{PARENT}/")
        path = self.source.path(key)
        hint = RETRAIN_HINT.format(folder=path.parent) if of_probe else REPAIR_HINT
        try:
            data = self.source.read(key)
            if not check(data):
                raise CacheCorruptError(f"{path}: differs from its record; {hint}")
        except FileNotFoundError:
            error = CacheCorruptError(f"{path} is missing; {hint}")
        except CacheCorruptError as e:
            error = e
        else:
            return data
        if not of_probe:
            raise error
        self.damaged[key] = str(error)
        return None

    def count(self, key: str, *, sent: bool) -> None:
        """Count a file that is at the target."""
        size = self.sizes.get(key, 0)
        with self._lock:
            self.files += 1
            self.bytes += size
            if sent:
                self.sent_files += 1
                self.sent_bytes += size
        self._progress(size)


class _Target(Protocol):
    """Target of a copy."""

    @property
    def files(self) -> FileSource:
        """The files at the target."""

    def send(self, job: _CopyJob, stage: Stage, existing: Mapping[str, FileInfo]) -> None:
        """Send the files of a stage that do not exist or are not right, and verify them."""

    def put_index(self, index: AnnotationIndex) -> bool:
        """Make the versions of annotations current, whose files are sent; keep other columns.

        Returns whether anything changed.
        """

    def sweep(self) -> None:
        """Remove temporary files of copies that were killed."""


def _open_target(path: CachePath) -> _Target:
    if isinstance(path, RemotePath) and path.scheme == "hf":
        return _HubTarget(HubRepository(path))
    return _StoreTarget(open_store(path))


def _log_merge(target: FileSource, stored: AnnotationIndex, index: AnnotationIndex) -> None:
    for name, version in stored.columns.items():
        new = index.columns.get(name)
        if new is None:
            logger.info("%s: the annotation %s, which only it has, stays", target.root, name)
        elif new.digest != version.digest:
            logger.warning(
                "%s: the annotation %s is replaced: version %s, %s before",
                target.root,
                name,
                new.digest,
                version.digest,
            )


def _not_arrived(path: CachePath) -> StorageError:
    return StorageError(f"{path}: did not arrive as it was sent; run the same command again")


class _StoreTarget:
    """A folder or object storage: file by file, several at a time, each of them read back."""

    def __init__(self, store: Store) -> None:
        self.files = store

    def send(self, job: _CopyJob, stage: Stage, existing: Mapping[str, FileInfo]) -> None:
        """Send the files of a stage that do not exist or are not right, and read them back."""

        def send_one(key: str) -> None:
            check = stage[key]
            info = existing.get(key)
            if info and info.size == job.sizes.get(key) and self._is_right(key, check):
                job.count(key, sent=False)
                return
            data = job.read(key, check)
            if data is None:
                return
            self.files.put(key, [data])
            if not self._is_right(key, check):
                raise _not_arrived(self.files.path(key))
            job.count(key, sent=True)

        threads = max(job.source.transfers, self.files.transfers)
        in_threads(send_one, list(stage), threads=threads)

    def put_index(self, index: AnnotationIndex) -> bool:
        """Make the versions of annotations current, whose files are sent; keep other columns.

        Returns whether anything changed.
        """
        stored = read_index(self.files)
        if stored == merge_indexes(stored, index):
            return False
        update_index(self.files, lambda current: (merge_indexes(current, index), []))
        _log_merge(self.files, stored, index)
        return True

    def sweep(self) -> None:
        """Remove temporary files of copies that were killed."""
        self.files.remove_temporary()

    def _is_right(self, key: str, check: Check) -> bool:
        try:
            return check(self.files.read(key))
        except FileNotFoundError:
            return False


class _HubTarget:
    """A repository of the Hub: many files in one commit, verified by the digests that it gives."""

    def __init__(self, repository: HubRepository) -> None:
        self.files = repository

    def send(self, job: _CopyJob, stage: Stage, existing: Mapping[str, FileInfo]) -> None:
        """Commit the files of a stage that do not exist or are not right; compare their digests."""
        batch: dict[str, bytes] = {}
        for key, check in stage.items():
            data = job.read(key, check)
            if data is None:
                continue
            if has_digest(existing.get(key), data):
                job.count(key, sent=False)
                continue
            batch[key] = data
            if len(batch) == MAX_COMMIT_FILES or sum(map(len, batch.values())) >= MAX_COMMIT_BYTES:
                self._commit(job, batch)
                batch = {}
        if batch:
            self._commit(job, batch)

    def put_index(self, index: AnnotationIndex) -> bool:
        """Make the versions of annotations current, whose files are sent; keep other columns.

        Returns whether anything changed.
        """
        stored = read_index(self.files)
        merged = merge_indexes(stored, index)
        if stored == merged:
            return False
        self.files.upload({INDEX: merged.to_bytes()}, message="layercache: annotations")
        _log_merge(self.files, stored, index)
        return True

    def sweep(self) -> None:
        """Do nothing: a commit that did not end leaves nothing."""

    def _commit(self, job: _CopyJob, batch: Mapping[str, bytes]) -> None:
        message = f"layercache: {len(batch)} files of {job.source.root.name}"
        self.files.upload(batch, message=message)
        arrived = self.files.list_files(".")
        for key, data in batch.items():
            if not has_digest(arrived.get(key), data):
                raise _not_arrived(self.files.path(key))
            job.count(key, sent=True)

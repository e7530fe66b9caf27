"""Download of a named dataset from its official source: announced, resumable, checksummed.

Files are downloaded and unpacked in a hidden folder of the data root and moved to their place at
the end, so that an interrupted download never looks like a dataset.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from layercache._progress import ProgressBar
from layercache._units import format_bytes, pluralize
from layercache.cache.storage.lock import file_lock
from layercache.errors import CacheBusyError, DataNotFoundError, LayercacheError
from layercache.extraction.datasets.official import OfficialFile, OfficialSource

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""Time without a byte after which a connection counts as lost."""
CHUNK_BYTES = 1 << 20
UNPACKED = "complete"
"""File that marks an unpacked dataset as complete, ready to be moved to its place."""
UNPACKED_RATIO = 2.0
"""Disk space needed, over the size of the archives: they and their content exist together."""


def download_dataset(name: str, source: OfficialSource, root: Path) -> None:
    """Download and unpack a dataset below `root`; continue an interrupted download.

    What is downloaded, from whom, how large it is, where it goes and its licence are logged first.

    Args:
        name: Name of the dataset.
        source: Its official source.
        root: Data root, in torchvision's layout.

    Raises:
        DataNotFoundError: It cannot be downloaded or unpacked, a checksum differs, the folder
            cannot be written, or its disk is too small.
        KeyboardInterrupt: The message says what is kept.
    """
    staging = _staging(name, root)
    archives = staging / "archives"
    try:
        with _lock(name, root) as waited:
            if waited and not staging.exists():  # the other process has finished it
                return
            archives.mkdir(parents=True, exist_ok=True)
            sizes = [_size(file) for file in source.files]
            _announce(name, source, sizes, root, archives)
            for file, size in zip(source.files, sizes, strict=True):
                _download(name, file, archives, size=size)
            logger.info("dataset %s: unpacking", name)
            shutil.rmtree(staging / "unpacked", ignore_errors=True)
            for file in source.files:
                _unpack(name, file, archives, staging / "unpacked" / file.folder)
            (staging / UNPACKED).touch()
            _move(staging, root)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"download of dataset {name}{_describe_kept(archives)}") from None
    except LayercacheError:
        raise
    except (OSError, HTTPException) as error:  # URLError is an OSError
        kept = _describe_kept(archives)
        if not kept:
            shutil.rmtree(staging, ignore_errors=True)
        raise DataNotFoundError(
            f"dataset {name}: expected a complete copy below {root}, got none, and it cannot be "
            f"downloaded ({_reason(error)}){kept}. Give the folder of a copy "
            "as data_root, or run the command again with a network"
        ) from error


def finish_move(name: str, root: Path) -> None:
    """Move a dataset that was unpacked, but not completely moved to its place."""
    staging = _staging(name, root)
    if (staging / UNPACKED).exists():
        with _lock(name, root):
            if (staging / UNPACKED).exists():
                _move(staging, root)


def _staging(name: str, root: Path) -> Path:
    return root / f".download-{name}"


@contextmanager
def _lock(name: str, root: Path) -> Iterator[bool]:
    """Lock the download against other processes; yields whether one of them held it."""
    path = root / f".download-{name}.lock"
    with ExitStack() as stack:
        waited = False
        try:
            stack.enter_context(file_lock(path))
        except CacheBusyError:
            logger.info("dataset %s: waiting for another process that downloads it", name)
            stack.enter_context(file_lock(path, wait=True))
            waited = True
        yield waited


def _describe_kept(archives: Path) -> str:
    have = _total_bytes(archives)
    return f"; {format_bytes(have)} are kept, and the same command continues" if have else ""


def _total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.url}: HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "no network: its host name cannot be resolved"
    return str(cause) or type(cause).__name__


def _announce(
    name: str,
    source: OfficialSource,
    sizes: Sequence[int | None],
    root: Path,
    archives: Path,
) -> None:
    total = None if None in sizes else sum(size or 0 for size in sizes)
    have = _total_bytes(archives)
    hosts = " and ".join(dict.fromkeys(str(urlsplit(f.url).hostname) for f in source.files))
    logger.info(
        "dataset %s is not complete below %s: downloading %s%s from %s (%s) to %s; licence: %s",
        name,
        root,
        pluralize(len(source.files), "file"),
        "" if total is None else f", {format_bytes(total)}",
        source.publisher,
        hosts,
        root,
        source.license,
    )
    if have:
        logger.info("  %s are kept from an earlier run", format_bytes(have))
    needed = int(UNPACKED_RATIO * (total or 0)) - have
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataNotFoundError(
            f"dataset {name}: the download and its unpacked files need about "
            f"{format_bytes(needed)}, the disk of {root} has {format_bytes(free)} free: make room, "
            "or choose another folder as data_root"
        )


def _size(file: OfficialFile) -> int | None:
    """Return the size in bytes that the server states, or None."""
    request = urllib.request.Request(file.url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            length = response.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        if error.code in (403, 405, 501):  # a server without HEAD
            return None
        raise
    return int(length) if length else None


def _download(name: str, file: OfficialFile, archives: Path, *, size: int | None) -> None:
    """Download one file to `archives`, where a part of it may be, and check it."""
    target = archives / file.name
    if target.exists():  # only complete files have this name
        return
    part = archives / f"{file.name}.part"
    offset = part.stat().st_size if part.exists() else 0
    if size is None or offset < size:
        _receive(file, part, offset=offset, size=size)
    received = part.stat().st_size
    if size is not None and received < size:
        raise ConnectionError(f"{file.url}: the connection ended at {received} of {size} bytes")
    digest = _md5(part)
    if file.md5 not in (None, digest):
        part.unlink()
        raise DataNotFoundError(
            f"dataset {name}: {file.url}: expected a file with MD5 {file.md5}, got {digest}: it "
            "was damaged on the way or replaced by its publisher. Run the command again; if the "
            "error comes back, get the dataset elsewhere and give its folder as data_root"
        )
    part.replace(target)


def _receive(file: OfficialFile, part: Path, *, offset: int, size: int | None) -> None:
    request = urllib.request.Request(file.url)
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        if response.status != 206:  # the server starts from the beginning
            offset = 0
        with (
            open(part, "ab" if offset else "wb") as out,
            ProgressBar(file.name, total=size, done=offset, unit="B") as bar,
        ):
            for chunk in _chunks(response):
                out.write(chunk)
                bar.advance(len(chunk))


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read(CHUNK_BYTES):
        yield chunk


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(name: str, file: OfficialFile, archives: Path, folder: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    folder.mkdir(parents=True, exist_ok=True)
    if not file.is_archive:
        shutil.copy2(archives / file.name, folder / file.name)
        return
    try:
        extract_archive(archives / file.name, folder)
        for inner in file.inner:
            extract_archive(folder / inner, folder)
            (folder / inner).unlink()
    except Exception as error:  # tarfile, zipfile, gzip and zlib each raise their own
        (archives / file.name).unlink()
        raise DataNotFoundError(
            f"dataset {name}: {file.url} cannot be unpacked ({error}): run the command again"
        ) from error


def _move(staging: Path, root: Path) -> None:
    """Move the unpacked files to the data root; a killed move is finished by `finish_move`."""
    _merge(staging / "unpacked", root)
    (staging / UNPACKED).unlink()
    shutil.rmtree(staging)


def _merge(source: Path, target: Path) -> None:
    """Move a folder's content; a folder that exists on both sides keeps its other files."""
    for path in source.iterdir():
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _merge(path, place)
        else:
            path.replace(place)

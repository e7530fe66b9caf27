"""Positions of the members of an uncompressed tar, read from its headers alone.

Faster than `tarfile`, which builds an object per member. Reads what GNU tar, BSD tar and Python
write: ustar prefixes, GNU long names, pax paths and sizes, base-256 sizes.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from layercache.errors import DataError

BLOCK = 512
"""Bytes of a header; members are padded to a multiple of it."""
MAX_METADATA = 1 << 20
"""Largest long name or list of pax attributes that is read."""


class TarMember(NamedTuple):
    """One regular file in a tar."""

    name: str
    offset: int
    """Position of its first byte in the tar."""
    size: int


class OpenTar:
    """An open tar for os.pread, closed when the object is garbage-collected."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.fd)


@lru_cache(maxsize=128)
def open_tar(path: str) -> OpenTar:
    """Return the process's open tar; an evicted one stays open while another thread reads it."""
    return OpenTar(path)


def read_bytes(path: str, offset: int, size: int) -> bytes:
    """Read the bytes of a member.

    Raises:
        DataError: The tar ends before.
    """
    file = open_tar(path)
    data = os.pread(file.fd, size, offset)
    if len(data) != size:
        raise DataError(
            f"{path}: expected {size} bytes at {offset}, got {len(data)}: the tar is truncated"
        )
    return data


def modification_time(path: str) -> int:
    """Return the modification time in ns of the tar that `read_bytes` reads."""
    return os.fstat(open_tar(path).fd).st_mtime_ns


def list_members(path: str, ignored: Counter[str] | None = None) -> Iterator[TarMember]:
    """Yield the regular files of a tar in their order; a hard link is the file that it names.

    Args:
        path: The tar.
        ignored: Reason -> number of members left out; added to.

    Raises:
        DataError: The file is not an uncompressed tar, or is truncated or damaged.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: expected a tar file, got a pipe, a device or nothing")
    ignored = Counter() if ignored is None else ignored
    file = OpenTar(path)
    end = os.fstat(file.fd).st_size
    offset = 0
    long_name: str | None = None
    long_link: str | None = None
    pax: dict[str, str] = {}
    positions: dict[str, tuple[int, int]] = {}
    while True:
        header = os.pread(file.fd, BLOCK, offset)
        if len(header) < BLOCK:
            raise DataError(f"{path}: the tar is truncated: it ends at {end} without an end mark")
        if not header.strip(b"\0"):
            return
        if not _checksum_matches(header):
            raise DataError(f"{path}: expected an uncompressed tar, got no tar header at {offset}")
        kind = header[156:157]
        size = _member_size(header, pax, where=f"{path}: the member at {offset}")
        offset += BLOCK
        if offset + size > end:
            raise DataError(
                f"{path}: the tar is truncated: a member at {offset} has {size} bytes, "
                f"the file ends at {end}"
            )
        if kind in b"xgLK":
            if size > MAX_METADATA:
                raise DataError(
                    f"{path}: expected at most {MAX_METADATA} bytes of attributes at {offset}, "
                    f"got {size}: the tar is damaged"
                )
            data = os.pread(file.fd, size, offset)
            if kind == b"L":
                long_name = _parse_text(data)
            elif kind == b"K":
                long_link = _parse_text(data)
            elif kind == b"x":
                pax = _parse_pax(data, where=f"{path}: the attributes at {offset}")
        else:
            name = pax.get("path") or long_name or _parse_name(header)
            if kind in (b"0", b"\0", b"7"):
                positions[name] = (offset, size)
                yield TarMember(name, offset, size)
            elif kind == b"1":
                target = pax.get("linkpath") or long_link or _parse_text(header[157:257])
                if target in positions:
                    positions[name] = positions[target]
                    yield TarMember(name, *positions[target])
                else:
                    ignored["hard link to a file that is not in the tar before it"] += 1
                size = 0  # some writers repeat the file's size, without its bytes
            elif kind != b"5":
                ignored["symbolic link" if kind == b"2" else "device, pipe or the like"] += 1
            long_name = long_link = None
            pax = {}
        offset += (size + BLOCK - 1) // BLOCK * BLOCK


def _member_size(header: bytes, pax: dict[str, str], *, where: str) -> int:
    try:
        if "size" in pax and header[156:157] not in b"xgLK":
            size = int(pax["size"])
        else:
            size = _parse_number(header[124:136])
    except ValueError as error:
        raise DataError(f"{where} has a size that is no number: the tar is damaged") from error
    if size < 0:
        raise DataError(f"{where} has {size} bytes, expected at least 0: the tar is damaged")
    return size


def _checksum_matches(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _parse_number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    return int(field.strip(b"\0 ") or b"0", 8)


def _parse_name(header: bytes) -> str:
    name = _parse_text(header[:100])
    prefix = _parse_text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _parse_text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _parse_pax(data: bytes, *, where: str) -> dict[str, str]:
    """Parse pax records: the length of the whole record, a space, key=value and a newline."""
    records = {}
    while data:
        try:
            length = int(data.split(b" ", 1)[0])
            if not 0 < length <= len(data):
                raise ValueError
            key, value = data[:length].split(b" ", 1)[1].rstrip(b"\n").split(b"=", 1)
        except (ValueError, IndexError) as error:
            raise DataError(f"{where} are no pax records: the tar is damaged") from error
        records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        data = data[length:]
    return records

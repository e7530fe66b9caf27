"""Where the members of an uncompressed tar lie, from its headers alone: `tarfile` without building an object per member.

Reads what GNU tar, BSD tar and Python write: ustar prefixes, GNU long names, pax paths and sizes, base-256 sizes.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from layercache.errors import DataError

BLOCK = 512


class Member(NamedTuple):
    """One regular file in a tar."""

    name: str
    offset: int
    """Of its first byte in the tar."""
    size: int


class Descriptor:
    """An open file for os.pread, closed when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.fd)


@lru_cache(maxsize=128)
def descriptor(path: str) -> Descriptor:
    """The open file, one per process; a file whose turn in the cache is over stays open for whoever still reads it."""
    return Descriptor(path)


def read(path: str, offset: int, size: int) -> bytes:
    """Bytes of a member. Raises DataError when the tar ends before."""
    held = descriptor(path)
    data = os.pread(held.fd, size, offset)
    if len(data) != size:
        raise DataError(
            f"{path}: expected {size} bytes at {offset}, found {len(data)}: the tar is cut"
        )
    return data


def members(path: str) -> Iterator[Member]:
    """Regular files in their order. Raises DataError for what is no uncompressed tar, or is cut."""
    file = Descriptor(path)
    end = os.fstat(file.fd).st_size
    at = 0
    long_name: str | None = None
    pax: dict[str, str] = {}
    while True:
        header = os.pread(file.fd, BLOCK, at)
        if len(header) < BLOCK:
            raise DataError(f"{path}: the tar is cut: it ends at {end} without an end mark")
        if not header.strip(b"\0"):
            return
        if not _sum_matches(header):
            raise DataError(f"{path}: no tar header at {at} (expected an uncompressed tar)")
        kind = header[156:157]
        size = (
            int(pax["size"]) if "size" in pax and kind not in b"xgLK" else _number(header[124:136])
        )
        at += BLOCK
        if at + size > end:
            raise DataError(
                f"{path}: the tar is cut: a member at {at} has {size} bytes, the file ends at {end}"
            )
        if kind == b"L":
            long_name = _text(os.pread(file.fd, size, at))
        elif kind == b"x":
            pax = _pax(os.pread(file.fd, size, at))
        elif kind not in b"gK":
            if kind in (b"0", b"\0", b"7"):
                yield Member(pax.get("path") or long_name or _name(header), at, size)
            long_name, pax = None, {}
        at += (size + BLOCK - 1) // BLOCK * BLOCK


def _sum_matches(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    return int(field.strip(b"\0 ") or b"0", 8)


def _name(header: bytes) -> str:
    name, prefix = (
        _text(header[:100]),
        _text(header[345:500]) if header[257:263] == b"ustar\0" else "",
    )
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """Records of a length that counts the whole record, a space, key=value and a line end."""
    found = {}
    while data:
        length = int(data.split(b" ", 1)[0])
        key, value = data[:length].split(b" ", 1)[1].rstrip(b"\n").split(b"=", 1)
        found[key.decode()] = value.decode(errors="surrogateescape")
        data = data[length:]
    return found

"""Where a cache lies: a folder of this machine, or a prefix of an object store; both are joined with "/" and know their parents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from layercache.errors import OptionError

SCHEMES = {"s3": "s3://BUCKET/PREFIX", "hf": "hf://datasets/USER/NAME"}
"""Scheme -> the form of its addresses."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """An address such as s3://bucket/prefix. Part of no file system: what lies there is asked of its store (`open_store`)."""

    url: str
    """Without a "/" at the end."""

    def __post_init__(self) -> None:
        scheme, _, rest = self.url.partition("://")
        if "@" in rest.partition("/")[0]:
            raise OptionError(
                f"{scheme}://...@...: an address holds no credentials; they come from the environment (AWS_PROFILE, ~/.aws)"
            )
        if not rest.partition("/")[0] or (
            scheme == "hf" and not re.match(r"datasets/[^/]+/[^/]+", rest)
        ):
            raise OptionError(
                f"{self.url}: expected {SCHEMES.get(scheme, ' or '.join(SCHEMES.values()))}"
            )

    @property
    def scheme(self) -> str:
        """s3 or hf."""
        return self.url.partition("://")[0]

    @property
    def bucket(self) -> str:
        """The bucket of an s3 address, USER/NAME of an hf one."""
        parts = self.url.partition("://")[2].split("/")
        return "/".join(parts[1:3]) if self.scheme == "hf" else parts[0]

    @property
    def key(self) -> str:
        """What follows the bucket; "" for the bucket itself."""
        parts = self.url.partition("://")[2].split("/")
        return "/".join(parts[3 if self.scheme == "hf" else 1 :])

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The address without its last part; a bucket is its own parent."""
        return RemotePath(self.url.rpartition("/")[0]) if self.key else self

    @property
    def parents(self) -> tuple[RemotePath, ...]:
        """The nearest first."""
        return () if not self.key else (self.parent, *self.parent.parents)

    def __truediv__(self, part: str) -> RemotePath:
        return as_remote(f"{self.url}/{part}")

    def __str__(self) -> str:
        return self.url


CachePath = Path | RemotePath


def as_remote(url: str) -> RemotePath:
    """An address in its one form. Raises OptionError for a scheme that there is not, or without a bucket."""
    scheme, _, rest = url.partition(":")
    if scheme not in SCHEMES:
        raise OptionError(f"{scheme}://...: expected a folder, or {' or '.join(SCHEMES.values())}")
    return RemotePath(f"{scheme}://{'/'.join(part for part in rest.split('/') if part)}")


def as_place(where: str | Path | RemotePath) -> CachePath:
    """A folder, with ~ resolved, or an address. Raises OptionError for an address of an unknown scheme.

    A pathlib.Path made of an address ("s3:/bucket/prefix": it joins slashes) means the address.
    """
    if isinstance(where, RemotePath):
        return where
    if re.match(r"\w\w+://" if isinstance(where, str) else r"(s3|hf):/", str(where)):
        return as_remote(str(where))
    return Path(where).expanduser()

"""Paths of caches: folders and addresses; the root below which all caches are kept."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from layercache.errors import OptionError

HOME_VARIABLE = "LAYERCACHE_HOME"
"""Environment variable: the root of all caches."""
SCHEMES = {"s3": "s3://BUCKET/PREFIX", "hf": "hf://datasets/USER/NAME"}
"""Form of the addresses of each scheme."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """An address such as s3://bucket/prefix, joined with "/" as a pathlib.Path is.

    `open_store` reaches the files below it.
    """

    url: str
    """Address without a "/" at the end."""

    def __post_init__(self) -> None:
        scheme, _, rest = self.url.partition("://")
        if {":", "@"} & set(self.bucket.partition("/")[0]):
            raise OptionError(
                f"{scheme}://***@...: expected an address without credentials; they are taken from "
                "the environment "
                "(AWS_PROFILE, ~/.aws)"
            )
        if not rest.partition("/")[0] or (
            scheme == "hf" and not re.match(r"datasets/[^/]+/[^/]+", rest)
        ):
            raise OptionError(
                f"{self.url}: expected {SCHEMES.get(scheme, ' or '.join(SCHEMES.values()))}"
            )

    @property
    def scheme(self) -> str:
        """Scheme of the address, "s3" or "hf"."""
        return self.url.partition("://")[0]

    @property
    def bucket(self) -> str:
        """Bucket of an s3 address, USER/NAME of an hf one."""
        parts = self.url.partition("://")[2].split("/")
        return "/".join(parts[1:3]) if self.scheme == "hf" else parts[0]

    @property
    def key(self) -> str:
        """Part behind the bucket; "" for the bucket itself."""
        parts = self.url.partition("://")[2].split("/")
        return "/".join(parts[3 if self.scheme == "hf" else 1 :])

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The address without its last part; a bucket is its own parent."""
        return RemotePath(self.url.rpartition("/")[0]) if self.key else self

    @property
    def parents(self) -> tuple[RemotePath, ...]:
        """All parents, nearest first."""
        return () if not self.key else (self.parent, *self.parent.parents)

    def __truediv__(self, part: str) -> RemotePath:
        return as_remote(f"{self.url}/{part}")

    def __str__(self) -> str:
        return self.url


CachePath = Path | RemotePath


def as_remote(url: str) -> RemotePath:
    """Return an address in its normal form, without empty parts.

    Raises:
        OptionError: The scheme is unknown, or there is no bucket.
    """
    scheme, _, rest = url.partition(":")
    if scheme not in SCHEMES:
        raise OptionError(f"{scheme}://...: expected a folder, or {' or '.join(SCHEMES.values())}")
    return RemotePath(f"{scheme}://{'/'.join(part for part in rest.split('/') if part)}")


def as_cache_path(path: str | Path | RemotePath) -> CachePath:
    """Return a folder, with ~ expanded, or an address.

    A pathlib.Path made from an address ("s3:/bucket/prefix", since it merges slashes) means the
    address.

    Raises:
        OptionError: The scheme of the address is unknown.
    """
    if isinstance(path, RemotePath):
        return path
    if re.match(r"\w\w+://" if isinstance(path, str) else r"(s3|hf):/", str(path)):
        return as_remote(str(path))
    return Path(path).expanduser()


def cache_root(path: str | CachePath | None = None) -> CachePath:
    """Return the root of all caches.

    It is `path`, else $LAYERCACHE_HOME, else the platform's user cache folder.

    Raises:
        OptionError: The root is a file, or an address of an unknown scheme.
    """
    home = os.environ.get(HOME_VARIABLE)
    if path is None and not home:
        import platformdirs

        return Path(platformdirs.user_cache_dir("layercache"))
    root = as_cache_path(path or home or "")
    if isinstance(root, Path) and root.is_file():
        source = "root of all caches" if path is not None else f"${HOME_VARIABLE}"
        raise OptionError(f"{source}: expected a folder, got the file {root}")
    return root


def root_option(root: CachePath) -> str:
    """Return the option, with a space before it, that makes a command use this root of caches."""
    return "" if root == cache_root() else f" --cache {quote(str(root))}"

"""From the name that a user gives to the data set."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from layercache.errors import OptionError, UnknownNameError
from layercache.extraction.datasets.contract import Dataset
from layercache.extraction.datasets.labelled import safe_name

PREFIXES = ("folder",)
"""Kinds of source that are given as "<kind>:<where>"."""
NAMES = ("digits", "fashion_mnist")


def open_dataset(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Dataset:
    """The data set called `name`: one of the listed names, or "folder:PATH".

    `root` is the folder that torchvision reads a named set from; by default $LAYERCACHE_DATA, else `data` in the user's cache folder.
    `download` lets torchvision fetch what is missing. Raises UnknownNameError, OptionError, DataNotFoundError, DataError.
    """
    kind, colon, where = name.partition(":")
    if colon and kind in PREFIXES:
        if not where:
            raise OptionError(f"data set {name!r}: expected {kind}:PATH")
        if root is not None:
            raise OptionError(f"data set {name!r} carries its own path: leave out the root {str(root)!r}")
        from layercache.extraction.datasets.folder import folder

        return folder(where)
    if name == "digits":
        from layercache.extraction.datasets.bundled import digits

        return digits()
    if name not in NAMES:
        raise UnknownNameError("data set", name, NAMES, hint="(or folder:PATH)")
    from layercache.extraction.datasets.torchvision_ import READERS

    return READERS[name](data_root(root), download=download)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`, else $LAYERCACHE_DATA, else `data` in the user's cache folder."""
    if root is None:
        root = os.environ.get("LAYERCACHE_DATA") or platformdirs.user_cache_path("layercache") / "data"
    return Path(root).expanduser()


def dataset_name(name: str) -> str:
    """The name under which `open_dataset(name)` is cached, without opening it: "folder:/data/my pets" is "my_pets"."""
    kind, colon, where = name.partition(":")
    if not colon or kind not in PREFIXES:
        return name
    return safe_name(Path(where).expanduser().resolve().name)

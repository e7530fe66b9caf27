"""From the name that a user gives to the data set."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from layercache.errors import OptionError, UnknownNameError
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.datasets.in_memory import safe_name
from layercache.extraction.datasets.listing import DATASETS, SOURCES

KINDS = tuple(form.partition(":")[0] for form in SOURCES)
"""Kinds of source that are given as "<kind>:<where>"."""


def open_dataset(
    name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False
) -> Dataset:
    """The data set called `name`: one of DATASETS, or "folder:PATH", "wds:PATH", "hf:NAME_OR_PATH", "csv:FILE".

    `root` is the folder that torchvision reads a named set from; by default $LAYERCACHE_DATA, else `data` in the user's cache folder.
    `download` lets torchvision fetch what is missing. Raises UnknownNameError, OptionError, DataNotFoundError, DataError, MissingExtraError.
    """
    kind, colon, where = name.partition(":")
    if colon and kind in KINDS:
        if not where:
            raise OptionError(
                f"data set {name!r}: expected {next(form for form in SOURCES if form.startswith(kind))}"
            )
        if root is not None:
            raise OptionError(
                f"data set {name!r} carries its own place: leave out the root {os.fspath(root)!r}"
            )
        return _own(kind, where)
    if name not in DATASETS:
        if os.path.exists(place := os.path.expanduser(where if colon else name)):
            form = "folder" if os.path.isdir(place) else "csv"
            raise OptionError(
                f"unknown data set {name!r}: did you mean {form}:{where if colon else name}?"
            )
        if colon:
            raise UnknownNameError(
                "kind of data set", kind, KINDS, hint=f"(as in {', '.join(SOURCES)})"
            )
        raise UnknownNameError(
            "data set", name, DATASETS, hint=f"(or one of your own: {', '.join(SOURCES)})"
        )
    return _named(name, data_root(root), download=download)


def _own(kind: str, where: str) -> Dataset:
    if kind == "folder":
        from layercache.extraction.datasets.folder import folder

        return folder(where)
    if kind == "wds":
        from layercache.extraction.datasets.webdataset import webdataset

        return webdataset(where)
    if kind == "csv":
        from layercache.extraction.datasets.csv_table import csv_table

        return csv_table(where)
    from layercache.extraction.datasets.huggingface import huggingface

    return huggingface(where)


def _named(name: str, root: Path, *, download: bool) -> Dataset:
    if name == "digits":
        from layercache.extraction.datasets.bundled_digits import digits

        return digits()
    if name == "photos":
        from layercache.extraction.datasets.bundled_photos import photos

        return photos()
    if DATASETS[name].get.startswith("wds:"):
        from layercache.extraction.datasets.webdataset import named

        return named(name, root)
    if name.startswith("voc2007"):
        from layercache.extraction.datasets import voc

        forms = {
            "voc2007": voc.voc2007,
            "voc2007_multilabel": voc.voc2007_multilabel,
            "voc2007_crops": voc.voc2007_crops,
        }
        return forms[name](root, download=download)
    from layercache.extraction.datasets import torchvision_datasets

    if name == "caltech101":
        return torchvision_datasets.caltech101(root, download=download)
    if name == "eurosat":
        return torchvision_datasets.eurosat(root, download=download)
    return torchvision_datasets.read(name, root, download=download)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`, else $LAYERCACHE_DATA, else `data` in the user's cache folder; absolute."""
    if root is None:
        root = (
            os.environ.get("LAYERCACHE_DATA") or platformdirs.user_cache_path("layercache") / "data"
        )
    return Path(root).expanduser().absolute()


def dataset_name(name: str) -> str:
    """The name under which `open_dataset(name)` is cached, without opening it: "folder:/data/my pets" is "my_pets"."""
    kind, colon, where = name.partition(":")
    if not colon or kind not in KINDS:
        return name
    place = Path(where.partition("?")[0] if kind == "hf" else where)
    if kind == "csv":
        return safe_name(place.stem)
    return safe_name(place.name if kind == "hf" else place.expanduser().resolve().name)

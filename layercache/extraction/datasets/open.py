"""Opens a dataset by the name or source that a user gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import platformdirs

from layercache._offline import OFFLINE_ENV, hub_offline, is_offline
from layercache._printable import has_credentials
from layercache.cache.format.origin import is_source
from layercache.errors import (
    DataError,
    DataNotFoundError,
    LayercacheError,
    OptionError,
    UnknownNameError,
)
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.datasets.download import download_dataset, finish_move
from layercache.extraction.datasets.official import OFFICIAL
from layercache.extraction.datasets.registry import DATASETS, SOURCE_FORMS
from layercache.extraction.datasets.sources.bundled_digits import open_digits
from layercache.extraction.datasets.sources.bundled_photos import open_photos
from layercache.extraction.datasets.sources.csv_table import open_csv
from layercache.extraction.datasets.sources.folder import open_folder
from layercache.extraction.datasets.sources.huggingface import open_huggingface
from layercache.extraction.datasets.sources.torchvision_datasets import open_torchvision
from layercache.extraction.datasets.sources.voc import VOC2007, open_voc2007
from layercache.extraction.datasets.sources.webdataset import VTAB, open_vtab, open_webdataset

SOURCES = {
    "folder": open_folder,
    "wds": open_webdataset,
    "hf": open_huggingface,
    "csv": open_csv,
}
"""Kind of source -> function that opens what stands after "<kind>:"."""


def open_dataset(
    name: str, *, root: str | os.PathLike[str] | None = None, offline: bool = False
) -> Dataset:
    """Open a dataset by its name; download a named one whose files are missing.

    Args:
        name: A name of DATASETS, or "folder:PATH", "wds:PATH", "hf:NAME_OR_PATH" or "csv:FILE".
        root: Folder of the named datasets' files; by default $LAYERCACHE_DATA, else `data` in the
            user's cache folder.
        offline: Forbid downloads, as $LAYERCACHE_OFFLINE does.

    Raises:
        UnknownNameError: There is no dataset or kind of source of this name.
        OptionError: The name is incomplete, or does not go with `root`.
        DataNotFoundError: The files are missing and cannot be downloaded, or must not be.
        DataError: The files are not a usable dataset.
        MissingExtraError: An optional package is not installed.
    """
    kind, _, location = name.partition(":")
    if has_credentials(name):
        raise OptionError(
            f"dataset {name!r}: expected an address without a user and a password, which would be "
            "recorded: log in with the tool of the place instead (hf auth login, AWS_PROFILE)"
        )
    if is_source(name):
        if not location:
            expected = next(form for form in SOURCE_FORMS if form.startswith(f"{kind}:"))
            raise OptionError(f"dataset {name!r}: expected {expected}")
        if root is not None:
            raise OptionError(
                f"dataset {name!r} names its own location: "
                f"leave out the data root {os.fspath(root)!r}"
            )
        with _readable(name), hub_offline(kind == "hf" and is_offline(offline)):
            return SOURCES[kind](location)
    if name not in DATASETS:
        raise _unknown(name)
    with _readable(name):
        return _open_named(name, data_root(root), offline=is_offline(offline))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn errors of the operating system into a DataError: no permission, a disk that fails."""
    try:
        yield
    except LayercacheError:
        raise
    except OSError as error:
        raise DataError(
            f"dataset {name!r}: {error.filename or 'its files'} cannot be read: "
            f"{error.strerror or error}: check the path and its permissions"
        ) from error


def _open_named(name: str, root: Path, *, offline: bool) -> Dataset:
    source = OFFICIAL.get(name)
    if source is None:
        return _open_files(name, root)
    finish_move(name, root)
    try:
        return _open_files(name, root)
    except DataNotFoundError as error:
        if offline:
            forbidden = f" (unset ${OFFLINE_ENV} first)" if is_offline() else ""
            raise DataNotFoundError(
                f"{error}. Give the folder of a copy as data_root, or download it{forbidden}: "
                f"layercache datasets {name} --download --data-root {quote(str(root))}"
            ) from error
    download_dataset(name, source, root)
    return _open_files(name, root)


def _open_files(name: str, root: Path) -> Dataset:
    if name == "digits":
        return open_digits()
    if name == "photos":
        return open_photos()
    if name in VTAB:
        return open_vtab(name, root)
    if name in VOC2007:
        return open_voc2007(name, root)
    return open_torchvision(name, root)


def _unknown(name: str) -> OptionError | UnknownNameError:
    """Return the error for a name that is not registered, with the form that was probably meant."""
    kind, colon, location = name.partition(":")
    path = location if colon else name
    if os.path.exists(os.path.expanduser(path)):
        form = "folder" if os.path.isdir(os.path.expanduser(path)) else "csv"
        return OptionError(f"unknown dataset {name!r}: did you mean {form}:{path}?")
    forms = ", ".join(SOURCE_FORMS)
    if colon:
        return UnknownNameError("kind of dataset", kind, SOURCES, hint=f"(as in {forms})")
    return UnknownNameError("dataset", name, DATASETS, hint=f"(or one of your own: {forms})")


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the absolute folder of the named datasets' files.

    That is `root`, else $LAYERCACHE_DATA, else `data` in the user's cache folder.
    """
    if root is None:
        root = (
            os.environ.get("LAYERCACHE_DATA") or platformdirs.user_cache_path("layercache") / "data"
        )
    return Path(root).expanduser().absolute()

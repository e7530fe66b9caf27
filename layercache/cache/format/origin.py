"""Origin of a cache: the sources of its images and weights.

The same images from a moved folder are the same tokens: an origin is not part of the fingerprint,
and a cache may have several, each in a file of its own, origins/<SHA-256, 12 hex>.json.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode

from layercache._printable import redact
from layercache.cache.format.typed_json import load_json
from layercache.errors import CacheCorruptError, OptionError

ORIGINS = "origins"
"""Folder of the records."""
TYPES: Mapping[str, type] = {"paper_compat": bool, "preprocessing": dict}
"""Type of each field of a record that is no text."""
SOURCE_KINDS = ("folder", "wds", "hf", "csv")
"""Kinds of sources that have a location, as in "folder:PATH"."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Options of an extraction that find its images and weights, or that are not in its spec."""

    dataset: str | None
    """Source of the dataset, see `dataset_source`; None for a `Dataset` object from Python."""
    data_root: str | None = None
    """Absolute folder of a named dataset's files, or None for the default."""
    weights: str | None = None
    """Absolute path of the checkpoint file, or None for the published weights."""
    paper_compat: bool = False
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """Parts of the model's preprocessing that were replaced, by option."""
    on_error: str = "raise"
    compressor: str | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            is_optional = name in ("dataset", "data_root", "weights", "compressor")
            expected = TYPES.get(name, str)
            if not (isinstance(value, expected) or (is_optional and value is None)):
                raise TypeError(f"{name}: expected {expected.__name__}, got {value!r}")

    @property
    def key(self) -> str:
        """Key of the record in the cache."""
        return f"{ORIGINS}/{sha256(self.to_bytes()).hexdigest()[:12]}.json"

    @property
    def exists(self) -> bool:
        """False if the images or the checkpoint are known to be no longer there."""
        missing = self.dataset is not None and is_missing(self.dataset)
        return not missing and (self.weights is None or os.path.exists(self.weights))

    def to_bytes(self) -> bytes:
        """Return the contents of the record; without `preprocessing` if nothing was replaced."""
        values = asdict(self)
        if not self.preprocessing:
            del values["preprocessing"]  # as in the records of earlier versions
        return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """Return the origin that `to_bytes` wrote.

        Args:
            data: Bytes of the record.
            where: Its path, which ends with its key.

        Raises:
            CacheCorruptError: A byte differs.
        """
        try:
            values: dict[str, Any] = load_json(data)
            origin = cls(**values)
        except (ValueError, TypeError) as e:
            raise CacheCorruptError(
                f"{where}: not a record of a cache's origin ({e}): delete the file"
            ) from None
        if origin.to_bytes() != data or not where.endswith(origin.key):
            raise CacheCorruptError(
                f"{where}: the record does not match its own checksum: delete the file"
            )
        return origin


def is_source(dataset: str) -> bool:
    """Return whether a dataset is given by its source, as in "folder:PATH", not by its name."""
    kind, colon, _ = dataset.partition(":")
    return bool(colon) and kind in SOURCE_KINDS


def dataset_name(dataset: str) -> str:
    """Return the name that the caches of a dataset carry, without opening the dataset.

    For example "my_pets" for "folder:/data/my pets".
    """
    if not is_source(dataset):
        return dataset
    kind, _, location = dataset.partition(":")
    place, _ = split_query(kind, location)
    if kind == "csv":
        return plain_name(Path(place).stem)
    if kind == "hf":
        return plain_name(Path(place).name)
    return plain_name(os.path.basename(_real(location)))


def dataset_source(dataset: str) -> str:
    """Return the one form of a dataset's source that is recorded and compared.

    Paths are absolute, the options of an "hf:" or "csv:" source are sorted, and an address has no
    user and password. A name, such as "flowers", stays as it is.

    Raises:
        OptionError: There is nothing after the kind.
    """
    if not is_source(dataset):
        return dataset
    kind, _, location = dataset.partition(":")
    place, query = split_query(kind, location)
    if not place:
        raise OptionError(f"dataset {dataset!r}: expected {kind}: with a path or name after it")
    path = os.path.expanduser(place)
    if kind in ("folder", "wds"):
        place = _real(place)
    elif kind == "csv" or os.path.exists(path) or path.startswith(("/", "./", "../")):
        # the name of the file itself gives the cache its name, also of a link
        place = os.path.join(_real(os.path.dirname(path) or "."), os.path.basename(path))
    else:
        place = redact(place)
    options = urlencode(
        sorted(dict(parse_qsl(query, keep_blank_values=True)).items()), quote_via=quote
    )
    return f"{kind}:{place}{'?' if options else ''}{options}"


def split_query(kind: str, location: str) -> tuple[str, str]:
    """Return place and options of a source: "FILE" and "label=age" of "FILE?label=age".

    Only "hf:" and "csv:" have options; a table's own name may have a "?".
    """
    if kind not in ("hf", "csv") or (
        kind == "csv" and os.path.exists(os.path.expanduser(location))
    ):
        return location, ""
    place, _, query = location.partition("?")
    return place, query


def model_source(model: str) -> str:
    """Return the one form of a model's name that is recorded and compared.

    The paths of "local-dir:PATH", "hf:PATH", "open_clip:local-dir:PATH" and "FILE.py:FUNCTION" are
    absolute, and timm's older "hf_hub:" is "hf-hub:"; other names stay as they are.
    """
    kind, _, place = model.partition(":")
    if kind == "open_clip":
        return f"open_clip:{model_source(place)}"
    if kind == "hf" and (place.startswith("~") or os.path.isdir(place)):
        return f"hf:{_real(place)}"
    if is_encoder_file(model):
        file, _, function = model.rpartition(":")
        return f"{_real(file)}:{function}"
    if kind == "local-dir" and place:
        return f"local-dir:{_real(place)}"
    return f"hf-hub:{place}" if kind == "hf_hub" else model


def is_encoder_file(model: str) -> bool:
    """Return whether a model is named FILE.py:FUNCTION."""
    file, colon, _ = model.rpartition(":")
    return bool(colon) and file.endswith(".py")


def is_missing(source: str) -> bool:
    """Return whether a source has a path on this machine at which there is nothing."""
    kind, _, location = source.partition(":")
    if not is_source(source) or (kind == "hf" and not location.startswith("/")):
        return False
    return not os.path.exists(split_query(kind, location)[0])


def plain_name(text: str) -> str:
    """Return `text` as a folder name, with "_" for all but letters, digits, ".", "-" and "_"."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "data"


def _real(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))

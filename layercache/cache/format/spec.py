"""What determines the bytes of a cache, and its fingerprint.

Two caches whose specs differ in anything but the model's given name have different fingerprints, hence different folders:
a changed checkpoint, transform, tap, dtype or data set can never be served an old cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

SCHEMA = 1
"""Version of the layout on disk; part of the fingerprint."""

Tap = Literal["norm2", "block", "block-norm"]
Precision = Literal["fp32", "bf16", "fp16"]
StoreDtype = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class SplitIdentity:
    """One split of a data set, as far as it determines rows."""

    rows: int
    """Number of samples N."""
    ids: str
    """SHA-256 hex over the ids in order."""
    labels: str
    """SHA-256 hex over the labels' bytes."""
    content: str
    """What stands for the images' bytes: "bytes:<sha256>" or, where hashing all bytes would take too long, "sizes:<sha256>" or "sample:<sha256>"."""


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """A data set, as far as it determines a cache."""

    name: str
    """The name given to --dataset, a path reduced to its last folder; also the cache's folder name."""
    classes: tuple[str, ...]
    """Class names; label c is classes[c]."""
    multi_label: bool
    """Labels are (N, C) 0/1 instead of (N,) class numbers."""
    limit: int | None
    """Samples per split kept by --limit (stratified), or None."""
    limit_seed: int
    """Seed of the draw of --limit; 0 where limit is None."""
    splits: Mapping[str, SplitIdentity]
    """Every split that the data set has, extracted or not."""


@dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """Everything that determined the bytes of a cache."""

    model: str
    """The name given to --model; the folder's name, not part of the fingerprint."""
    architecture: str
    """timm's architecture name."""
    weights: str
    """SHA-256 hex of the backbone's weights, tensor by tensor."""
    depth: int
    """Number of blocks B."""
    width: int
    """D, the length of one token."""
    tap: Tap
    """Where a layer's tokens are read (see layercache.extraction.models.backbone)."""
    layers: tuple[int, ...]
    """Stored layers, ascending, out of 1..B; B is the last."""
    tokens: tuple[str, ...]
    """Stored tokens of a layer in order: "cls", "ap", "grid:K/0".."grid:K/<K*K-1>", "patch/0".."patch/<P-1>"."""
    projected: bool
    """The last layer went through CLIP's projection and was zero-padded to D."""
    preprocessing: Mapping[str, Any]
    """The resolved preprocessing: plain JSON values."""
    precision: Precision
    """Arithmetic of the forward."""
    store_dtype: StoreDtype
    """dtype of the stored tokens."""
    dataset: DatasetIdentity
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` undoes it."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The spec that `to_json` wrote. Raises KeyError or TypeError if fields are missing or unknown."""
        d = dict(value["dataset"])
        d["classes"] = tuple(d["classes"])
        d["splits"] = {name: SplitIdentity(**split) for name, split in d["splits"].items()}
        rest = {k: v for k, v in value.items() if k != "dataset"}
        rest["layers"], rest["tokens"] = tuple(rest["layers"]), tuple(rest["tokens"])
        return cls(dataset=DatasetIdentity(**d), **rest)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 hex (64 digits) over canonical JSON of all fields but `model`; the folder carries the first 12 digits."""
        value = self.to_json()
        del value["model"]
        return sha256_json(value)


def sha256_json(value: Any) -> str:
    """SHA-256 hex over canonical JSON: sorted keys, no spaces, UTF-8."""
    return hashlib.sha256(
        json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    ).hexdigest()


def digest_ids(ids: list[str]) -> str:
    """SHA-256 hex over ids in order, each preceded by its length so that no two lists collide."""
    h = hashlib.sha256()
    for i in ids:
        b = i.encode()
        h.update(len(b).to_bytes(8, "little"))
        h.update(b)
    return h.hexdigest()


def digest_labels(labels: np.ndarray[Any, Any]) -> str:
    """SHA-256 hex over dtype, shape and bytes of an int64 (N,) or uint8 (N, C) array."""
    h = hashlib.sha256(f"{labels.dtype.str}{labels.shape}".encode())
    h.update(np.ascontiguousarray(labels).tobytes())
    return h.hexdigest()

"""Everything that determines the bytes of a cache, and its fingerprint.

Two caches whose specs differ in anything but the model's given name have different fingerprints,
hence different folders: an old cache is never read for a changed checkpoint, transform, tap, dtype
or dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

SCHEMA = 2
"""Version of the files of a cache; part of the fingerprint."""

Tap = Literal["norm2", "block", "block-norm"]
Precision = Literal["fp32", "bf16", "fp16"]
StorageDtype = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class SplitIdentity:
    """Identity of one split of a dataset: what determines its rows."""

    rows: int
    """Number of samples N."""
    ids: str
    """SHA-256 hex over the ids in order."""
    labels: str
    """SHA-256 hex over the labels' bytes."""
    content: str
    """Digest of the images: "bytes:<sha256>" or, where hashing all bytes would take too long,
    "sizes:<sha256>" or "sample:<sha256>"."""


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """Identity of a dataset: what determines a cache."""

    name: str
    """Name given to `extract` as dataset, a path reduced to its last folder; also the folder's
    name."""
    classes: tuple[str, ...]
    """Class names; label c is classes[c]."""
    multi_label: bool
    """Labels are (N, C) 0/1 instead of (N,) class numbers."""
    limit: int | None
    """Number of samples kept per split (stratified), or None."""
    limit_seed: int
    """Seed of the sampling; 0 where limit is None."""
    splits: Mapping[str, SplitIdentity]
    """Every split of the dataset, extracted or not."""


@dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """Everything that determined the bytes of a cache."""

    model: str
    """Name given to `extract` as model; the folder's name, not part of the fingerprint."""
    architecture: str
    """timm's architecture name."""
    weights: str
    """SHA-256 hex of the backbone's weights, tensor by tensor."""
    depth: int
    """Number of blocks B."""
    width: int
    """D, the length of one token."""
    tap: Tap
    """Point of a block at which its tokens are read (see layercache.extraction.models.taps)."""
    layers: tuple[int, ...]
    """Stored layers, ascending, out of 1..B; B is the last."""
    tokens: tuple[str, ...]
    """Stored tokens of a layer in order: "cls", "ap", "grid:K/0".."grid:K/<K*K-1>",
    "patch/0".."patch/<P-1>"."""
    projected: bool
    """The last layer went through CLIP's projection and was zero-padded to D."""
    preprocessing: Mapping[str, Any]
    """The resolved preprocessing: plain JSON values."""
    precision: Precision
    """Precision of the forward pass."""
    storage_dtype: StorageDtype
    """dtype of the stored tokens."""
    dataset: DatasetIdentity
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, from which `from_json` restores the spec."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the spec that `to_json` wrote.

        Raises KeyError or TypeError if fields are missing or unknown.
        """
        dataset = dict(value["dataset"])
        dataset["classes"] = tuple(dataset["classes"])
        splits = dataset["splits"].items()
        dataset["splits"] = {name: SplitIdentity(**split) for name, split in splits}
        fields = {
            **value,
            "layers": tuple(value["layers"]),
            "tokens": tuple(value["tokens"]),
            "dataset": DatasetIdentity(**dataset),
        }
        return cls(**fields)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 hex (64 digits) over canonical JSON of all fields but `model`.

        The name of the folder is its first 12 digits.
        """
        value = self.to_json()
        del value["model"]
        return sha256_json(value)


def sha256_json(value: Any) -> str:
    """Return the SHA-256 hex over canonical JSON: sorted keys, no spaces, UTF-8."""
    return hashlib.sha256(
        json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    ).hexdigest()


def digest_ids(ids: list[str]) -> str:
    """Return the SHA-256 hex over ids in order.

    Each is preceded by its length, so that no two lists collide.
    """
    digest = hashlib.sha256()
    for name in ids:
        text = name.encode()
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()


def digest_labels(labels: np.ndarray[Any, Any]) -> str:
    """Return the SHA-256 hex over dtype, shape and bytes of an int64 (N,) or uint8 (N, C) array."""
    digest = hashlib.sha256(f"{labels.dtype.str}{labels.shape}".encode())
    digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()

"""Everything that determines the bytes of a cache, and its fingerprint.

Two caches whose specs differ in anything but the model's given name have different fingerprints,
hence different folders: an old cache is never read for a changed checkpoint, transform, tap, dtype
or dataset.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Interval, MaxLen, MinLen

from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.typed_json import STRICT, parse_fields, shorten
from layercache.errors import OptionError

SCHEMA = 3
"""Version of the files of a cache; part of the fingerprint."""
CODEC_SCHEMA = 4
"""Version of the files of a cache whose tokens are stored by a codec."""
UPGRADABLE = 2
"""Version that `upgrade_cache` makes a current cache of."""

Tap = Literal["norm2", "block", "block-norm", "norm1", "attn", "fc1", "act", "mlp"]
IMPORTED: Literal["imported"] = "imported"
"""Tap and architecture of a cache whose tokens another tool has computed."""
Precision = Literal["fp32", "bf16", "fp16"]
StorageDtype = Literal["float16", "float32"]

MAX_ROWS = 10**10
"""Largest number of samples of a split."""
MAX_ROW_BYTES = 2**31
"""Largest size of all stored tokens of one image."""
POOLED_KINDS = ("cls", "ap", "reg", "std", "max", "attn")
"""Token kinds that are one token of a layer."""
TOKEN_NAME = re.compile("|".join(POOLED_KINDS) + r"|(?:patch|grid:[1-9]\d{0,3})/\d{1,7}", re.ASCII)
Name = Annotated[str, MinLen(1), MaxLen(1000)]
Digest = Annotated[str, MaxLen(1000)]


@dataclass(frozen=True, kw_only=True)
class SplitIdentity:
    """Identity of one split of a dataset: what determines its rows. Labels do not."""

    __pydantic_config__ = STRICT

    rows: Annotated[int, Interval(ge=0, le=MAX_ROWS)]
    """Number of samples N."""
    ids: Digest
    """SHA-256 hex over the ids in order."""
    content: Digest
    """Digest of the images: "bytes:<sha256>" or, where hashing all bytes would take too long,
    "sizes:<sha256>" or "sample:<sha256>"."""


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """Identity of a dataset: what determines a cache."""

    __pydantic_config__ = STRICT

    name: Name
    """Name given to `extract` as dataset, a path reduced to its last folder; also the folder's
    name."""
    limit: Annotated[int, Interval(ge=0, le=MAX_ROWS)] | None
    """Number of samples kept per split (stratified), or None."""
    limit_seed: Annotated[int, Interval(ge=-(2**63), lt=2**63)]
    """Seed of the sampling; 0 where limit is None."""
    splits: Annotated[Mapping[Name, SplitIdentity], MinLen(1), MaxLen(1000)]
    """Every split of the dataset, extracted or not."""


@dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """Everything that determined the bytes of a cache."""

    __pydantic_config__ = STRICT

    model: Name
    """Name given to `extract` as model; the folder's name, not part of the fingerprint."""
    architecture: Name
    """timm's architecture name."""
    weights: Digest
    """SHA-256 hex of the backbone's weights, tensor by tensor."""
    depth: Annotated[int, Interval(ge=1, le=10_000)]
    """Number of blocks B."""
    width: Annotated[int, Interval(ge=1, le=2**20)]
    """D, the length of one token; depends on the tap."""
    tap: Literal[Tap, "imported"]
    """Point of a block at which its tokens are read (see layercache.extraction.models.taps)."""
    layers: Annotated[tuple[int, ...], MinLen(1)]
    """Stored layers, ascending, out of 1..B; B is the last."""
    tokens: Annotated[tuple[str, ...], MinLen(1)]
    """Stored tokens of a layer in order: "cls", "ap", "reg", "std", "max", "attn",
    "grid:K/0".."grid:K/<K*K-1>", "patch/0".."patch/<P-1>"."""
    projected: bool
    """The last layer went through CLIP's projection and was zero-padded to D."""
    preprocessing: Mapping[str, Any]
    """The resolved preprocessing: plain JSON values."""
    precision: Precision
    """Precision of the forward pass."""
    storage_dtype: StorageDtype
    """dtype of the stored tokens."""
    dataset: DatasetIdentity
    codec: Annotated[str, MaxLen(100)] | None = None
    """Codec of the tokens, such as "pq:64"; None: they are stored as they are."""
    schema: int = SCHEMA
    """Follows from the codec."""

    def __post_init__(self) -> None:
        if self.codec is not None and self.schema == SCHEMA:
            object.__setattr__(self, "schema", CODEC_SCHEMA)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, from which `from_json` restores the spec."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.codec is None:  # so that other caches keep their fingerprints
            del value["codec"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the spec that `to_json` wrote.

        Raises ValueError, with the field's name, if a value is missing, unknown or cannot be.
        """
        spec = parse_fields(cls, value)
        if value["schema"] != spec.schema:
            raise ValueError(f"schema: expected {spec.schema}, got {shorten(value['schema'])}")
        if (
            list(spec.layers) != sorted(set(spec.layers))
            or not 1 <= spec.layers[0] <= spec.layers[-1] <= spec.depth
        ):
            raise ValueError(
                f"layers: expected ascending numbers from 1 to {spec.depth}, got "
                f"{shorten(list(spec.layers))}"
            )
        if unknown := [name for name in spec.tokens if not TOKEN_NAME.fullmatch(name)]:
            raise ValueError(f"tokens: expected names of tokens, got {shorten(unknown[0])}")
        if len(set(spec.tokens)) < len(spec.tokens):
            raise ValueError(f"tokens: expected distinct names, got {shorten(list(spec.tokens))}")
        row_bytes = len(spec.layers) * len(spec.tokens) * spec.width * 4
        if row_bytes > MAX_ROW_BYTES:
            raise ValueError(
                f"width: expected at most {MAX_ROW_BYTES} bytes of tokens for an image, got "
                f"{row_bytes}"
            )
        if spec.codec is not None:
            try:
                name = str(CodecSpec.parse(spec.codec))
                spec.code_width  # noqa: B018  # raises if the codec does not fit the width
            except OptionError as e:
                raise ValueError(f"codec: {e}") from None
            if name != spec.codec:
                raise ValueError(f"codec: expected {name}, got {spec.codec}")
        return spec

    @property
    def code_width(self) -> int:
        """Numbers that a token is stored as: those of its code, or D without a codec."""
        return CodecSpec.parse(self.codec).code_width(self.width) if self.codec else self.width

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Data type of these numbers."""
        return np.dtype(CodecSpec.parse(self.codec).dtype if self.codec else self.storage_dtype)

    @property
    def missing(self) -> float:
        """Number that stands in the place of a token that does not exist."""
        return CodecSpec.parse(self.codec).missing if self.codec else np.nan

    @property
    def token_bytes(self) -> int:
        """Bytes of one stored token."""
        return self.code_width * self.code_dtype.itemsize

    @property
    def imported(self) -> bool:
        """True if another tool has computed the tokens: there is no encoder to run."""
        return self.tap == IMPORTED

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

"""Output of a probe on the test images, and its file.

Shapes: N test images, C classes, H attention heads, S tokens.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from tokenize import TokenError
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from layercache.cache.format.cache_spec import digest_ids

Array = np.ndarray[Any, Any]

OPTIONAL = {
    "attention_mean",
    "attention_std",
    "gate_mean",
    "gate_std",
    "sample_ids",
    "groups",
    "class_names",
}
"""Arrays that not all probes have."""
TEXTS = ("sample_ids", "groups", "class_names")
"""Fields of text, each a JSON list in UTF-8."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention:
    """Attention weights over the test images."""

    pairs: tuple[tuple[int, str], ...]
    """(layer, token) of the S columns."""
    mean: Array
    """Mean weight of each attention head on each token, (H, S) float32; a row sums to 1."""
    std: Array
    """Standard deviation over the images, (H, S) float32."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """Output of a probe on the test images."""

    logits: Array
    """(N, C) float32; of a regression the predictions in the unit of its targets, of a knn baseline
    the logarithm of its vote shares, lowered a little where classes tie
    (`baselines.neighbors.TIE_STEP`)."""
    targets: Array
    """(N,) int64, (N, C) uint8, or (N, C) float64 of a regression."""
    ids: str
    """SHA-256 hex of the test images' ids in order; equal digests mean the same images."""
    sample_ids: tuple[str, ...] | None = None
    """Ids of the test images, in order; None in probes of an older version."""
    groups: tuple[str, ...] | None = None
    """Group of each test image, such as the patient, if groups were kept together."""
    class_names: tuple[str, ...] | None = None
    """Names of the C classes, or columns of a regression; None in probes of an older version."""
    attention_mean: Array | None = None
    """(H, S) float32, see Attention."""
    attention_std: Array | None = None
    """(H, S) float32, see Attention."""
    gate_mean: Array | None = None
    """Share of the spatial branch of a fusion head in each logit, mean over images, (C,) float32.
    """
    gate_std: Array | None = None
    """Standard deviation of the share over images, (C,) float32."""

    def to_bytes(self) -> bytes:
        """Return the content of the file, an uncompressed npz."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        for name in values.keys() & TEXTS:
            values[name] = np.frombuffer(json.dumps(values[name]).encode(), np.uint8)
        arrays = {name: np.asarray(v, order="C") for name, v in values.items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(
        cls, data: bytes, *, classes: int, heads: Collection[int], tokens: int
    ) -> Predictions:
        """Return the predictions that `to_bytes` wrote.

        Args:
            data: Content of the file.
            classes: C.
            heads: Values that H may have.
            tokens: S.

        Raises:
            ValueError: It is another file, or dtypes, shapes or values are not those of a probe.
        """
        arrays = read_npz(data)
        required = {field.name for field in fields(cls)} - OPTIONAL
        if not required <= set(arrays) <= required | OPTIONAL:
            raise ValueError(f"expected logits, targets and ids, got {', '.join(sorted(arrays))}")
        ids = arrays.pop("ids")
        if ids.shape or ids.dtype.kind != "U":
            raise ValueError(f"ids: expected text, got {ids.dtype} {ids.shape}")
        texts = {name: _read_texts(name, arrays.pop(name)) for name in TEXTS if name in arrays}
        stored = replace(cls(**arrays, ids=str(ids)), **texts)  # type: ignore[arg-type]
        n = len(stored.logits) if stored.logits.ndim else 0
        _check("logits", stored.logits, shape=(n, classes), dtype="float32")
        multi_label = stored.targets.ndim == 2
        shape = (n, classes) if multi_label else (n,)
        regression = multi_label and stored.targets.dtype.kind == "f"
        dtype = "float64" if regression else "uint8" if multi_label else "int64"
        _check("targets", stored.targets, shape=shape, dtype=dtype)
        limit = 2 if multi_label else classes
        if n and not regression and not 0 <= stored.targets.min() <= stored.targets.max() < limit:
            raise ValueError(f"targets: expected 0 to {limit - 1}, got others")
        for name, values in texts.items():
            expected = classes if name == "class_names" else n
            if len(values) != expected:
                raise ValueError(f"{name}: expected {expected} values, got {len(values)}")
        if stored.sample_ids is not None and digest_ids([*stored.sample_ids]) != stored.ids:
            raise ValueError("sample_ids: expected those of the digest, got others")
        for name in ("attention_mean", "attention_std"):
            if (weights := getattr(stored, name)) is not None:
                n_heads = weights.shape[0] if weights.ndim else 0
                n_heads = n_heads if n_heads in heads else max(heads)
                _check(name, weights, shape=(n_heads, tokens), dtype="float32")
        for name in ("gate_mean", "gate_std"):
            if (shares := getattr(stored, name)) is not None:
                _check(name, shares, shape=(classes,), dtype="float32")
        return stored


def _read_texts(name: str, array: Array) -> tuple[str, ...]:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"{name}: expected uint8 (bytes,), got {array.dtype} {array.shape}")
    try:
        values = json.loads(array.tobytes())
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{name}: expected a JSON list of text, got {e}") from None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name}: expected a JSON list of text, got other JSON")
    return tuple(values)


def _check(name: str, array: Array, *, shape: tuple[int, ...], dtype: str) -> None:
    if (array.shape, array.dtype) != (shape, np.dtype(dtype)):
        raise ValueError(f"{name}: expected {dtype} {shape}, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def read_npz(data: bytes) -> dict[str, Array]:
    """Return the arrays of an uncompressed npz.

    An array whose shape or file claims more bytes than `data` has is refused before memory is
    allocated for it.

    Raises:
        ValueError: It is another file.
    """
    try:
        with ZipFile(io.BytesIO(data)) as file:
            members = file.infolist()
            if any(member.compress_type != ZIP_STORED for member in members):
                raise ValueError("expected uncompressed arrays, got compressed ones")
            if sum(member.file_size for member in members) > len(data):
                raise ValueError(f"expected arrays of at most {len(data)} bytes, got larger ones")
            return {
                member.filename.removesuffix(".npy"): _read_npy(file.read(member))
                for member in members
            }
    except (BadZipFile, EOFError, RuntimeError, OSError) as e:
        raise ValueError(f"not an npz file: {e}") from e


def _read_npy(data: bytes) -> Array:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"expected an npy file of version 1.0, got {version}")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    except (SyntaxError, TypeError, TokenError) as e:
        raise ValueError(f"expected the header of an npy file, got {e}") from None
    if dtype.hasobject or fortran_order:
        raise ValueError(f"expected numbers or text in C order, got {dtype}")
    expected, size = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != size:
        raise ValueError(f"expected {expected} bytes of {dtype} {shape}, got {size}")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()

"""A fitted codec: tables for every layer, encoding and decoding in numpy.

Shapes: L layers, n tokens, D width, W numbers of a code, R components, M groups of R / M of them, K
= 255 centroids.

This is the reference, and what readers without a device use; the forward encodes with torch
(extraction/compression/token_encoder.py) and training decodes with torch
(probing/data/token_decoder.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from layercache.cache.format.codecs.codec_spec import (
    CENTROID_MISSING,
    CENTROIDS,
    INT8_MISSING,
    INT8_SATURATED,
    CodecSpec,
)

Array = np.ndarray[Any, np.dtype[Any]]

DIMENSIONS = {
    "offset": ("layer", "code"),
    "scale": ("layer", "code"),
    "mean": ("layer", "channel"),
    "components": ("layer", "component", "channel"),
    "codebook": ("layer", "code", "centroid", "member"),
}
"""Table -> names of its dimensions."""


def table_shapes(codec: CodecSpec, *, layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the tables of a codec and their shapes; all are float32."""
    code_width = codec.code_width(width)
    shapes: dict[str, tuple[int, ...]] = {}
    if rank := codec.rank(width):
        shapes = {"mean": (layers, width), "components": (layers, rank, width)}
    if codec.kind == "pq":
        shapes["codebook"] = (layers, code_width, CENTROIDS, rank // code_width)
    if codec.dtype == "int8":
        shapes |= {"offset": (layers, code_width), "scale": (layers, code_width)}
    return shapes


@dataclass(frozen=True, eq=False)
class TokenCodec:
    """A codec with its tables."""

    spec: CodecSpec
    tables: Mapping[str, Array]
    """Those of `table_shapes`."""

    def encode(self, x_nd: Array, layer: int) -> Array:
        """Return the codes of tokens, (n, W).

        Args:
            x_nd: Tokens (n, D).
            layer: Index of their layer among the stored ones.
        """
        x = np.asarray(x_nd, np.float32)
        finite = np.asarray(np.isfinite(x).all(axis=1))
        x = np.where(finite[:, None], x, 0)
        if "components" in self.tables:
            x = (x - self.tables["mean"][layer]) @ self.tables["components"][layer].T
        if self.spec.kind == "pq":
            codebook = self.tables["codebook"][layer]
            groups = x.reshape(len(x), *codebook.shape[::2]).transpose(1, 0, 2)
            distances = np.square(codebook).sum(-1)[:, None] - 2 * groups @ codebook.swapaxes(1, 2)
            numbers: Array = distances.argmin(-1).T.astype(np.uint8)
            numbers[~finite] = CENTROID_MISSING
            return numbers
        if self.spec.dtype == "float16":
            x[~finite] = np.nan
            return x.astype(np.float16)
        steps = np.rint((x - self.tables["offset"][layer]) / self.tables["scale"][layer])
        codes: Array = steps.clip(-INT8_SATURATED, INT8_SATURATED).astype(np.int8)
        codes[~finite] = INT8_MISSING
        return codes

    def decode(self, codes_nw: Array, layer: int) -> Array:
        """Return the tokens of codes, float32 (n, D).

        Args:
            codes_nw: Codes (n, W), none of them of a token that does not exist.
            layer: Index of their layer among the stored ones.
        """
        if self.spec.kind == "pq":
            codebook = self.tables["codebook"][layer]
            x: Array = codebook[np.arange(len(codebook)), codes_nw].reshape(len(codes_nw), -1)
        else:
            x = codes_nw.astype(np.float32)
        if self.spec.dtype == "int8":
            x = x * self.tables["scale"][layer] + self.tables["offset"][layer]
        if "components" in self.tables:
            x = x @ self.tables["components"][layer] + self.tables["mean"][layer]
        return x


def count_saturated(codes: Array) -> int:
    """Return how many int8 codes are of numbers outside the range of the sample; 0 of others."""
    if codes.dtype != np.int8:
        return 0
    # one comparison: -127 and 127 are the only ones above 126 as unsigned distance from zero
    return int(np.count_nonzero(np.abs(codes) == INT8_SATURATED))

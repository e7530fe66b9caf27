"""Encodes tokens at the tap, on the device of the forward; the reference is `TokenCodec.encode`.

Shapes: T tokens of a layer, B images, D width, W numbers of a code, n tokens, M groups of d
components, K centroids.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from layercache.cache.format.codecs.codec_spec import (
    CENTROID_MISSING,
    INT8_MISSING,
    INT8_SATURATED,
)
from layercache.cache.format.codecs.token_codec import TokenCodec

DISTANCE_ELEMENTS = {"cpu": 2**20, "cuda": 2**26, "mps": 2**24}
"""Distances between tokens and centroids in memory at a time: on a CPU within its cache."""


class TokenEncoder:
    """A codec whose tables are on a device."""

    def __init__(self, codec: TokenCodec, device: torch.device) -> None:
        """Copy the tables to the device."""
        self._spec = codec.spec
        self._tables = {
            name: torch.from_numpy(table.copy()).to(device) for name, table in codec.tables.items()
        }

    def __call__(self, tokens_tbd: Tensor, layer: int) -> Tensor:
        """Return the codes of tokens, (T, B, W).

        Args:
            tokens_tbd: Tokens, float32 (T, B, D).
            layer: Index of their layer among the stored ones.
        """
        n_tokens, n_images, _ = tokens_tbd.shape
        x = tokens_tbd.flatten(0, 1)
        finite = x.isfinite().all(-1, keepdim=True)
        x = torch.where(finite, x, 0.0)
        return self._encode(x, finite, layer).reshape(n_tokens, n_images, -1)

    def _encode(self, x: Tensor, finite: Tensor, layer: int) -> Tensor:
        if "components" in self._tables:
            x = (x - self._tables["mean"][layer]) @ self._tables["components"][layer].T
        if self._spec.kind == "pq":
            codebook = self._tables["codebook"][layer]
            groups = x.reshape(len(x), len(codebook), -1).transpose(0, 1)
            numbers = torch.stack(list(nearest_centroids(groups, codebook)), dim=1)
            return torch.where(finite, numbers, CENTROID_MISSING).to(torch.uint8)
        if self._spec.dtype == "float16":
            return torch.where(finite, x, torch.nan).to(torch.float16)
        steps = ((x - self._tables["offset"][layer]) / self._tables["scale"][layer]).round_()
        codes = steps.clamp_(-INT8_SATURATED, INT8_SATURATED)
        return torch.where(finite, codes, INT8_MISSING).to(torch.int8)


def nearest_centroids(x_mnd: Tensor, centroids_mkd: Tensor) -> Iterator[Tensor]:
    """Yield for each group the number of each token's nearest centroid, int64 (n,).

    |x - c|^2 = |x|^2 - 2 x c + |c|^2, of which the first term does not change the order.
    """
    rows = max(1, DISTANCE_ELEMENTS[x_mnd.device.type] // centroids_mkd.shape[1])
    for x_nd, centroids in zip(x_mnd, centroids_mkd, strict=True):
        half_norms = centroids.square().sum(1) / 2
        yield torch.cat(
            [
                torch.addmm(half_norms, part, centroids.T, alpha=-1).argmin(1)
                for part in x_nd.split(rows)
            ]
        )

"""Decodes tokens where the batches are made; the reference is `TokenCodec.decode`.

Shapes: S tokens of a row, n rows, D width, W numbers of a code, M groups of components, K
centroids.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from layercache.cache.format.codecs.token_codec import TokenCodec


class TokenDecoder:
    """A codec whose tables are on a device, for the tokens of a source."""

    def __init__(self, codec: TokenCodec, layers: Sequence[int], device: torch.device) -> None:
        """Copy the tables to the device.

        Args:
            codec: The codec.
            layers: Layer of each of the S tokens, as an index among the stored layers.
            device: Device of the codes.
        """
        self.device = device
        self._spec = codec.spec
        self._tables = {
            name: torch.from_numpy(table.copy()).to(device) for name, table in codec.tables.items()
        }
        if codec.spec.kind == "pq":
            # centroid k of group m is row m K + k of one table
            codebook = self._tables["codebook"]
            _, groups, centroids, _ = codebook.shape
            self._tables["codebook"] = codebook.flatten(1, 2)
            self._first = torch.arange(groups, device=device) * centroids
        self._runs: list[tuple[int, slice]] = []
        start = 0
        for layer, run in groupby(layers):
            stop = start + len(list(run))
            self._runs.append((layer, slice(start, stop)))
            start = stop
        last = codec.tables["mean"] if "mean" in codec.tables else codec.tables["scale"]
        self.width: int = last.shape[1]
        """D."""

    def decode(self, codes_snw: Tensor, *, tokens: slice = slice(None)) -> Tensor:
        """Return the tokens of codes, float32 (S, n, D).

        Args:
            codes_snw: Codes of some rows.
            tokens: Which of the S tokens the codes are of, a range without a step.
        """
        first, stop, _ = tokens.indices(self._runs[-1][1].stop)
        parts = [
            self._decode_layer(codes_snw[max(a, first) - first : min(b, stop) - first], layer)
            for layer, a, b in ((layer, run.start, run.stop) for layer, run in self._runs)
            if max(a, first) < min(b, stop)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode_layer(self, codes_snw: Tensor, layer: int) -> Tensor:
        if self._spec.kind == "pq":
            rows = codes_snw.int() + self._first.int()
            x = torch.nn.functional.embedding(rows, self._tables["codebook"][layer]).flatten(2)
        else:
            x = codes_snw.float()
        if self._spec.dtype == "int8":
            x = torch.addcmul(self._tables["offset"][layer], x, self._tables["scale"][layer])
        if "components" in self._tables:
            mean, components = self._tables["mean"][layer], self._tables["components"][layer]
            x = torch.addmm(mean, x.flatten(0, 1), components).view(*x.shape[:2], -1)
        return x

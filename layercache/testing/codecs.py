"""Codecs with tables of given tokens, without torch.

Shapes: L layers, T token kinds, N rows, D width, W numbers of a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from layercache.cache import CacheSpec
from layercache.cache.format.codecs.codec_spec import CENTROIDS, INT8_LEVELS, CodecSpec
from layercache.cache.format.codecs.token_codec import TokenCodec, table_shapes

Array = np.ndarray[Any, np.dtype[Any]]


def make_codec(spec: CacheSpec, tokens_ltnd: Array) -> TokenCodec:
    """Return the codec of a spec: ranges, principal components, or tokens drawn as centroids.

    Args:
        spec: Spec with a codec.
        tokens_ltnd: Tokens (L, T, N, D).
    """
    codec = CodecSpec.parse(str(spec.codec))
    shapes = table_shapes(codec, layers=len(spec.layers), width=spec.width)
    tables = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for layer, tokens in enumerate(tokens_ltnd):
        x = tokens.reshape(-1, spec.width).astype(np.float64)
        if rank := codec.rank(spec.width):
            mean = x.mean(0)
            components = np.linalg.svd(x - mean, full_matrices=False)[2][:rank]
            tables["mean"][layer], tables["components"][layer] = mean, components
            x = (x - mean) @ components.T
        if codec.kind == "pq":
            drawn = np.random.default_rng(layer).choice(len(x), CENTROIDS)
            groups = x[drawn].reshape(CENTROIDS, codec.size, -1)
            tables["codebook"][layer] = groups.transpose(1, 0, 2)
        if codec.dtype == "int8":
            low, high = x.min(0), x.max(0)
            tables["offset"][layer] = (low + high) / 2
            tables["scale"][layer] = (high - low) / 2 / INT8_LEVELS
    return TokenCodec(codec, tables)


def encode_tokens(codec: TokenCodec, tokens_ltnd: Array) -> Array:
    """Return the codes of tokens, (L, T, N, W)."""
    return np.stack(
        [
            np.stack([codec.encode(x_nd, layer) for x_nd in tokens_tnd])
            for layer, tokens_tnd in enumerate(tokens_ltnd)
        ]
    )

"""Fits a codec (int8, PCA or product quantization) on a sample of tokens.

* int8: the middle and the half width of the values of each channel, or coefficient.
* PCA: eigenvectors of the covariance of a layer's tokens, in float64.
* Product quantization (PQ): principal components in groups of about equal product of variances (the
  parametric form of Ge, He, Ke, Sun: Optimized product quantization, TPAMI 2014), then k-means
  (Lloyd's algorithm) in each group, from tokens that a fixed seed draws. Jegou, Douze, Schmid:
  Product quantization for nearest neighbor search, TPAMI 2011.

Shapes: L layers, n tokens, D width, R components, M groups of d = R / M components, K centroids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from layercache.cache.format.codecs.codec_spec import CENTROIDS, INT8_LEVELS, CodecSpec
from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.extraction.compression.sample import TokenSample
from layercache.extraction.compression.token_encoder import nearest_centroids

KMEANS_ITERATIONS = 10
KMEANS_TOKENS = 10_240
"""Tokens that the centroids are fitted on, 40 for each."""


def fit_codec(codec: CodecSpec, sample: TokenSample) -> TokenCodec:
    """Return a codec for the layers of a sample.

    Args:
        codec: The codec to fit.
        sample: Tokens of some training images.
    """
    tables: dict[str, list[Tensor]] = {}
    for layer, x_nd in enumerate(sample.tokens_lnd):
        if codec.kind == "pq":
            mean, components = fit_components(x_nd, codec.rank(x_nd.shape[1]))
            x_nr = (x_nd - mean) @ components.T
            order = balance_groups(x_nr.var(0).tolist(), codec.size)
            fitted = {
                "mean": mean,
                "components": components[order],
                "codebook": fit_codebook(x_nr[:, order], codec.size),
            }
        elif codec.kind == "pca":
            mean, components = fit_components(x_nd, codec.size)
            fitted = {"mean": mean, "components": components}
            if codec.dtype == "int8":
                coefficients = (x_nd - mean) @ components.T
                fitted |= fit_range(coefficients.amin(0), coefficients.amax(0))
        else:
            fitted = fit_range(sample.low_ld[layer], sample.high_ld[layer])
        for name, table in fitted.items():
            tables.setdefault(name, []).append(table)
    return TokenCodec(
        codec,
        {
            name: torch.stack(layers).float().cpu().numpy().astype(np.float32)
            for name, layers in tables.items()
        },
    )


def fit_range(low: Tensor, high: Tensor) -> dict[str, Tensor]:
    """Return offset and scale that map [low, high] to the codes from -126 to 126.

    A channel without a range gets a scale of one.
    """
    scale = (high - low) / (2 * INT8_LEVELS)
    return {"offset": (low + high) / 2, "scale": torch.where(scale > 0, scale, 1.0)}


def fit_components(x_nd: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the first R principal components (R, D), float32.

    The sign of a component is that of its largest entry, so that it does not depend on the solver.
    """
    # an Apple GPU has no float64
    x = x_nd.double() if x_nd.device.type != "mps" else x_nd.cpu().double()
    mean = x.mean(0)
    centred = x - mean
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -size:].flip(1).T
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    return mean.float().to(x_nd.device), components.float().to(x_nd.device)


def balance_groups(variances: Sequence[float], size: int) -> list[int]:
    """Return the components in M groups of equal length, one group after another.

    In the order of falling variance each goes to the group, among those with room, whose product of
    variances is smallest: Gaussian groups of equal product have equal errors at equal bits.
    """
    room = len(variances) // size
    groups: list[list[int]] = [[] for _ in range(size)]
    logs = [0.0] * size
    # relative to the smallest, so that every component makes a product larger
    smallest = max(min(variances), 1e-9 * max(variances), 1e-30)
    for component in sorted(range(len(variances)), key=lambda i: -variances[i]):
        free = [m for m in range(size) if len(groups[m]) < room]
        m = min(free, key=lambda m: (logs[m] if groups[m] else -1.0, m))
        groups[m].append(component)
        logs[m] += math.log(max(variances[component], smallest) / smallest)
    return [component for group in groups for component in group]


def fit_codebook(x_nd: Tensor, size: int) -> Tensor:
    """Return the centroids of M groups of neighbouring channels, float32 (M, K, d)."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(x_nd), generator=generator)[:KMEANS_TOKENS].to(x_nd.device)
    x_mnd = x_nd[chosen].reshape(len(chosen), size, -1).transpose(0, 1).contiguous()
    # a sample of fewer tokens than centroids repeats some
    drawn = torch.arange(CENTROIDS, device=x_nd.device) % x_mnd.shape[1]
    centroids = x_mnd[:, drawn].clone()
    ones = x_mnd.new_ones(x_mnd.shape[1])
    for _ in range(KMEANS_ITERATIONS):
        for m, codes in enumerate(nearest_centroids(x_mnd, centroids)):
            counts = x_mnd.new_zeros(CENTROIDS).index_add_(0, codes, ones)
            sums = torch.zeros_like(centroids[m]).index_add_(0, codes, x_mnd[m])
            used = counts > 0  # a centroid that no token is nearest to stays where it is
            centroids[m][used] = sums[used] / counts[used, None]
    return centroids

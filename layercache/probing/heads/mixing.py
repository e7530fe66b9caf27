"""Weighted sums of tokens, each through a map of its own, without keeping the sums.

Shapes: B rows, S tokens, D width, K attention heads of all configurations (G*H), E length of a map's output.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cpu": 2 * 2**20, "cuda": 2**30}
"""Sums that exist at a time. On a CPU about what the second-level caches of two cores hold: a tenth of a step less than with 8 MiB at 24 x 96."""


def mix_and_map(weights_bsk: Tensor, x_bsd: Tensor, maps_ked: Tensor) -> Tensor:
    """out[k, b, e] = sum_d maps[k, e, d] sum_s weights[b, s, k] x[b, s, d]; gradients for the weights and the maps, none for x."""
    result: Tensor = _MixAndMap.apply(weights_bsk, x_bsd, maps_ked)
    return result


class _MixAndMap(torch.autograd.Function):
    """The sums (B, K, D) are by far the largest intermediate, K / S times the tokens themselves.

    They are made in chunks of rows and once more in the backward pass: S of the 4 E + 3 S products per element that a training step takes anyway.
    """

    @staticmethod
    def forward(ctx: Any, weights_bsk: Tensor, x_bsd: Tensor, maps_ked: Tensor) -> Tensor:
        ctx.save_for_backward(weights_bsk, x_bsd, maps_ked)
        out = x_bsd.new_empty(maps_ked.shape[0], len(x_bsd), maps_ked.shape[1])
        for rows in _chunks(x_bsd, len(maps_ked)):
            sums = torch.bmm(weights_bsk[rows].transpose(1, 2), x_bsd[rows])  # (b, K, D)
            out[:, rows] = torch.bmm(sums.transpose(0, 1), maps_ked.transpose(1, 2))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        weights_bsk, x_bsd, maps_ked = ctx.saved_tensors
        out_kbe = gradients[0]
        d_weights = torch.empty_like(weights_bsk)
        d_maps = torch.zeros(
            maps_ked.shape,
            dtype=torch.promote_types(maps_ked.dtype, torch.float32),
            device=maps_ked.device,
        )
        for rows in _chunks(x_bsd, len(maps_ked)):
            sums = torch.bmm(weights_bsk[rows].transpose(1, 2), x_bsd[rows])
            if d_maps.dtype == sums.dtype:
                d_maps.baddbmm_(out_kbe[:, rows].transpose(1, 2), sums.transpose(0, 1))
            else:  # the chunks of bfloat16 products are added up in float32
                d_maps += torch.bmm(out_kbe[:, rows].transpose(1, 2), sums.transpose(0, 1))
            d_sums = torch.bmm(out_kbe[:, rows], maps_ked)  # (K, b, D)
            d_weights[rows] = torch.bmm(x_bsd[rows], d_sums.permute(1, 2, 0))
        return d_weights, None, d_maps.to(maps_ked.dtype)


def _chunks(x_bsd: Tensor, sums: int) -> Iterator[slice]:
    """Nearly equal ranges of rows whose sums take at most CHUNK_BYTES."""
    rows = len(x_bsd)
    count = -(
        -rows * sums * x_bsd.shape[2] * x_bsd.element_size() // CHUNK_BYTES[x_bsd.device.type]
    )
    bounds = [rows * i // count for i in range(count + 1)]
    return (slice(a, b) for a, b in itertools.pairwise(bounds) if b > a)

"""Weighted sums of tokens followed by one map per attention head, without storing the sums.

Shapes: B rows of a batch, S tokens, D width, K attention heads of all configurations (G*H), E
outputs of a map.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cpu": 2 * 2**20, "cuda": 2**30}
"""Size of the sums that exist at a time, by device type. The value for the CPU is about the size of
the second-level caches of two cores: a training step at S = 24 tokens and K = 96 takes a tenth less
time than with 8 MiB."""


def mix_and_map(
    weights_bsk: Tensor, x_bsd: Tensor, maps_ked: Tensor, *, chunk_bytes: int | None = None
) -> Tensor:
    """Return out[k, b, e] = sum_d maps[k, e, d] sum_s weights[b, s, k] x[b, s, d].

    Args:
        weights_bsk: Weights of the sums.
        x_bsd: Tokens; they get no gradient.
        maps_ked: One linear map per sum.
        chunk_bytes: Size of the sums that exist at a time; None: CHUNK_BYTES of the device.
    """
    chunk_bytes = chunk_bytes or CHUNK_BYTES[x_bsd.device.type]
    result: Tensor = _MixAndMap.apply(weights_bsk, x_bsd, maps_ked, chunk_bytes)
    return result


class _MixAndMap(torch.autograd.Function):
    """Computes the sums in chunks of rows, and again in the backward pass.

    The sums (B, K, D) are by far the largest intermediate: K / S times the size of the tokens.
    Computing them twice costs S of the 3 (E + S) products per element of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any, weights_bsk: Tensor, x_bsd: Tensor, maps_ked: Tensor, chunk_bytes: int
    ) -> Tensor:
        ctx.save_for_backward(weights_bsk, x_bsd, maps_ked)
        ctx.chunk_bytes = chunk_bytes
        out_kbe = x_bsd.new_empty(maps_ked.shape[0], len(x_bsd), maps_ked.shape[1])
        for rows in _chunks(x_bsd, len(maps_ked), chunk_bytes):
            sums_bkd = torch.bmm(weights_bsk[rows].transpose(1, 2), x_bsd[rows])
            out_kbe[:, rows] = torch.bmm(sums_bkd.transpose(0, 1), maps_ked.transpose(1, 2))
        return out_kbe

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, None]:
        weights_bsk, x_bsd, maps_ked = ctx.saved_tensors
        d_out_kbe = gradients[0]
        d_weights_bsk = torch.empty_like(weights_bsk)
        d_maps_ked = torch.zeros(
            maps_ked.shape,
            dtype=torch.promote_types(maps_ked.dtype, torch.float32),
            device=maps_ked.device,
        )
        for rows in _chunks(x_bsd, len(maps_ked), ctx.chunk_bytes):
            sums_bkd = torch.bmm(weights_bsk[rows].transpose(1, 2), x_bsd[rows])
            d_out_keb = d_out_kbe[:, rows].transpose(1, 2)
            if d_maps_ked.dtype == sums_bkd.dtype:
                d_maps_ked.baddbmm_(d_out_keb, sums_bkd.transpose(0, 1))
            else:  # bfloat16: the products of the chunks are accumulated in float32
                d_maps_ked += torch.bmm(d_out_keb, sums_bkd.transpose(0, 1))
            d_sums_kbd = torch.bmm(d_out_kbe[:, rows], maps_ked)
            d_weights_bsk[rows] = torch.bmm(x_bsd[rows], d_sums_kbd.permute(1, 2, 0))
        return d_weights_bsk, None, d_maps_ked.to(maps_ked.dtype), None


def _chunks(x_bsd: Tensor, n_sums: int, chunk_bytes: int) -> Iterator[slice]:
    """Yield nearly equal ranges of rows whose sums take at most `chunk_bytes`."""
    n_rows = len(x_bsd)
    n_chunks = -(-n_rows * n_sums * x_bsd.shape[2] * x_bsd.element_size() // chunk_bytes)
    bounds = [n_rows * i // n_chunks for i in range(n_chunks + 1)]
    return (slice(a, b) for a, b in itertools.pairwise(bounds) if b > a)

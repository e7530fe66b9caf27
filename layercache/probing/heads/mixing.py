"""Weighted sums of tokens, scaled and mapped by each attention head, without storing many sums.

The sums (B, K, D) are by far the largest intermediate of a head: K / S times the size of the
tokens. They are computed in blocks, and again in the backward pass, which costs S of the
3 (E + S) products per element of a training step. A block has all rows, or many, of
some of the K sums: products of few rows would be slow, and each block of rows reads the maps again.
Only the sums of a batch of few rows are stored (MAX_SCALED_ROWS).

Shapes: B rows of a batch, S tokens, D width, G configurations of H attention heads each, K = G*H
sums, E outputs of a map.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_BYTES = {"cpu": 16 * 2**20, "cuda": 2**30, "mps": 2**28}
"""Size of the sums that exist at a time, by device type. The value for the CPU fits into the shared
cache of most processors (benchmarks/mixing.py)."""
BLOCK_ROWS = 128
"""Rows that a block should have before it has several sums: products of fewer are slow."""

MAX_SCALED_ROWS = 2
"""Rows per output of a map up to which the sums are scaled on a CPU, and the maps above it: where
the two take the same time at 24 x 384, 24 x 768 and 48 x 1024."""


def mix_and_map(
    weights_bsk: Tensor,
    x_bsd: Tensor,
    maps_ked: Tensor,
    *,
    scale_gd: Tensor | None = None,
    shift_gd: Tensor | None = None,
    excess_bk: Tensor | None = None,
    block_bytes: int | None = None,
) -> Tensor:
    """Return the maps of weighted sums of tokens, (K, B, E).

    out[k, b] = maps[k] (scale[g] * sum_s weights[b, s, k] x[b, s] + excess[b, k] shift[g]), where g
    is the configuration of sum k.

    Args:
        weights_bsk: Weights of the sums.
        x_bsd: Tokens; they get no gradient.
        maps_ked: One linear map per sum.
        scale_gd: Factors of the sums' elements; None: 1, and no shift.
        shift_gd: Vector that is added to the scaled sums.
        excess_bk: How often it is added to each; None: never.
        block_bytes: Size of the sums that exist at a time; None: BLOCK_BYTES of the device.
    """
    block_bytes = block_bytes or BLOCK_BYTES[x_bsd.device.type]
    few_rows = x_bsd.device.type == "cpu" and len(x_bsd) <= MAX_SCALED_ROWS * maps_ked.shape[1]
    out: Tensor
    if few_rows and scale_gd is not None and shift_gd is not None:
        # a pass over the few sums takes less time than one over the maps and its gradient
        out = _MixScaleAndMap.apply(weights_bsk, x_bsd, maps_ked, scale_gd, shift_gd, excess_bk)
    else:
        out = _MixAndMap.apply(
            weights_bsk, x_bsd, maps_ked, scale_gd, shift_gd, excess_bk, block_bytes
        )
    return out


class _MixAndMap(torch.autograd.Function):
    """Sums in blocks; the maps are scaled, and what they map the shift to is added."""

    @staticmethod
    def forward(
        ctx: Any,
        weights_bsk: Tensor,
        x_bsd: Tensor,
        maps_ked: Tensor,
        scale_gd: Tensor | None,
        shift_gd: Tensor | None,
        excess_bk: Tensor | None,
        block_bytes: int,
    ) -> Tensor:
        scaled_ked, shift_ke = maps_ked, None
        if scale_gd is not None:
            maps_gfd = maps_ked.view(len(scale_gd), -1, maps_ked.shape[2])
            scaled_ked = (maps_gfd * scale_gd[:, None]).view_as(maps_ked)
            if shift_gd is not None and excess_bk is not None:
                shift_ke = (maps_gfd @ shift_gd[:, :, None]).view(maps_ked.shape[:2])
        ctx.save_for_backward(
            weights_bsk, x_bsd, maps_ked, scaled_ked, shift_ke, scale_gd, shift_gd, excess_bk
        )
        ctx.blocks = _plan_blocks(x_bsd, len(maps_ked), block_bytes)
        out_kbe = x_bsd.new_empty(maps_ked.shape[0], len(x_bsd), maps_ked.shape[1])
        for sums, rows in itertools.product(*ctx.blocks):
            sums_bkd = torch.bmm(weights_bsk[rows, :, sums].transpose(1, 2), x_bsd[rows])
            out_kbe[sums, rows] = torch.bmm(sums_bkd.transpose(0, 1), scaled_ked[sums].mT)
        if shift_ke is not None and excess_bk is not None:
            out_kbe.addcmul_(excess_bk.t()[:, :, None], shift_ke[:, None])
        return out_kbe

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights_bsk, x_bsd, maps_ked, scaled_ked, shift_ke, scale_gd, shift_gd, excess_bk = (
            ctx.saved_tensors
        )
        d_out_kbe = gradients[0]
        d_weights_bsk, d_maps_ked = torch.empty_like(weights_bsk), torch.empty_like(maps_ked)
        blocks_of_sums, blocks_of_rows = ctx.blocks
        # bfloat16: the products of the blocks of rows are added in float32
        in_float32 = len(blocks_of_rows) > 1 and maps_ked.dtype.itemsize < 4
        for sums in blocks_of_sums:
            d_maps = d_maps_ked[sums]
            if in_float32:
                d_maps = torch.zeros_like(d_maps, dtype=torch.float32)
            for i, rows in enumerate(blocks_of_rows):
                sums_bkd = torch.bmm(weights_bsk[rows, :, sums].transpose(1, 2), x_bsd[rows])
                d_block_kbe = d_out_kbe[sums, rows]
                if in_float32:
                    d_maps += torch.bmm(d_block_kbe.mT, sums_bkd.transpose(0, 1))
                else:
                    d_maps.baddbmm_(d_block_kbe.mT, sums_bkd.transpose(0, 1), beta=min(i, 1))
                d_sums_kbd = torch.bmm(d_block_kbe, scaled_ked[sums])
                d_weights_bsk[rows, :, sums] = torch.bmm(x_bsd[rows], d_sums_kbd.permute(1, 2, 0))
            if in_float32:
                d_maps_ked[sums] = d_maps
        d_scale_gd = d_shift_gd = d_excess_bk = None
        if scale_gd is not None:
            d_scale_gd = torch.empty_like(scale_gd)
            for g, heads in _heads_of_configs(len(maps_ked), len(scale_gd)):
                d_scale_gd[g] = (d_maps_ked[heads] * maps_ked[heads]).sum((0, 1))
                d_maps_ked[heads] *= scale_gd[g]
        if shift_ke is not None:
            d_excess_bk = torch.bmm(d_out_kbe, shift_ke[:, :, None])[:, :, 0].t()
            d_shift_ke = torch.bmm(excess_bk.t()[:, None], d_out_kbe)[:, 0]
            d_shift_gd = torch.empty_like(shift_gd)
            for g, heads in _heads_of_configs(len(maps_ked), len(shift_gd)):
                d_shift_gd[g] = d_shift_ke[heads].flatten() @ maps_ked[heads].flatten(0, 1)
                d_maps_ked[heads].flatten(0, 1).addr_(d_shift_ke[heads].flatten(), shift_gd[g])
        return d_weights_bsk, None, d_maps_ked, d_scale_gd, d_shift_gd, d_excess_bk, None


def _plan_blocks(x_bsd: Tensor, n_sums: int, block_bytes: int) -> tuple[list[slice], list[slice]]:
    """Return nearly equal ranges of sums and of rows; a block of both takes `block_bytes` at most.

    There are as many sums in a block as BLOCK_ROWS rows, or all, leave room for.
    """
    n_rows, sum_bytes = len(x_bsd), x_bsd.shape[2] * x_bsd.element_size()
    max_sums = max(1, block_bytes // (min(max(1, n_rows), BLOCK_ROWS) * sum_bytes))
    max_sums = min(n_sums, max_sums)
    max_rows = max(1, block_bytes // (max_sums * sum_bytes))
    return _split(n_sums, max_sums), _split(n_rows, max_rows)


def _split(n: int, max_size: int) -> list[slice]:
    """Return the fewest ranges of at most `max_size` that cover n numbers, nearly equally long."""
    n_parts = max(1, -(-n // max_size))
    bounds = [n * i // n_parts for i in range(n_parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


class _MixScaleAndMap(torch.autograd.Function):
    """Sums of few rows, which are stored and scaled, one configuration after the other."""

    @staticmethod
    def forward(
        ctx: Any,
        weights_bsk: Tensor,
        x_bsd: Tensor,
        maps_ked: Tensor,
        scale_gd: Tensor,
        shift_gd: Tensor,
        excess_bk: Tensor | None,
    ) -> Tensor:
        (n_sums, n_outputs, width), n_rows = maps_ked.shape, len(x_bsd)
        sums_gbhd = x_bsd.new_empty(len(scale_gd), n_rows, n_sums // len(scale_gd), width)
        out_kbe = x_bsd.new_empty(n_sums, n_rows, n_outputs)
        scaled_bhd = torch.empty_like(sums_gbhd[0])
        for g, heads in _heads_of_configs(n_sums, len(scale_gd)):
            torch.bmm(weights_bsk[:, :, heads].transpose(1, 2), x_bsd, out=sums_gbhd[g])
            excess_bh = None if excess_bk is None else excess_bk[:, heads]
            _scale(sums_gbhd[g], scale_gd[g], shift_gd[g], excess_bh, out=scaled_bhd)
            torch.bmm(scaled_bhd.transpose(0, 1), maps_ked[heads].mT, out=out_kbe[heads])
        ctx.save_for_backward(x_bsd, maps_ked, scale_gd, shift_gd, excess_bk, sums_gbhd)
        return out_kbe

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_bsd, maps_ked, scale_gd, shift_gd, excess_bk, sums_gbhd = ctx.saved_tensors
        d_out_kbe = gradients[0]
        d_weights_bsk = x_bsd.new_empty(*x_bsd.shape[:2], len(maps_ked))
        d_maps_ked = torch.empty_like(maps_ked)
        d_scale_gd, d_shift_gd = torch.empty_like(scale_gd), torch.zeros_like(shift_gd)
        d_excess_bk = None if excess_bk is None else torch.empty_like(excess_bk)
        scaled_bhd = torch.empty_like(sums_gbhd[0])
        for g, heads in _heads_of_configs(len(maps_ked), len(scale_gd)):
            d_scaled_hbd = torch.bmm(d_out_kbe[heads], maps_ked[heads])
            excess_bh = None if excess_bk is None else excess_bk[:, heads]
            _scale(sums_gbhd[g], scale_gd[g], shift_gd[g], excess_bh, out=scaled_bhd)
            if excess_bh is not None and d_excess_bk is not None:
                flat = d_scaled_hbd.flatten(0, 1)
                d_shift_gd[g] = excess_bh.t().flatten() @ flat
                d_excess_bk[:, heads] = (flat @ shift_gd[g]).view(*d_scaled_hbd.shape[:2]).t()
            torch.bmm(d_out_kbe[heads].mT, scaled_bhd.transpose(0, 1), out=d_maps_ked[heads])
            torch.mul(sums_gbhd[g], d_scaled_hbd.transpose(0, 1), out=scaled_bhd)
            d_scale_gd[g] = scaled_bhd.sum((0, 1))
            d_scaled_hbd *= scale_gd[g]
            d_weights_bsk[:, :, heads] = torch.bmm(x_bsd, d_scaled_hbd.permute(1, 2, 0))
        return d_weights_bsk, None, d_maps_ked, d_scale_gd, d_shift_gd, d_excess_bk


def _scale(
    sums_bhd: Tensor, scale_d: Tensor, shift_d: Tensor, excess_bh: Tensor | None, *, out: Tensor
) -> None:
    """Write the sums of one configuration, scaled and shifted, to `out`."""
    torch.mul(sums_bhd, scale_d, out=out)
    if excess_bh is not None:
        out.addcmul_(excess_bh[:, :, None], shift_d)


def _heads_of_configs(n_sums: int, n_configs: int) -> Iterator[tuple[int, slice]]:
    """Yield each configuration and the range of its heads along K."""
    n_heads = n_sums // n_configs
    return ((g, slice(g * n_heads, (g + 1) * n_heads)) for g in range(n_configs))

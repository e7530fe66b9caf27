"""Linear maps of G configurations, whose gradients have the layout of the weights.

Shapes: G configurations, B rows of a batch, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def batched_linear(x_gbi: Tensor, weight_goi: Tensor) -> Tensor:
    """Return x[g] weight[g]^T, (G, B, O).

    As torch.bmm of the transposed weights, but the weights' gradient is contiguous, so that an
    optimizer need not copy it.
    """
    result: Tensor = _BatchedLinear.apply(x_gbi, weight_goi)
    return result


class _BatchedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_gbi: Tensor, weight_goi: Tensor) -> Tensor:
        ctx.save_for_backward(x_gbi, weight_goi)
        return torch.bmm(x_gbi, weight_goi.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x_gbi, weight_goi = ctx.saved_tensors
        d_out_gbo = gradients[0]
        return torch.bmm(d_out_gbo, weight_goi), torch.bmm(d_out_gbo.transpose(1, 2), x_gbi)

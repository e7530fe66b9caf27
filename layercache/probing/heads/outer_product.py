"""Matrix-vector products whose matrices get their gradients as outer products.

The gradient of W in y = W x is the outer product of dy and x. A head whose W maps one vector, not a
batch, need not store a matrix for it: the optimizer forms it piece by piece, in the cache.

Shapes: G configurations, K blocks of a matrix, each of I rows and J columns.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class OuterProduct(NamedTuple):
    """The gradient of a weight (G, K*I, J): block k of it is the outer product of two vectors."""

    left_gki: Tensor
    right_gkj: Tensor

    def norms(self) -> Tensor:
        """Return the Frobenius norm of each configuration's gradient, (G,)."""
        left_gk, right_gk = self.left_gki.square().sum(-1), self.right_gkj.square().sum(-1)
        return (left_gk * right_gk).sum(-1).sqrt()

    def dense(self) -> Tensor:
        """Return the gradient as a matrix, (G, K*I, J)."""
        return (self.left_gki[..., :, None] * self.right_gkj[..., None, :]).flatten(1, 2)

    def iter_parts(self, g: int, *, max_elements: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield ranges of rows and the gradient there, for one configuration.

        Args:
            g: Number of the configuration.
            max_elements: Size of a part; it has at least one row.
        """
        left_ki, right_kj = self.left_gki[g], self.right_gkj[g]
        (n_blocks, height), width = left_ki.shape, right_kj.shape[1]
        step = max(1, max_elements // (height * width))
        rows_step = height if step > 1 else min(height, max(1, max_elements // width))
        for k in range(0, n_blocks, step):
            blocks = slice(k, k + step)
            for i in range(0, height, rows_step):
                left = left_ki[blocks, i : i + rows_step]
                part = (left[:, :, None] * right_kj[blocks, None]).flatten(0, 1)
                first = k * height + i
                yield slice(first, first + len(part)), part


OuterProducts = MutableMapping[str, OuterProduct]
"""Gradients by the weight's name, filled by the backward pass."""


def matvec(
    weight_gkij: Tensor, x_gkj: Tensor, *, name: str = "", outer: OuterProducts | None = None
) -> Tensor:
    """Return weight[g, k] x[g, k], (G, K, I).

    Args:
        weight_gkij: Matrices.
        x_gkj: Vectors.
        name: Name of the weight.
        outer: Receives the weight's gradient in the backward pass; None: autograd gets it.
    """
    result: Tensor = _MatVec.apply(weight_gkij, x_gkj, name, outer)
    return result


def vecmat(
    x_gki: Tensor, weight_gkij: Tensor, *, name: str = "", outer: OuterProducts | None = None
) -> Tensor:
    """Return x[g, k] weight[g, k], (G, K, J); arguments as in `matvec`."""
    result: Tensor = _VecMat.apply(x_gki, weight_gkij, name, outer)
    return result


class _MatVec(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_gkij: Tensor, x_gkj: Tensor, name: str, outer: OuterProducts | None
    ) -> Tensor:
        ctx.save_for_backward(weight_gkij, x_gkj)
        ctx.name, ctx.outer = name, outer
        return _multiply(weight_gkij, x_gkj)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight_gkij, x_gkj = ctx.saved_tensors
        d_weight = _record(ctx, weight_gkij, OuterProduct(gradients[0], x_gkj))
        return d_weight, _multiply(weight_gkij.transpose(2, 3), gradients[0]), None, None


class _VecMat(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_gki: Tensor, weight_gkij: Tensor, name: str, outer: OuterProducts | None
    ) -> Tensor:
        ctx.save_for_backward(x_gki, weight_gkij)
        ctx.name, ctx.outer = name, outer
        return _multiply(weight_gkij.transpose(2, 3), x_gki)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_gki, weight_gkij = ctx.saved_tensors
        d_weight = _record(ctx, weight_gkij, OuterProduct(x_gki, gradients[0]))
        return _multiply(weight_gkij, gradients[0]), d_weight, None, None


def _multiply(weight_gkij: Tensor, x_gkj: Tensor) -> Tensor:
    """Return the products of matrices and vectors, (G, K, I)."""
    if weight_gkij.device.type == "cpu" and weight_gkij.shape[1] == 1:
        # the batched product is several times slower on a matrix that exceeds the cache
        products = [torch.mv(weight[0], x[0]) for weight, x in zip(weight_gkij, x_gkj, strict=True)]
        return torch.stack(products)[:, None]
    product = torch.bmm(x_gkj.flatten(0, 1)[:, None], weight_gkij.flatten(0, 1).transpose(1, 2))
    return product.view(weight_gkij.shape[:3])


def _record(ctx: Any, weight_gkij: Tensor, gradient: OuterProduct) -> Tensor | None:
    """Hand the gradient to the caller; return it as a matrix if autograd wants it."""
    if ctx.outer is None:
        return gradient.dense().view(weight_gkij.shape)
    ctx.outer[ctx.name] = OuterProduct(*(vector.contiguous() for vector in gradient))
    return None

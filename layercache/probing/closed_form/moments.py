"""Weighted first and second moments of features and targets, added up block by block.

They are all that ridge regression and discriminant analysis need of the training samples, so one
pass over rows of any number fits both, in memory that does not depend on the number of rows.

Shapes: N samples of a block, P features, M targets.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

MAX_BLOCK_ROWS = 4096
"""Rows of one product in the features' own precision; the products are added in float64."""


class Moments:
    """Sums over weighted samples of 1, x, y, x x' and x y'.

    Products run in the features' precision and are added in float64. The features are shifted by
    the mean of the first block before, so that little precision is lost when the mean is
    subtracted: the mean of unit-length tokens is often much longer than their deviation from it.
    """

    def __init__(self, features: int, targets: int, *, device: torch.device | str = "cpu") -> None:
        """Start without samples.

        Args:
            features: P.
            targets: M.
            device: Device of the sums.
        """

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.shift: Tensor | None = None
        """Point that features are measured from, (P,); None before the first block."""
        self.weight = zeros()
        """Sum of the weights, W."""
        self._x, self._y = zeros(features), zeros(targets)
        self._xx, self._xy = zeros(features, features), zeros(features, targets)

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add samples.

        Args:
            x: Features (N, P), float32 or float64.
            y: Targets (N, M).
            weight: Weight of each sample, (N,).
        """
        if not len(x):
            return
        if self.shift is None:
            self.shift = x.mean(0, dtype=torch.float64)
        shift = self.shift.to(x.dtype)
        weight, y = weight.double(), y.double()
        self.weight += weight.sum()
        self._y += weight @ y
        for start in range(0, len(x), MAX_BLOCK_ROWS):
            rows = slice(start, start + MAX_BLOCK_ROWS)
            centered = x[rows] - shift
            weighted = (centered * weight[rows].to(x.dtype)[:, None]).t()
            self._x += weighted.sum(1, dtype=torch.float64)
            self._xx += weighted @ centered
            self._xy += weighted @ y[rows].to(x.dtype)

    @classmethod
    def of_sums(
        cls, *, shift: Tensor, weight: Tensor, x: Tensor, y: Tensor, xx: Tensor, xy: Tensor
    ) -> Self:
        """Return moments of given sums over weighted samples, all float64.

        Args:
            shift: Point that features are measured from (P,).
            weight: Sum of the weights, ().
            x: Of shifted features (P,).
            y: Of targets (M,).
            xx: Of products of shifted features (P, P).
            xy: Of products of shifted features and targets (P, M).
        """
        moments = cls.__new__(cls)
        moments.shift, moments.weight = shift, weight
        moments._x, moments._y, moments._xx, moments._xy = x, y, xx, xy
        return moments

    @property
    def mean(self) -> Tensor:
        """Weighted mean of the features, (P,)."""
        assert self.shift is not None
        return self.shift + self._x / self.weight

    @property
    def target_mean(self) -> Tensor:
        """Weighted mean of the targets, (M,)."""
        return self._y / self.weight

    @property
    def scatter(self) -> Tensor:
        """Weighted scatter of the features around their mean, (P, P): sum of w (x - m) (x - m)'."""
        return torch.addr(self._xx, self._x, self._x / self.weight, alpha=-1)

    @property
    def scatter_diagonal(self) -> Tensor:
        """Diagonal of the scatter, (P,)."""
        return self._xx.diagonal() - self._x.square() / self.weight

    @property
    def cross(self) -> Tensor:
        """Weighted cross product, (P, M): sum of w (x - m) (y - mean of y)'."""
        return self._xy - torch.outer(self._x, self._y) / self.weight

    @property
    def class_weights(self) -> Tensor:
        """Sum of the weights of each class (C,), if the targets are one-hot."""
        return self._y

    @property
    def class_means(self) -> Tensor:
        """Weighted mean of each class (C, P), if the targets are one-hot; NaN without samples."""
        assert self.shift is not None
        return self.shift + (self._xy / self._y).t()

    @property
    def within_scatter(self) -> Tensor:
        """Weighted scatter of the features around their class's mean (P, P), of one-hot targets."""
        present = self._y > 0
        sums = self._xy[:, present]
        return torch.addmm(self._xx, sums / self._y[present], sums.t(), alpha=-1)

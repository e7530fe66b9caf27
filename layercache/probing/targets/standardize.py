"""Float targets of regression with mean 0 and standard deviation 1, and back to the user's unit.

Shapes: N training rows, B rows of a batch, C columns of targets, G configurations.

With y = mean + scale * z, a head trained on z ends in the affine map W h + b, so that

    y = (scale W) h + (scale b + mean)

and the same head with its last map scaled predicts in the unit of y.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.errors import ProbeError

WEIGHT, BIAS = "classifier.weight", "classifier.bias"
"""Ends of the names of the last map of a head, or of each branch of one, (C, ...) and (C,).

A mean of branches is scaled and shifted with them, as its weights add up to 1.
"""
MIN_RELATIVE_SPREAD = 1e-5
"""Smallest ratio of standard deviation to size: a head predicts in float32, whose steps are 6e-8
of a number's size and so less than a hundredth of the standard deviation above this ratio."""


@dataclass(frozen=True, eq=False)
class Standardization:
    """Mean and standard deviation of the training targets."""

    mean: Tensor
    """float64 (C,)."""
    scale: Tensor
    """float64 (C,), the standard deviation (N)."""

    @classmethod
    def of(cls, targets: Tensor) -> Standardization:
        """Return that of training targets.

        Args:
            targets: float64 (N, C).

        Raises:
            ProbeError: They are not finite, or a column is constant.
        """
        if not len(targets):
            raise ProbeError("there are no training samples with a target")
        if invalid := int((~torch.isfinite(targets)).any(1).sum()):
            raise ProbeError(
                f"{invalid} of {len(targets)} training targets are NaN or infinite: leave these "
                "samples out, or correct them"
            )
        mean, scale = targets.mean(0), targets.std(0, correction=0)
        for column in range(targets.shape[1]):
            _check_spread(targets[:, column], scale[column], column=column)
        return cls(mean, scale)

    def to(self, device: torch.device | str) -> Standardization:
        """Return the same on another device."""
        return Standardization(self.mean.to(device), self.scale.to(device))

    def apply(self, targets: Tensor) -> Tensor:
        """Return standardized targets, float32 (B, C), of float64 (B, C)."""
        return ((targets - self.mean) / self.scale).float()

    def invert(self, outputs: Tensor) -> Tensor:
        """Return predictions in the user's unit, float64 (..., C), of outputs (..., C)."""
        return outputs.double() * self.scale + self.mean

    def fold_in(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters of a head that predicts in the user's unit, on the CPU."""
        state = dict(state_dict)
        on_cpu = self.to("cpu")
        for name, value in state_dict.items():
            if name.endswith(WEIGHT):
                state[name] = (value.double() * on_cpu.scale[:, None]).float()
            elif name.endswith(BIAS):
                state[name] = on_cpu.invert(value).float()
        return state


def _check_spread(targets: Tensor, scale: Tensor, *, column: int) -> None:
    size = float(targets.abs().max())
    if float(scale) > MIN_RELATIVE_SPREAD * size:
        return
    lowest, highest = float(targets.min()), float(targets.max())
    if lowest == highest:
        raise ProbeError(
            f"all {len(targets)} training targets of column {column + 1} are {lowest:g}: there is "
            "nothing to learn"
        )
    raise ProbeError(
        f"the training targets of column {column + 1} lie between {lowest:.9g} and {highest:.9g}, "
        f"a spread of {float(scale):.2g} around numbers of size {size:.2g}, which predictions in "
        "float32 cannot resolve: subtract a constant from the column, such as its mean"
    )

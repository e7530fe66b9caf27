"""Initial parameters with the distribution of torch.nn, drawn from a given generator."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_map(out_features: int, in_features: int, *, generator: torch.Generator) -> Tensor:
    """Return a weight (out, in) as torch.nn.Linear draws it: uniform within 1/sqrt(in)."""
    bound = in_features**-0.5
    return torch.empty(out_features, in_features).uniform_(-bound, bound, generator=generator)


def affine_map(
    out_features: int, in_features: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return a weight (out, in) and a bias (out,) as torch.nn.Linear draws them."""
    weight = linear_map(out_features, in_features, generator=generator)
    bound = in_features**-0.5
    return weight, torch.empty(out_features).uniform_(-bound, bound, generator=generator)

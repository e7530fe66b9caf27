"""Small regression and classification problems in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def features(samples: int, width: int, *, seed: int = 0, offset: float = 0.0) -> Tensor:
    """Features (samples, width) with an uneven spectrum, around `offset`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    return x * torch.logspace(0, -2, width, dtype=torch.float64) + offset


def labels(samples: int, classes: int, *, seed: int = 1) -> Tensor:
    """Class numbers (samples,) of unequal frequency; every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(samples, generator=generator).square() * classes
    return torch.cat([torch.arange(classes), drawn.long()[classes:]])


def separable(samples: int, width: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features whose mean depends on the class, and the classes."""
    y = labels(samples, classes, seed=seed)
    centers = features(classes, width, seed=seed + 100)
    return features(samples, width, seed=seed) + centers[y], y

"""Linear discriminant analysis: all shrinkages from one eigendecomposition.

Classes are normal with a common covariance, shrunk towards a multiple of the identity,

    Σ(γ) = (1 - γ) S + γ (trace of S / P) I,

where S is the weighted covariance within the classes. This is scikit-learn's
`LinearDiscriminantAnalysis(solver="lsqr", shrinkage=γ)` with the weights of the classes as priors.
With S = V diag(s) V' the inverse is known for every γ at once; γ = 1 is the nearest class mean.

Shapes: N training samples, B samples, P features, C classes, A shrinkages, R directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.spectrum import spectrum_of_samples
from layercache.probing.closed_form.targets import one_hot


@dataclass(frozen=True, eq=False)
class Discriminant:
    """A linear discriminant analysis for every shrinkage."""

    variances: Tensor
    """Eigenvalues of the covariance within the classes, float64 (R,)."""
    sphere: float
    """Variance of the identity that the covariance is shrunk to; 1 if there is no variance."""
    basis: Tensor
    """Their directions (P, R), orthonormal, float64."""
    mean: Tensor
    """Weighted mean of the features, float64 (P,)."""
    loadings: Tensor
    """Deviation of each class's mean along the directions, float64 (R, C); 0 without samples."""
    log_priors: Tensor
    """Logarithm of each class's part of the weights, float64 (C,); -inf without samples."""

    def coefficients(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return (weight (C, P), bias (C,)), float64, of the logits for one shrinkage.

        The bias of a class without samples is -inf.
        """
        scaled, offset = self._scaled(shrinkage)
        weight = (self.basis @ scaled).t()
        return weight, offset - weight @ self.mean

    def predict(self, x: Tensor, shrinkages: Iterable[float]) -> Iterator[Tensor]:
        """Yield logits (B, C), whose softmax is the posterior, for each shrinkage.

        Args:
            x: Features (B, P); the logits have their dtype.
            shrinkages: Shrinkages above 0 and at most 1.
        """
        projected = (x - self.mean.to(x.dtype)) @ self.basis.to(x.dtype)
        for shrinkage in shrinkages:
            scaled, offset = self._scaled(shrinkage)
            yield projected @ scaled.to(x.dtype) + offset.to(x.dtype)

    def _scaled(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return the map from directions to logits (R, C), and the logits at the mean (C,)."""
        covariance = (1 - shrinkage) * self.variances + shrinkage * self.sphere
        scaled = self.loadings / covariance[:, None]
        return scaled, self.log_priors - (self.loadings * scaled).sum(0) / 2


def lda(
    x: Tensor, labels: Tensor, classes: int, *, sample_weight: Tensor | None = None
) -> Discriminant:
    """Fit a discriminant analysis for every shrinkage, in the smaller of N and P dimensions.

    Args:
        x: Features (N, P), float32 or float64.
        labels: Class numbers (N,).
        classes: C.
        sample_weight: Weight of each sample (N,), above zero; None: 1. `targets.balanced_weights`
            give every class the same prior and the same part in the covariance.
    """
    samples, features = x.shape
    weight = torch.ones(samples, device=x.device) if sample_weight is None else sample_weight
    targets = one_hot(labels, classes)
    if samples > features:
        moments = Moments(features, classes, device=x.device)
        moments.add(x, targets, weight)
        return lda_of_moments(moments, dtype=x.dtype)
    # coordinates along orthonormal directions that all samples lie in
    spectrum, left = spectrum_of_samples(x, weight)
    lengths = spectrum.values.sqrt()
    coordinates = left * lengths / weight.double().sqrt()[:, None]
    moments = Moments(len(lengths), classes, device=x.device)
    moments.add(coordinates, targets, weight)
    reduced = lda_of_moments(moments, features=features)
    directions = spectrum.basis.double() / spectrum.scale
    return replace(
        reduced,
        basis=directions @ reduced.basis,
        mean=spectrum.mean + directions @ reduced.mean,
    )


def lda_of_moments(
    moments: Moments, *, features: int | None = None, dtype: torch.dtype = torch.float64
) -> Discriminant:
    """Fit a discriminant analysis for every shrinkage to moments of samples that were streamed.

    Args:
        moments: Moments of features and one-hot targets.
        features: P, the number of features of which those of the moments are coordinates; None:
            those of the moments themselves.
        dtype: Dtype of the features that were added.
    """
    covariance = moments.within_scatter / moments.weight
    features = features or len(covariance)
    rounding = 10 * torch.finfo(dtype).eps * float(moments.scatter.trace() / moments.weight)
    variances, basis = torch.linalg.eigh(covariance)
    variances = variances.clamp_min(0)
    total = float(variances.sum())
    if total <= rounding:
        variances = torch.zeros_like(variances)
    priors = moments.class_weights / moments.weight
    deviations = (moments.class_means - moments.mean).nan_to_num(0.0)
    return Discriminant(
        variances=variances,
        sphere=total / features if total > rounding else 1.0,
        basis=basis,
        mean=moments.mean,
        loadings=basis.t() @ deviations.t(),
        log_priors=priors.clamp_min(0).log().where(priors > 0, -math.inf),
    )

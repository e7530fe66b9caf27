"""Exact leave-one-out predictions of ridge regression and discriminant analysis, without a refit.

The prediction for a training sample is that of the model fitted to all others, which keep their
weights. Ridge regression has a form for few samples, all of them at once, and one for many, in
blocks; discriminant analysis has the latter.

Shapes: N training samples, B samples of a block, P features, R directions, C classes, M targets, A
settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from layercache.probing.closed_form.lda import Discriminant
from layercache.probing.closed_form.ridge import Ridge, fit_samples, weights_or_ones

UNDETERMINED = 1e-12
"""Share of the other samples in a prediction below which it is not computed."""


def ridge_leave_one_out(
    x: Tensor, y: Tensor, penalties: Sequence[float], *, sample_weight: Tensor | None = None
) -> Tensor:
    """Return the prediction for each sample by the regression on all others, float64 (A, N, M).

    This is the form for at most as many samples as features: all of them are decomposed. With the
    left singular vectors U of the centered, weighted samples, the residual of a sample is
    divided by 1 - h, where h is its own weight in its prediction,

        h_i = w_i / W + sum over j of U_ij² S_j / (S_j + α).

    Both the residual and 1 - h are computed as the part outside of U plus the part that the penalty
    takes away, so that none of them is a small difference of large numbers. The other samples keep
    their weights. The prediction is NaN where the others do not determine it (α = 0 and h = 1).

    Args:
        x: Features (N, P), float32 or float64.
        y: Targets (N, M).
        penalties: The A penalties; zero or above.
        sample_weight: Weight of each sample (N,), above zero; None: 1.
    """
    weight = weights_or_ones(x, sample_weight)
    fitted, left = fit_samples(x, y, weight)
    y = y.double()
    root = weight.sqrt()[:, None]
    scaled = (y - fitted.target_mean) * root
    along = left.t() @ scaled
    outside = scaled - left @ along
    squares = left.square()
    free = (1 - weight / weight.sum() - squares.sum(1)).clamp_min(0)
    predictions = []
    for penalty in penalties:
        kept = penalty / (fitted.spectrum.values + penalty)
        residual = outside + left @ (along * kept[:, None])
        others = free + squares @ kept
        others = others.where(others > UNDETERMINED, torch.nan)
        predictions.append(y - residual / root / others[:, None])
    return torch.stack(predictions)


def ridge_leave_one_out_block(
    fitted: Ridge, x: Tensor, y: Tensor, weight: Tensor, penalties: Iterable[float], *, total: float
) -> Iterator[Tensor]:
    """Yield the predictions (B, M), float64, for each penalty; for more samples than features.

    `ridge_leave_one_out` is the form for fewer samples: here the residual of a sample and 1 - h, h
    its own weight in its prediction, are small differences of larger numbers as h approaches 1.

    Args:
        fitted: The regression on all samples.
        x: Features (B, P) of some of them.
        y: Targets (B, M).
        weight: Weights, float64 (B,).
        penalties: Penalties.
        total: Sum of the weights of all samples.
    """
    spectrum = fitted.spectrum
    z = spectrum.project(x).double() / spectrum.scale
    loadings = fitted.loadings * spectrum.scale[:, None]
    squares = weight[:, None] * z.square()
    for penalty in penalties:
        inverse = 1 / (spectrum.values + penalty)
        predictions = z @ (loadings * inverse[:, None]) + fitted.target_mean
        others = 1 - weight / total - squares @ inverse
        yield y - (y - predictions) / others[:, None]


def lda_leave_one_out_block(
    fitted: Discriminant,
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    shrinkages: Iterable[float],
    *,
    class_weights: Tensor,
    rounding: float,
) -> Iterator[Tensor]:
    """Yield logits (B, C), float64, for each shrinkage, shifted so that they are comparable.

    Without sample i of weight w in class c, whose weight is W_c of W, the scatter within the
    classes loses w W_c / (W_c - w) d d', where d is the deviation from the class's mean, and that
    mean moves away from the sample by the factor W_c / (W_c - w). In the eigenbasis of the
    covariance of all samples the shrunk covariance is then a diagonal matrix less one of rank one,
    whose inverse the Sherman-Morrison formula gives. A logit is the logarithm of the prior less
    half the squared Mahalanobis distance to the class's mean.

    Args:
        fitted: The analysis of all samples.
        x: Features (B, P) of some of them.
        labels: Their class numbers (B,).
        weight: Their weights, float64 (B,).
        shrinkages: Shrinkages above 0 and at most 1.
        class_weights: Sum of the weights of each class, float64 (C,).
        rounding: Trace of a covariance below which it is no more than rounding.
    """
    total = float(class_weights.sum())
    features = x.shape[1]
    z = (x.double() - fitted.mean) @ fitted.basis.double()
    means = fitted.loadings.t()
    own_weight = class_weights[labels]
    left = own_weight - weight
    alone = left <= 1e-9 * own_weight  # the only sample of its class: it has no deviation
    deviation = z - means[labels]
    lost = torch.where(alone, 0.0, weight * own_weight / left.where(~alone, 1.0))
    moved = torch.where(alone, 1.0, own_weight / left.where(~alone, 1.0))
    rest = total - weight
    trace = total * fitted.variances.sum() - lost * deviation.square().sum(1)
    sphere = (trace / rest).where(trace / rest > rounding, features) / features
    spread = trace / rest > rounding
    priors = (class_weights / rest[:, None]).scatter(1, labels[:, None], (left / rest)[:, None])
    present = (class_weights > 0).expand_as(priors).scatter(1, labels[:, None], ~alone[:, None])
    log_priors = priors.clamp_min(1e-300).log().where(present, -math.inf)
    for shrinkage in shrinkages:
        share = (1 - shrinkage) * spread / rest
        diagonal = share[:, None] * total * fitted.variances + (shrinkage * sphere)[:, None]
        inverse = 1 / diagonal
        scaled = z * inverse
        distances = (z * scaled).sum(1)[:, None] - 2 * scaled @ means.t()
        distances += inverse @ means.square().t()
        along_d = deviation * inverse
        own_length = (deviation * along_d).sum(1)
        along = along_d @ means.t() - (z * along_d).sum(1)[:, None]
        factor = torch.ones_like(distances).scatter(1, labels[:, None], moved[:, None])
        strength = share * lost
        correction = strength / (1 - strength * own_length)
        distances = factor.square() * (distances + correction[:, None] * along.square())
        yield log_priors - distances / 2

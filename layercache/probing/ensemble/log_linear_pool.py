"""Log-linear pool of the outputs of several probes, and its fit.

A pool of M classifiers is p proportional to prod_m p_m^(a_m) with a_m >= 0, which is the softmax of
sum_m a_m z_m, as the normalization of each p_m cancels (Genest and Zidek, "Combining probability
distributions", Statistical Science 1986). The loss is convex in a. Logits have no unit, so weights
are of logits divided by their own spread s_m, the root mean square of the centred logits:
a_m = w_m / (s_m T), with weights w that sum to 1 and one temperature T. For several labels, each
has a sigmoid instead of the softmax. The values of a regression are averaged with weights that sum
to 1 (stacking, Breiman 1996).

Shapes: M probes, N samples, C classes, or columns of a regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION

Array = np.ndarray[Any, Any]
Vector = NDArray[np.float64]

CHUNK_ELEMENTS = 2**22
"""Number of logits in float64 that are evaluated at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Fitted pool: its output is the sum of `coefficients` times the members' outputs."""

    coefficients: Vector
    """a_m, (M,), at least 0."""
    spreads: Vector
    """s_m of the held-out logits, (M,); ones for a regression."""

    @property
    def weights(self) -> Vector:
        """w_m, (M,), which sum to 1."""
        scaled = self.coefficients * self.spreads
        return np.asarray(scaled / scaled.sum())

    @property
    def temperature(self) -> float:
        """T, which divides the weighted mean of the scaled logits; 1 for a regression."""
        return float(1 / (self.coefficients * self.spreads).sum())

    def combine(self, outputs_mnc: Array) -> Array:
        """Return the pooled outputs, float32 (N, C)."""
        return combine(outputs_mnc, self.coefficients)


def combine(outputs_mnc: Array, coefficients: Vector) -> Array:
    """Return the sum of the outputs of M probes times their coefficients, float32 (N, C)."""
    total = np.zeros(outputs_mnc[0].shape)
    for output_nc, coefficient in zip(outputs_mnc, coefficients, strict=True):
        if coefficient:
            total += coefficient * output_nc
    return total.astype(np.float32)


def fit_pool(outputs_mnc: Array, targets: Array, *, task: str, class_weights: bool = True) -> Pool:
    """Fit a pool to the outputs of M probes on samples that did not train them.

    Args:
        outputs_mnc: Logits, or values of a regression, float32 (M, N, C).
        targets: int64 (N,), 0/1 (N, C), or float64 (N, C) of a regression.
        task: classification, multi-label or regression.
        class_weights: Weight the samples of a class by N / (C n_c), as heads are trained.
    """
    if task == REGRESSION:
        weights = _fit_means(outputs_mnc, targets)
        return Pool(coefficients=weights, spreads=np.ones(len(weights)))
    sample_weights = _sample_weights(targets, outputs_mnc.shape[2], task, balanced=class_weights)
    spreads = spreads_of(outputs_mnc, task=task)
    start = 1 / (len(outputs_mnc) * spreads)
    coefficients = _fit(outputs_mnc, targets, sample_weights, task, start=start)
    if not coefficients.any():  # no probe is better than equal probabilities
        coefficients = start
    return Pool(coefficients=coefficients, spreads=spreads)


def spreads_of(outputs_mnc: Array, *, task: str) -> Vector:
    """Return the root mean square of each probe's logits, (M,), for classes less their mean."""
    if task == REGRESSION:
        return np.ones(len(outputs_mnc))
    spreads = []
    for logits_nc in outputs_mnc:
        centre = logits_nc.mean(1, keepdims=True) if task == CLASSIFICATION else 0.0
        spreads.append(float(np.sqrt(np.square(logits_nc - centre, dtype=np.float64).mean())))
    return np.maximum(spreads, 1e-6)


def one_member(pool: Pool, member: int) -> Pool:
    """Return a pool of one member alone, whose logits stay as they are."""
    coefficients = np.zeros(len(pool.coefficients))
    coefficients[member] = 1.0
    return Pool(coefficients=coefficients, spreads=pool.spreads)


def _fit(
    outputs_mnc: Array,
    targets: Array,
    sample_weights: Vector,
    task: str,
    *,
    start: Vector,
) -> Vector:
    """Return the coefficients of the lowest loss, (M,), at least 0."""
    from scipy.optimize import minimize

    # steps in units of the start suit logits of any spread
    unit = start
    result = minimize(
        lambda a: _loss(a * unit, outputs_mnc, targets, sample_weights, task, unit=unit),
        np.ones(len(start)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * len(start),
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-9},
    )
    return np.asarray(result.x * unit, dtype=np.float64)


def _loss(
    coefficients: Vector,
    outputs_mnc: Array,
    targets: Array,
    sample_weights: Vector,
    task: str,
    *,
    unit: Vector,
) -> tuple[float, Vector]:
    """Return the mean loss and its gradient by `coefficients / unit`."""
    n_members, n_rows, n_classes = outputs_mnc.shape
    step = max(1, CHUNK_ELEMENTS // n_classes)
    loss, gradient = 0.0, np.zeros(n_members)
    for first in range(0, n_rows, step):
        rows = slice(first, first + step)
        part_mnc = outputs_mnc[:, rows].astype(np.float64)
        z_nc, weights_n = np.tensordot(coefficients, part_mnc, 1), sample_weights[rows]
        if task == CLASSIFICATION:
            z_nc -= z_nc.max(1, keepdims=True)
            exp_nc = np.exp(z_nc)
            sums_n = exp_nc.sum(1)
            own = targets[rows][:, None]
            picked_n = np.take_along_axis(z_nc, own, 1)[:, 0]
            loss += float(weights_n @ (np.log(sums_n) - picked_n))
            d_nc = exp_nc / sums_n[:, None]
            np.put_along_axis(d_nc, own, np.take_along_axis(d_nc, own, 1) - 1, 1)
        else:
            y_nc = targets[rows].astype(np.float64)
            loss += float(weights_n @ (np.logaddexp(0, z_nc) - y_nc * z_nc).mean(1))
            d_nc = (1 / (1 + np.exp(-z_nc)) - y_nc) / n_classes
        gradient += np.tensordot(part_mnc, d_nc * weights_n[:, None], 2)
    return loss, gradient * unit


def _sample_weights(targets: Array, n_classes: int, task: str, *, balanced: bool) -> Vector:
    """Return the weight of each sample, (N,), which sum to 1."""
    n_rows = len(targets)
    if task != CLASSIFICATION or not balanced:
        return np.full(n_rows, 1 / n_rows)
    counts = np.bincount(targets, minlength=n_classes)
    weights: Vector = 1 / counts[targets]
    return np.asarray(weights / weights.sum())


def _fit_means(values_mnc: Array, targets_nc: Array) -> Vector:
    """Return the weights of the mean with the lowest squared error, (M,), which sum to 1.

    Each column is divided by the standard deviation of its targets.
    """
    from scipy.optimize import nnls

    scale = np.where(targets_nc.std(0) > 0, targets_nc.std(0), 1.0)
    errors_md = ((values_mnc - targets_nc) / scale).reshape(len(values_mnc), -1)
    # With weights that sum to 1 the error of the mean is the mean of the errors: minimize w' E w.
    # nnls of [E; b 1'] w = [0; b] adds the constraint with a large weight b.
    gram = errors_md @ errors_md.T
    root = np.linalg.cholesky(gram + 1e-12 * np.trace(gram) * np.eye(len(gram))).T
    large = 1e3 * max(float(np.sqrt(np.trace(gram))), 1e-12)
    rows = np.vstack([root, np.full((1, len(gram)), large)])
    weights, _ = nnls(rows, np.append(np.zeros(len(gram)), large))
    return np.asarray(weights / weights.sum())

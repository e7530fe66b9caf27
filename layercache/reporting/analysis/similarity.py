"""Linear CKA: similarity of the layers of a backbone on the same images.

Shapes: P pairs (layer, token kind), n images, D width.

With Gram matrices K = X X^T, L = Y Y^T and K', L' the same with a zero diagonal, the unbiased
estimator of HSIC (Song et al. 2012, eq. 5) is

    HSIC(K, L) = [ tr(K'L') + (1'K'1)(1'L'1) / ((n-1)(n-2)) - 2 (K'1).(L'1) / (n-2) ] / (n(n-3))

and CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). It is 0 in expectation for independent
features for any n and D; the common biased estimator is not (for D > n it is near 1). All n images
enter one estimate, without minibatches. Gram rows are computed in stripes, so memory is P x stripe
x n instead of P x n x n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.errors import OptionError

STRIPE_BYTES = 64 << 20
"""Memory budget of one stripe of the P Gram matrices."""


def linear_cka(tokens_pnd: NDArray[Any], *, stripe: int | None = None) -> NDArray[np.float64]:
    """Compute the unbiased linear CKA between all P sets of features of the same n images.

    Args:
        tokens_pnd: (P, n, D), any float dtype.
        stripe: Gram rows computed at once; by default as many as fit into STRIPE_BYTES. The result
            does not depend on it beyond rounding.

    Returns:
        (P, P) float64, symmetric, with 1 on the diagonal; values may lie slightly below 0. NaN for
        a set of features that does not vary over images.

    Raises:
        OptionError: For fewer than 4 images or values that are not finite.
    """
    p, n, _ = tokens_pnd.shape
    if n < 4:
        raise OptionError(
            "CKA: expected at least 4 images (the unbiased estimator divides by n - 3), "
            f"got {n}: use more test images"
        )
    # the estimator is invariant to subtracting a constant vector from all images, and its float32
    # products lose fewer digits
    x = np.ascontiguousarray(tokens_pnd, dtype=np.float32)
    x = x - x.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    if not np.isfinite(x).all():
        raise OptionError(
            "CKA: expected finite tokens, got values that are not finite: run layercache cache "
            "verify"
        )
    # CKA is invariant to one scale per set of features; float32 products stay far from overflow
    scale = np.sqrt(np.einsum("pnd,pnd->p", x, x, dtype=np.float64) / n)
    constant = scale < 1e-12
    x /= np.where(constant, 1.0, scale).astype(np.float32)[:, None, None]
    rows = stripe or max(1, STRIPE_BYTES // (4 * p * n))
    trace = np.zeros((p, p))
    sums = np.empty((p, n))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        gram = x[:, start:stop] @ x.transpose(0, 2, 1)
        gram[:, np.arange(stop - start), np.arange(start, stop)] = 0.0
        sums[:, start:stop] = gram.sum(axis=2, dtype=np.float64)
        flat = gram.reshape(p, -1)
        trace += flat @ flat.T
    total = sums.sum(axis=1)
    hsic = (
        trace + np.outer(total, total) / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * (sums @ sums.T)
    ) / (n * (n - 3))
    diagonal = np.diag(hsic).copy()
    diagonal[constant | (diagonal <= 0)] = np.nan
    cka = hsic / np.sqrt(np.outer(diagonal, diagonal))
    # symmetric up to the rounding of the matrix products
    return np.asarray((cka + cka.T) / 2, dtype=np.float64)

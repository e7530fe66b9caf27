"""CKA against two independent computations: quadruples of images, and centred Gram matrices."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from layercache.errors import OptionError
from layercache.reporting.analysis.similarity import linear_cka


def hsic_by_quadruples(x, y):
    """U-statistic of HSIC (Song et al. 2012, eq. 3): a mean over ordered quadruples of images."""
    k, m = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(len(x)), 4)
    ]
    return np.mean(terms)


def cka_by(hsic, x, y):
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def hsic_biased(x, y):
    """tr(K H L H) / (n-1)^2, which tends to the same number as n grows."""
    n = len(x)
    h = np.eye(n) - 1 / n
    return np.trace(x @ x.T @ h @ y @ y.T @ h) / (n - 1) ** 2


def test_linear_cka_equals_the_mean_over_quadruples():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 8, 5)) + rng.normal(size=(3, 1, 5))
    x[1] += x[0]
    expected = [[cka_by(hsic_by_quadruples, a, b) for b in x] for a in x]
    np.testing.assert_allclose(linear_cka(x), expected, atol=2e-6)


def test_linear_cka_of_many_images_approaches_the_biased_formula():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(700, 6))
    x = np.stack(
        [
            shared @ rng.normal(size=(6, 8)),
            shared @ rng.normal(size=(6, 8)) + rng.normal(size=(700, 8)),
        ]
    )
    assert linear_cka(x)[0, 1] == pytest.approx(cka_by(hsic_biased, x[0], x[1]), abs=0.02)


def test_linear_cka_of_independent_noise_is_zero():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 60, 400))
    assert abs(linear_cka(x)[0, 1]) < 0.05
    assert cka_by(hsic_biased, x[0], x[1]) > 0.7


def test_linear_cka_is_invariant_to_rotation_scale_and_shift():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(50, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x = np.stack([a, 300 * a @ rotation + 40, a[rng.permutation(50)]])
    cka = linear_cka(x)
    assert cka[0, 1] == pytest.approx(1, abs=1e-4)
    assert abs(cka[0, 2]) < 0.2  # other images in the same rows


def test_linear_cka_of_float16_does_not_depend_on_the_stripe():
    x = np.random.default_rng(5).normal(size=(4, 33, 7)).astype(np.float16)
    np.testing.assert_allclose(linear_cka(x, stripe=5), linear_cka(x), atol=1e-6)
    np.testing.assert_allclose(np.diag(linear_cka(x)), 1, atol=1e-12)


def test_linear_cka_of_constant_features_is_nan():
    x = np.random.default_rng(6).normal(size=(2, 20, 3))
    x[1] = 0.25
    cka = linear_cka(x)
    assert np.isnan(cka[0, 1])
    assert cka[0, 0] == 1


def test_linear_cka_of_too_few_images_or_non_finite_tokens_is_refused():
    with pytest.raises(OptionError, match="at least 4 images"):
        linear_cka(np.ones((2, 3, 5)))
    x = np.ones((1, 9, 2))
    x[0, 0, 0] = np.nan
    with pytest.raises(OptionError, match="finite tokens"):
        linear_cka(x)

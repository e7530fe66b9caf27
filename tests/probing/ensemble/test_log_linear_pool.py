from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from layercache.probing.ensemble.log_linear_pool import Pool, combine, fit_pool
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL, REGRESSION

N, C = 400, 4


def make_logits(*strengths, seed=0, classes=C):
    """Targets, and logits of members that know them more or less well."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, N)
    noise = rng.normal(size=(len(strengths), N, classes))
    signal = np.array(strengths)[:, None, None] * np.eye(classes)[targets]
    return (noise + signal).astype(np.float32), targets


def independent_loss(coefficients, outputs, targets, *, class_weights):
    z = torch.from_numpy(np.tensordot(coefficients, outputs.astype(float), 1))
    weight = None
    if class_weights:
        counts = np.bincount(targets, minlength=z.shape[1])
        weight = torch.from_numpy(len(targets) / (z.shape[1] * counts))
    return float(torch.nn.functional.cross_entropy(z, torch.from_numpy(targets), weight=weight))


@pytest.mark.parametrize("class_weights", [False, True])
def test_fit_pool_has_the_lowest_cross_entropy_of_a_search_without_gradients(class_weights):
    outputs, targets = make_logits(1.0, 2.0, 0.5)
    targets[targets == 3] = np.where(np.arange((targets == 3).sum()) % 3, 0, 3)  # unbalanced
    pool = fit_pool(outputs, targets, task=CLASSIFICATION, class_weights=class_weights)
    found = minimize(
        lambda a: independent_loss(np.abs(a), outputs, targets, class_weights=class_weights),
        np.full(3, 0.5),
        method="Nelder-Mead",
        options={"xatol": 1e-5, "fatol": 1e-9, "maxiter": 4000},
    )
    np.testing.assert_allclose(pool.coefficients, np.abs(found.x), atol=2e-3)
    assert pool.weights.sum() == pytest.approx(1)


def test_pool_is_the_normalized_product_of_powers_of_probabilities():
    outputs, targets = make_logits(1.0, 2.0)
    pool = fit_pool(outputs, targets, task=CLASSIFICATION)
    probabilities = torch.softmax(torch.from_numpy(outputs).double(), -1).numpy()
    product = np.prod(probabilities ** pool.coefficients[:, None, None], axis=0)
    pooled = torch.softmax(torch.from_numpy(pool.combine(outputs)).double(), -1).numpy()
    np.testing.assert_allclose(pooled, product / product.sum(-1, keepdims=True), atol=1e-6)
    expected = pool.weights / (pool.spreads * pool.temperature)
    np.testing.assert_allclose(pool.coefficients, expected)


def test_weights_do_not_depend_on_the_unit_of_the_logits():
    outputs, targets = make_logits(1.0, 2.0)
    pool = fit_pool(outputs, targets, task=CLASSIFICATION)
    scaled = fit_pool(outputs * np.float32([[[5]], [[0.1]]]), targets, task=CLASSIFICATION)
    np.testing.assert_allclose(scaled.weights, pool.weights, rtol=1e-3)
    np.testing.assert_allclose(scaled.coefficients, pool.coefficients / [5, 0.1], rtol=1e-3)
    assert scaled.temperature == pytest.approx(pool.temperature, rel=1e-3)


def test_member_that_knows_nothing_gets_hardly_any_weight():
    outputs, targets = make_logits(2.0, 0.0)
    assert fit_pool(outputs, targets, task=CLASSIFICATION).weights[1] < 0.1
    shuffled = np.random.default_rng(1).permutation(targets)
    # negative control: against shuffled targets no member is better than equal probabilities
    assert fit_pool(outputs, shuffled, task=CLASSIFICATION).coefficients.max() < 0.2


def test_fit_pool_of_several_labels_has_the_lowest_binary_cross_entropy():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (N, C)).astype(np.uint8)
    outputs = rng.normal(size=(2, N, C)) + np.array([1.0, 2.0])[:, None, None] * (targets - 0.5)
    pool = fit_pool(outputs.astype(np.float32), targets, task=MULTI_LABEL)

    def loss(a):
        z = torch.from_numpy(np.tensordot(np.abs(a), outputs, 1))
        y = torch.from_numpy(targets).double()
        return float(torch.nn.functional.binary_cross_entropy_with_logits(z, y))

    found = minimize(loss, np.ones(2), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9})
    np.testing.assert_allclose(pool.coefficients, np.abs(found.x), atol=2e-3)


def test_fit_pool_of_a_regression_has_the_weights_of_a_grid_search():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(N, 1))
    values = targets + rng.normal(size=(2, N, 1)) * np.array([0.5, 1.0])[:, None, None]
    pool = fit_pool(values.astype(np.float32), targets, task=REGRESSION)
    grid = np.linspace(0, 1, 2001)
    errors = [((w * values[0] + (1 - w) * values[1] - targets) ** 2).mean() for w in grid]
    best = grid[int(np.argmin(errors))]
    assert pool.weights == pytest.approx([best, 1 - best], abs=2e-3)
    assert pool.temperature == pytest.approx(1)


def test_combine_in_chunks_is_the_weighted_sum(monkeypatch):
    outputs, targets = make_logits(1.0, 2.0)
    whole = fit_pool(outputs, targets, task=CLASSIFICATION)
    monkeypatch.setattr("layercache.probing.ensemble.log_linear_pool.CHUNK_ELEMENTS", 7 * C)
    parts = fit_pool(outputs, targets, task=CLASSIFICATION)
    np.testing.assert_allclose(parts.coefficients, whole.coefficients, rtol=1e-4)
    pool = Pool(coefficients=np.array([0.5, 2.0]), spreads=np.ones(2))
    np.testing.assert_allclose(pool.combine(outputs), 0.5 * outputs[0] + 2 * outputs[1], rtol=1e-6)
    assert combine(outputs, np.array([0.0, 1.0])) == pytest.approx(outputs[1])

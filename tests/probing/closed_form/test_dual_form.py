from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from layercache.probing.closed_form.dual_form import (
    CenteredGram,
    DualDiscriminant,
    DualRidge,
)
from layercache.probing.closed_form.lda import lda
from layercache.probing.closed_form.ridge import ridge
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from tests.probing.closed_form.made import features, separable

N, P, C = 30, 80, 4


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = separable(N, P, C)
    return x + 1, y, balanced_weights(y, C), features(20, P, seed=9) + 1


@pytest.mark.parametrize("penalty", [1e-4, 1.0, 1e3])
def test_ridge_equals_scikit_learn_and_the_eigendecomposition(penalty: float) -> None:
    x, y, weight, other = problem()
    targets = one_hot(y, C)
    system = DualRidge(CenteredGram(x @ x.t(), weight), targets)
    found = system.coefficients(penalty)
    assert found is not None
    outputs = other @ x.t() @ found[0].t() + found[1]
    theirs = Ridge(penalty).fit(x.numpy(), targets.numpy(), sample_weight=weight.numpy())
    np.testing.assert_allclose(outputs.numpy(), theirs.predict(other.numpy()), atol=1e-6)
    (ours,) = ridge(x, targets, sample_weight=weight).predict(other, [penalty])
    torch.testing.assert_close(outputs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [1e-3, 0.1, 0.9, 1.0])
def test_lda_equals_scikit_learn_and_the_eigendecomposition(shrinkage: float) -> None:
    x, y, _, other = problem()
    targets = one_hot(y, C)
    weight = torch.ones(N, dtype=torch.float64)
    system = DualDiscriminant(CenteredGram(x @ x.t(), weight), targets, features=P)
    found = system.coefficients(shrinkage)
    assert found is not None
    outputs = other @ x.t() @ found[0].t() + found[1]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    theirs.fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(
        outputs.softmax(1).numpy(), theirs.predict_proba(other.numpy()), atol=1e-6
    )
    balanced = balanced_weights(y, C)
    system = DualDiscriminant(CenteredGram(x @ x.t(), balanced), targets, features=P)
    found = system.coefficients(shrinkage)
    assert found is not None
    (ours,) = lda(x, y, C, sample_weight=balanced).predict(other, [shrinkage])
    torch.testing.assert_close(other @ x.t() @ found[0].t() + found[1], ours, rtol=0, atol=1e-5)


def test_class_without_samples_has_no_part() -> None:
    x, y, _, other = problem()
    present = y != 2
    x, y = x[present], y[present]
    centered = CenteredGram(x @ x.t(), balanced_weights(y, C))
    found = DualDiscriminant(centered, one_hot(y, C), features=P).coefficients(0.1)
    assert found is not None
    assert torch.isneginf(found[1][2])
    (ours,) = lda(x, y, C, sample_weight=balanced_weights(y, C)).predict(other, [0.1])
    outputs = other @ x.t() @ found[0].t() + found[1]
    torch.testing.assert_close(outputs.softmax(1), ours.softmax(1), rtol=0, atol=1e-6)


def test_one_sample_of_each_class_gives_the_nearest_mean() -> None:
    x, targets = features(3, P), one_hot(torch.arange(3), 3)
    centered = CenteredGram(x @ x.t(), torch.ones(3, dtype=torch.float64))
    for shrinkage in (0.01, 1.0):
        found = DualDiscriminant(centered, targets, features=P).coefficients(shrinkage)
        assert found is not None
        assert ((x @ x.t() @ found[0].t() + found[1]).argmax(1) == torch.arange(3)).all()


def test_equal_samples_need_a_penalty_above_rounding() -> None:
    x, y, weight, _ = problem()
    x, y, weight = torch.cat([x, x]), torch.cat([y, y]), torch.cat([weight, weight])
    products = x.float() @ x.float().t()
    system = DualRidge(CenteredGram(products.double(), weight), one_hot(y, C))
    assert system.coefficients(1.0) is not None
    assert system.coefficients(-1e-3) is None

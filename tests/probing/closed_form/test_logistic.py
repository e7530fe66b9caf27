from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from layercache.probing.closed_form import logistic
from layercache.probing.closed_form.logistic import binary, multinomial
from layercache.probing.closed_form.targets import balanced_weights
from tests.probing.closed_form.made import features, separable

STRENGTHS = (1e-2, 1.0, 100.0)
SHAPES = [(60, 8), (20, 30)]


def scikit(c: float, **options: object) -> LogisticRegression:
    return LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=10_000, **options)


@pytest.mark.parametrize(("samples", "width"), SHAPES)
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("balanced", [True, False])
def test_multinomial_equals_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, samples: int, width: int, rotated: bool, balanced: bool
) -> None:
    if not rotated:
        monkeypatch.setattr(logistic, "MAX_ROTATED", 0)
    x, y = separable(samples, width, 3)
    x += 1
    weight = balanced_weights(y, 3) if balanced else None
    fitted = multinomial(x, y, 3, inverse_penalties=STRENGTHS, sample_weight=weight, tolerance=1e-9)
    assert fitted.converged.all()
    for c, w, b in zip(STRENGTHS, fitted.weight, fitted.bias, strict=True):
        alone = scikit(c, class_weight="balanced" if balanced else None).fit(x, y)
        np.testing.assert_allclose(w, alone.coef_, atol=1e-4)
        np.testing.assert_allclose(b - b.mean(), alone.intercept_, atol=1e-4)


@pytest.mark.parametrize(("samples", "width"), SHAPES)
def test_binary_equals_scikit_learn_for_each_label(samples: int, width: int) -> None:
    x, targets = features(samples, width, offset=1.0), torch.rand(samples, 3) < 0.4
    targets[0], targets[1] = True, False
    fitted = binary(x, targets, inverse_penalties=STRENGTHS, tolerance=1e-9)
    for i, c in enumerate(STRENGTHS):
        for label in range(3):
            alone = scikit(c).fit(x, targets[:, label])
            np.testing.assert_allclose(fitted.weight[i, label], alone.coef_[0], atol=1e-4)
            np.testing.assert_allclose(fitted.bias[i, label], alone.intercept_[0], atol=1e-4)


def test_problems_together_are_those_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = separable(50, 6, 4)
    together = multinomial(x, y, 4, inverse_penalties=STRENGTHS)
    monkeypatch.setattr(logistic, "LOGITS_BYTES", 300)  # few rows at a time
    for i, c in enumerate(STRENGTHS):
        alone = multinomial(x, y, 4, inverse_penalties=[c])
        torch.testing.assert_close(together.weight[i], alone.weight[0], rtol=1e-6, atol=1e-8)


def test_single_precision_is_near_double() -> None:
    x, y = separable(200, 12, 3)
    x = torch.nn.functional.normalize(x + 1, dim=1)
    double, single = (multinomial(t, y, 3, inverse_penalties=STRENGTHS) for t in (x, x.float()))
    for i in range(len(STRENGTHS)):
        p, q = ((x @ f.weight[i].T + f.bias[i]).softmax(1) for f in (double, single))
        torch.testing.assert_close(p, q, atol=1e-3, rtol=0)


def test_too_few_iterations_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 2)
    x, y = separable(50, 6, 3)
    assert not multinomial(x, y, 3, inverse_penalties=[1e4]).converged.any()


def test_constant_and_repeated_features_are_no_obstacle() -> None:
    x, y = separable(40, 4, 3)
    x = torch.cat([x, x, torch.ones(40, 2)], dim=1)
    fitted = multinomial(x, y, 3, inverse_penalties=[10.0], tolerance=1e-9)
    np.testing.assert_allclose(fitted.weight[0], scikit(10.0).fit(x, y).coef_, atol=1e-4)


def test_weak_penalty_on_many_classes_reaches_the_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 40
    x = (
        torch.randn(400, 100, generator=generator)
        + 0.5 * torch.randn(40, 100, generator=generator)[y]
    )
    x = torch.nn.functional.normalize(x, dim=1)

    def objective(tolerance: float | None) -> float:
        fitted = multinomial(x, y, 40, inverse_penalties=[1e4], tolerance=tolerance)
        logits = x.double() @ fitted.weight[0].t() + fitted.bias[0]
        loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
        return float(loss + fitted.weight.square().sum() / 2e4)

    exact = objective(1e-8)
    assert objective(None) == pytest.approx(exact, rel=0.01)
    assert objective(1e-5) > 1.5 * exact, "a tolerance for few classes is too large for many"

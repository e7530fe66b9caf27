from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.ridge import ridge, ridge_of_moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from tests.probing.closed_form.made import features, separable

PENALTIES = (1e-3, 0.1, 10.0)
SHAPES = [(60, 8), (12, 30)]


@pytest.mark.parametrize(("samples", "width"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_regression_equals_scikit_learn(samples: int, width: int, weighted: bool) -> None:
    x, y = features(samples, width, offset=1.0), features(samples, 2, seed=5)
    weight = torch.rand(samples, dtype=torch.float64) + 0.1 if weighted else None
    fitted, other = ridge(x, y, sample_weight=weight), features(9, width, seed=7)
    predicted = fitted.predict(other, PENALTIES)
    for penalty, prediction in zip(PENALTIES, predicted, strict=True):
        alone = Ridge(penalty).fit(x, y, sample_weight=weight)
        np.testing.assert_allclose(prediction, alone.predict(other), rtol=1e-8)
        w, b = fitted.coefficients(penalty)
        np.testing.assert_allclose(w, alone.coef_, atol=1e-9)
        np.testing.assert_allclose(b, alone.intercept_, atol=1e-9)


@pytest.mark.parametrize(("samples", "width"), SHAPES)
@pytest.mark.parametrize("classes", [2, 4])
def test_classification_equals_scikit_learn(samples: int, width: int, classes: int) -> None:
    x, y = separable(samples, width, classes)
    fitted = ridge(x, one_hot(y, classes), sample_weight=balanced_weights(y, classes))
    for penalty, scores in zip(PENALTIES, fitted.predict(x, PENALTIES), strict=True):
        alone = RidgeClassifier(penalty, class_weight="balanced").fit(x, y)
        expected = alone.decision_function(x)
        scores = 2 * scores - 1  # scikit-learn's targets are -1 and 1
        np.testing.assert_allclose(scores[:, 1] if classes == 2 else scores, expected, atol=1e-9)


@pytest.mark.parametrize(("samples", "width"), SHAPES)
def test_streamed_samples_give_the_same_regression(samples: int, width: int) -> None:
    x, y = features(samples, width, offset=2.0), features(samples, 2, seed=5)
    moments = Moments(width, 2)
    for x_block, y_block in zip(x.split(5), y.split(5), strict=True):
        moments.add(x_block, y_block, torch.ones(len(x_block)))
    streamed = ridge_of_moments(moments, dtype=torch.float64).predict(x, PENALTIES)
    for one, other in zip(streamed, ridge(x, y).predict(x, PENALTIES), strict=True):
        torch.testing.assert_close(one, other)


def test_constant_and_repeated_features_and_samples_change_nothing() -> None:
    x, y = features(20, 4), features(20, 1, seed=3)
    wider = torch.cat([x, x.new_full((20, 2), 5.0)], dim=1)
    repeated = ridge(torch.cat([wider, wider]), torch.cat([y, y]))
    doubled = ridge(wider, y, sample_weight=torch.full((20,), 2.0))
    for penalty in (0.0, 1.0):
        weight, bias = repeated.coefficients(penalty)
        assert not weight[:, 4:].abs().max() > 1e-12
        torch.testing.assert_close((weight, bias), doubled.coefficients(penalty))
        alone = Ridge(penalty / 2).fit(x, y)
        np.testing.assert_allclose(weight[:, :4], alone.coef_[None], atol=1e-9)


def test_features_that_are_all_constant_predict_the_mean() -> None:
    y = features(5, 2, seed=3)
    fitted = ridge(torch.ones(5, 3, dtype=torch.float64), y)
    (predicted,) = fitted.predict(torch.ones(1, 3, dtype=torch.float64), [1.0])
    torch.testing.assert_close(predicted[0], y.mean(0))


@pytest.mark.parametrize(("samples", "width"), [(400, 24), (40, 200)])
def test_single_precision_is_near_double(samples: int, width: int) -> None:
    x, y = separable(samples, width, 3)
    x = torch.nn.functional.normalize(x + 3, dim=1)
    targets = one_hot(y, 3)
    doubles, singles = (ridge(t, targets).predict(t, (1e-2, 1.0)) for t in (x, x.float()))
    for double, single in zip(doubles, singles, strict=True):
        torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from layercache.probing.closed_form.lda import lda, lda_of_moments
from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from tests.probing.closed_form.made import features, separable

SHRINKAGES = (0.01, 0.3, 1.0)
SHAPES = [(80, 7), (12, 30)]


@pytest.mark.filterwarnings("ignore:Only one sample available")
@pytest.mark.parametrize(("samples", "width"), SHAPES)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_posteriors_equal_scikit_learn(
    samples: int, width: int, classes: int, balanced: bool
) -> None:
    x, y = separable(samples, width, classes)
    x += 2
    other = features(9, width, seed=7) + 2
    weight = balanced_weights(y, classes) if balanced else None
    fitted = lda(x, y, classes, sample_weight=weight)
    for shrinkage, logits in zip(SHRINKAGES, fitted.predict(other, SHRINKAGES), strict=True):
        alone = LinearDiscriminantAnalysis(
            solver="lsqr",
            shrinkage=shrinkage,
            priors=np.full(classes, 1 / classes) if balanced else None,
        ).fit(x, y)
        np.testing.assert_allclose(logits.softmax(1), alone.predict_proba(other), atol=1e-8)
        w, b = fitted.coefficients(shrinkage)
        torch.testing.assert_close((other @ w.T + b).softmax(1), logits.softmax(1))


def test_full_shrinkage_is_the_nearest_class_mean() -> None:
    x, y = separable(60, 9, 5)
    (logits,) = lda(x, y, 5, sample_weight=balanced_weights(y, 5)).predict(x, [1.0])
    np.testing.assert_array_equal(logits.argmax(1), NearestCentroid().fit(x, y).predict(x))


@pytest.mark.parametrize(("samples", "width"), SHAPES)
def test_streamed_samples_give_the_same_posteriors(samples: int, width: int) -> None:
    x, y = separable(samples, width, 3)
    moments = Moments(width, 3)
    for x_block, y_block in zip(x.split(5), y.split(5), strict=True):
        moments.add(x_block, one_hot(y_block, 3), torch.ones(len(x_block)))
    streamed = lda_of_moments(moments).predict(x, SHRINKAGES)
    resident = lda(x, y, 3).predict(x, SHRINKAGES)
    for one, other in zip(streamed, resident, strict=True):
        torch.testing.assert_close(one.softmax(1), other.softmax(1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [2, 20])
def test_one_sample_per_class_is_the_nearest_sample(width: int, dtype: torch.dtype) -> None:
    x = features(4, width, offset=3.0).to(dtype)
    fitted = lda(x, torch.arange(4), 4)
    for logits in fitted.predict(x, SHRINKAGES):
        np.testing.assert_array_equal(logits.argmax(1), np.arange(4))


def test_class_without_samples_is_never_predicted() -> None:
    x, y = separable(40, 6, 3)
    (logits,) = lda(x, 2 * y, 6).predict(x, [0.1])
    assert torch.isneginf(logits[:, [1, 3, 5]]).all()
    (present,) = lda(x, y, 3).predict(x, [0.1])
    torch.testing.assert_close(logits[:, [0, 2, 4]], present)


def test_constant_and_repeated_channels_are_shrunk_like_any_other() -> None:
    x, y = separable(50, 5, 3)
    x = torch.cat([x, x, torch.ones(50, 2)], dim=1)
    alone = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(x, y)
    (logits,) = lda(x, y, 3).predict(x, [0.1])
    np.testing.assert_allclose(logits.softmax(1), alone.predict_proba(x), atol=1e-8)


@pytest.mark.parametrize(("samples", "width"), [(400, 24), (40, 200)])
def test_single_precision_is_near_double(samples: int, width: int) -> None:
    x, y = separable(samples, width, 3)
    x = torch.nn.functional.normalize(x + 3, dim=1)
    doubles, singles = (lda(t, y, 3).predict(t, (0.01, 0.5)) for t in (x, x.float()))
    for double, single in zip(doubles, singles, strict=True):
        torch.testing.assert_close(single.double().softmax(1), double.softmax(1), atol=2e-3, rtol=0)

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeCV

from layercache.probing.closed_form.lda import lda
from layercache.probing.closed_form.leave_one_out import (
    lda_leave_one_out_block,
    ridge_leave_one_out,
    ridge_leave_one_out_block,
)
from layercache.probing.closed_form.ridge import ridge
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from tests.probing.closed_form.made import features, labels, separable

PENALTIES = (1e-3, 0.1, 10.0)
SHAPES = [(60, 8), (12, 30)]
SETTINGS = [1e-3, 0.1, 0.7, 1.0]
C = 3


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("samples", "width"), [(60, 6), (25, 40)])
def test_lda_without_a_sample_is_the_refit_to_all_others(
    samples: int, width: int, balanced: bool
) -> None:
    x, y = separable(samples, width, C)
    x = x + 1
    weight = balanced_weights(y, C) if balanced else torch.ones(samples, dtype=torch.float64)
    found = list(
        lda_leave_one_out_block(
            lda(x, y, C, sample_weight=weight),
            x,
            y,
            weight,
            SETTINGS,
            class_weights=weight @ one_hot(y, C),
            rounding=1e-12,
        )
    )
    for i in range(samples):
        others = torch.arange(samples) != i
        refit = lda(x[others], y[others], C, sample_weight=weight[others])
        for outputs, expected in zip(found, refit.predict(x[i : i + 1], SETTINGS), strict=True):
            torch.testing.assert_close(
                outputs[i].softmax(0), expected[0].softmax(0), rtol=1e-5, atol=1e-7
            )


def test_lda_without_a_sample_is_that_of_scikit_learn() -> None:
    x, y = separable(40, 6, C)
    weight = torch.ones(40, dtype=torch.float64)
    (found,) = lda_leave_one_out_block(
        lda(x, y, C), x, y, weight, [0.2], class_weights=weight @ one_hot(y, C), rounding=1e-12
    )
    for i in range(40):
        others = np.arange(40) != i
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2)
        theirs.fit(x.numpy()[others], y.numpy()[others])
        np.testing.assert_allclose(
            found[i].softmax(0).numpy(), theirs.predict_proba(x.numpy()[i : i + 1])[0], atol=1e-7
        )


def test_only_sample_of_a_class_is_predicted_to_be_of_another() -> None:
    x, y = separable(30, 5, C)
    x, y = torch.cat([x, x[:1] + 3]), torch.cat([y, torch.tensor([3])])
    weight = balanced_weights(y, 4)
    (found,) = lda_leave_one_out_block(
        lda(x, y, 4, sample_weight=weight),
        x,
        y,
        weight,
        [0.3],
        class_weights=weight @ one_hot(y, 4),
        rounding=1e-12,
    )
    assert torch.isneginf(found[30, 3])
    others = torch.arange(31) != 30
    refit = lda(x[others], y[others], 4, sample_weight=weight[others])
    (expected,) = refit.predict(x[30:], [0.3])
    torch.testing.assert_close(found[30].softmax(0), expected[0].softmax(0), rtol=1e-5, atol=1e-7)


def test_ridge_in_blocks_equals_the_form_for_few_samples_and_refits() -> None:
    x, y = separable(50, 6, C)
    targets, weight = one_hot(y, C), balanced_weights(y, C)
    fitted = ridge(x, targets, sample_weight=weight)
    total = float(weight.sum())
    blocks = [
        torch.stack(
            list(
                ridge_leave_one_out_block(
                    fitted, x[rows], targets[rows], weight[rows], SETTINGS, total=total
                )
            )
        )
        for rows in (slice(0, 20), slice(20, 50))
    ]
    found = torch.cat(blocks, dim=1)
    expected = ridge_leave_one_out(x, targets, SETTINGS, sample_weight=weight)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    others = torch.arange(50) != 7
    refit = ridge(x[others], targets[others], sample_weight=weight[others])
    for outputs, alone in zip(found, refit.predict(x[7:8], SETTINGS), strict=True):
        torch.testing.assert_close(outputs[7], alone[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("samples", "width"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_leave_one_out_equals_explicit_refits(
    samples: int, width: int, weighted: bool
) -> None:
    x, y = features(samples, width, offset=1.0), one_hot(labels(samples, 3), 3)
    weight = torch.rand(samples, dtype=torch.float64) + 0.1 if weighted else torch.ones(samples)
    predicted = ridge_leave_one_out(x, y, PENALTIES, sample_weight=weight if weighted else None)
    for i in range(samples):
        rest = torch.arange(samples) != i
        for penalty, prediction in zip(PENALTIES, predicted, strict=True):
            alone = Ridge(penalty).fit(x[rest], y[rest], sample_weight=weight[rest])
            np.testing.assert_allclose(prediction[i], alone.predict(x[i : i + 1])[0], atol=1e-7)


def test_ridge_leave_one_out_selects_the_penalty_of_scikit_learn() -> None:
    x = features(40, 60)
    y = x[:, :1] + 0.5 * features(40, 1, seed=9)
    penalties = tuple(np.logspace(-3, 3, 13))
    errors = (ridge_leave_one_out(x, y, penalties) - y).square().mean((1, 2))
    assert penalties[int(errors.argmin())] == RidgeCV(penalties).fit(x, y[:, 0]).alpha_


def test_ridge_leave_one_out_without_penalty_is_undefined_where_one_sample_alone_decides() -> None:
    x, y = features(6, 3), features(6, 1, seed=2)
    x[:, 2] = 0
    x[0, 2] = 1  # only the first sample has this feature
    (predicted,) = ridge_leave_one_out(x, y, [0.0])
    assert torch.isnan(predicted[0]).all()
    assert torch.isfinite(predicted[1:]).all()

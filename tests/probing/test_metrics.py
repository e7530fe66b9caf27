from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from layercache.probing import metrics

cases = {
    "n": st.integers(1, 60),
    "c": st.integers(2, 7),
    "seed": st.integers(0, 2**31),
    "coarse": st.booleans(),
}


def draw(n: int, c: int, seed: int, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, c))
    return (np.round(scores) if coarse else scores), rng.integers(0, c, n)


@settings(max_examples=80, deadline=None)
@given(**cases)
@pytest.mark.filterwarnings(
    "ignore:y_pred contains classes not in y_true", "ignore:A single label was found"
)
def test_balanced_accuracy_and_confusion_equal_scikit_learns(
    n: int, c: int, seed: int, coarse: bool
) -> None:
    scores, labels = draw(n, c, seed, coarse)
    predicted = scores.argmax(1)
    assert metrics.balanced_accuracy(predicted, labels) == pytest.approx(
        reference.balanced_accuracy_score(labels, predicted)
    )
    np.testing.assert_array_equal(
        metrics.confusion(predicted, labels, classes=c),
        reference.confusion_matrix(labels, predicted, labels=range(c)),
    )


@settings(max_examples=80, deadline=None)
@given(**cases, k=st.integers(1, 7))
@pytest.mark.filterwarnings("ignore:'k'")
def test_top_k_equals_scikit_learns(n: int, c: int, seed: int, coarse: bool, k: int) -> None:
    scores, labels = draw(n, c, seed, False)
    if c == 2:
        c, scores = 3, np.hstack([scores, np.full((n, 1), -99.0)])
    expected = (
        reference.top_k_accuracy_score(labels, scores, k=k, labels=range(c)) if k < c else 1.0
    )
    assert metrics.top_k(scores, labels, k=k) == pytest.approx(expected)


def test_top_1_agrees_with_argmax_on_ties() -> None:
    scores, labels = draw(500, 4, 0, True)
    assert metrics.top_k(scores, labels, k=1) == pytest.approx(np.mean(scores.argmax(1) == labels))


@settings(max_examples=80, deadline=None)
@given(**cases)
def test_mean_average_precision_equals_scikit_learns_over_present_classes(
    n: int, c: int, seed: int, coarse: bool
) -> None:
    scores, _ = draw(n, c, seed, coarse)
    targets = (np.random.default_rng(seed + 1).random((n, c)) < 0.3).astype(np.uint8)
    there = targets.any(0)
    result = metrics.mean_average_precision(scores, targets)
    if there.any():
        assert result == pytest.approx(
            reference.average_precision_score(targets[:, there], scores[:, there], average="macro")
        )
    else:
        assert np.isnan(result)


def test_accuracy_and_balanced_accuracy_differ_on_unequal_classes() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    assert metrics.balanced_accuracy(np.zeros(100, int), labels) == 0.5


def test_bootstrap_interval_has_the_width_of_a_binomial_share() -> None:
    hits = np.random.default_rng(1).random(400) < 0.7
    low, high = metrics.bootstrap_interval(
        lambda rows: float(hits[rows].mean()), 400, resamples=2000
    )
    share = hits.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert (low, high) == (
        pytest.approx(share - half, abs=0.006),
        pytest.approx(share + half, abs=0.006),
    )
    assert metrics.bootstrap_interval(
        lambda rows: float(hits[rows].mean()), 400, resamples=50
    ) == metrics.bootstrap_interval(lambda rows: float(hits[rows].mean()), 400, resamples=50)


def test_evaluate_returns_the_metrics_of_its_kind() -> None:
    scores, labels = draw(50, 6, 0, False)
    assert set(metrics.evaluate(scores, labels)) == {
        "balanced_accuracy",
        "top1_accuracy",
        "top5_accuracy",
    }
    assert (
        set(metrics.evaluate(scores, np.eye(6)[labels], multi_label=True))
        == {"mean_average_precision"}
        == {metrics.selection_metric(multi_label=True)}
    )

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from layercache.errors import OptionError, UnknownNameError
from layercache.probing import metrics
from layercache.probing.metrics import CLASSIFICATION, MULTI_LABEL, REGRESSION

pytestmark = pytest.mark.filterwarnings(
    "ignore:y_pred contains classes not in y_true",
    "ignore:A single label was found",
    "ignore:'k'",
    "ignore:Only one class is present",
    "ignore:invalid value encountered",
    "ignore:No positive class found",
    "ignore:R\\^2 score is not well-defined",
    "ignore::sklearn.exceptions.UndefinedMetricWarning",
)

cases = {
    "n": st.integers(1, 60),
    "c": st.integers(2, 7),
    "seed": st.integers(0, 2**31),
    "coarse": st.booleans(),
}


def draw(n: int, c: int, seed: int, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, c))
    present = rng.permutation(c)[: rng.integers(1, c + 1)]  # the other classes are absent
    return (np.round(logits) if coarse else logits), rng.choice(present, n)


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.as_tensor(logits).softmax(1).numpy()


def mean_over_classes(score, targets_nc: np.ndarray, scores_nc: np.ndarray) -> float:
    """Mean of a binary score over the columns that have both values."""
    values = [
        score(targets_nc[:, c], scores_nc[:, c])
        for c in range(targets_nc.shape[1])
        if 0 < targets_nc[:, c].sum() < len(targets_nc)
    ]
    return float(np.mean(values)) if values else float("nan")


def mean_average_precision(targets_nc: np.ndarray, scores_nc: np.ndarray) -> float:
    present = targets_nc.any(0)
    if not present.any():
        return float("nan")
    return reference.average_precision_score(targets_nc[:, present], scores_nc[:, present])


def brier_score(y: np.ndarray, p: np.ndarray) -> float:
    if p.shape[1] == 2:
        return reference.brier_score_loss(y, p[:, 1], labels=[0, 1], pos_label=1)
    return reference.brier_score_loss(y, p, labels=range(p.shape[1]))


@settings(max_examples=80, deadline=None)
@given(**cases)
def test_single_label_metrics_equal_scikit_learns(n: int, c: int, seed: int, coarse: bool) -> None:
    logits, y = draw(n, c, seed, coarse)
    predicted, classes = logits.argmax(1), range(c)
    y_nc = np.eye(c)[y]
    p = softmax(logits)
    clipped = np.clip(p, np.finfo(float).eps, 1)
    expected = {
        "balanced_accuracy": reference.balanced_accuracy_score(y, predicted),
        "top1_accuracy": reference.accuracy_score(y, predicted),
        "f1_macro": reference.f1_score(y, predicted, average="macro"),
        "f1_weighted": reference.f1_score(y, predicted, average="weighted"),
        "cohen_kappa": reference.cohen_kappa_score(y, predicted, labels=classes),
        "quadratic_weighted_kappa": reference.cohen_kappa_score(
            y, predicted, labels=classes, weights="quadratic"
        ),
        "log_loss": reference.log_loss(y, clipped, labels=classes),
        "brier_score": brier_score(y, p),
    }
    got = metrics.compute(logits, y, task=CLASSIFICATION, names=list(expected))
    assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)
    if coarse:  # equal probabilities differ by rounding
        return
    expected = {
        "roc_auc": mean_over_classes(reference.roc_auc_score, y_nc, p),
        "mean_average_precision": mean_average_precision(y_nc, p),
    }
    got = metrics.compute(logits, y, task=CLASSIFICATION, names=list(expected))
    assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(**cases, k=st.integers(1, 9))
def test_top_k_equals_scikit_learns_and_is_nan_where_it_is_always_1(
    n: int, c: int, seed: int, coarse: bool, k: int
) -> None:
    logits, y = draw(n, c, seed, False)
    name = f"top{k}_accuracy"
    got = metrics.compute(logits, y, task=CLASSIFICATION, names=[name])[name]
    if 1 < k >= c:
        assert np.isnan(got)
    elif k == 1:
        assert got == pytest.approx(np.mean(logits.argmax(1) == y))
    else:
        expected = reference.top_k_accuracy_score(y, logits, k=k, labels=range(c))
        assert got == pytest.approx(expected)


def test_top_1_agrees_with_argmax_on_ties() -> None:
    logits, y = draw(500, 4, 0, True)
    got = metrics.compute(logits, y, task=CLASSIFICATION, names=["top1_accuracy"])
    assert got == {"top1_accuracy": pytest.approx(np.mean(logits.argmax(1) == y))}


@settings(max_examples=80, deadline=None)
@given(**cases)
def test_multi_label_metrics_equal_scikit_learns(n: int, c: int, seed: int, coarse: bool) -> None:
    logits, _ = draw(n, c, seed, coarse)
    rng = np.random.default_rng(seed + 1)
    y = (rng.random((n, c)) < rng.choice([0.0, 0.3, 1.0], c)).astype(np.uint8)
    p, predicted = 1 / (1 + np.exp(-logits)), logits > 0
    f1 = {
        f"f1_{average}": reference.f1_score(y, predicted, average=average, zero_division=np.nan)
        for average in ("macro", "micro", "weighted")
    }
    if not y.any():
        f1["f1_weighted"] = float("nan")  # scikit-learn: that of the predictions
    expected = f1 | {
        "mean_average_precision": mean_average_precision(y, logits),
        "roc_auc": mean_over_classes(reference.roc_auc_score, y, logits),
        "average_precision_micro": reference.average_precision_score(y.ravel(), logits.ravel())
        if y.any()
        else float("nan"),
        "roc_auc_micro": reference.roc_auc_score(y.ravel(), logits.ravel())
        if 0 < y.sum() < y.size
        else float("nan"),
        "log_loss": reference.log_loss(y.ravel(), p.ravel(), labels=[0, 1]),
        "brier_score": np.mean((p - y) ** 2),
    }
    got = metrics.compute(logits, y, task=MULTI_LABEL, names=list(expected))
    assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(n=st.integers(2, 60), t=st.integers(1, 3), seed=st.integers(0, 2**31), coarse=st.booleans())
def test_regression_metrics_equal_scikit_learns_and_scipys(
    n: int, t: int, seed: int, coarse: bool
) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, t)) * 100 + 1e4
    x = y + rng.normal(size=(n, t)) * 30
    if coarse:
        x, y = np.round(x, -2), np.round(y, -2)
    varying = np.ptp(y, axis=0) > 0
    correlations = [
        spearmanr(x[:, i], y[:, i]).statistic
        for i in range(t)
        if varying[i] and np.ptp(x[:, i]) > 0
    ]
    expected = {
        "r2": reference.r2_score(y[:, varying], x[:, varying]) if varying.any() else np.nan,
        "mae": reference.mean_absolute_error(y, x),
        "rmse": reference.root_mean_squared_error(y, x),
        "spearman": np.mean(correlations) if correlations else np.nan,
    }
    got = metrics.compute(x, y, task=REGRESSION)
    assert got == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("c", [2, 5, 1000])
def test_calibration_error_equals_torchmetrics(c: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, y = draw(3000, c, c, False)
    expected = functional.multiclass_calibration_error(
        torch.tensor(softmax(logits)), torch.tensor(y), num_classes=c, n_bins=15
    )
    got = metrics.compute(logits, y, task=CLASSIFICATION, names=["expected_calibration_error"])
    assert got["expected_calibration_error"] == pytest.approx(float(expected), abs=1e-6)


def test_multi_label_calibration_error_equals_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, _ = draw(700, 5, 0, False)
    y = (np.random.default_rng(1).random((700, 5)) < 0.2).astype(np.uint8)
    probabilities = torch.tensor(logits).sigmoid().ravel()
    expected = functional.binary_calibration_error(
        probabilities, torch.tensor(y).long().ravel(), n_bins=15
    )
    got = metrics.compute(logits, y, task=MULTI_LABEL, names=["expected_calibration_error"])
    assert got["expected_calibration_error"] == pytest.approx(float(expected), abs=1e-6)


def test_thousand_classes_with_absent_ones_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(1000, 500)
    logits = rng.normal(size=(500, 1000))
    logits[np.arange(500), y] += 2
    y_nc, p = np.eye(1000)[y], softmax(logits)
    got = metrics.compute(logits, y, task=CLASSIFICATION)
    assert got["roc_auc"] == pytest.approx(mean_over_classes(reference.roc_auc_score, y_nc, p))
    assert got["mean_average_precision"] == pytest.approx(mean_average_precision(y_nc, p))
    assert got["top5_accuracy"] == pytest.approx(
        reference.top_k_accuracy_score(y, logits, k=5, labels=range(1000))
    )
    assert got["log_loss"] == pytest.approx(reference.log_loss(y, p, labels=range(1000)))


def test_one_class_only_leaves_undefined_what_compares_classes() -> None:
    logits = np.array([[3.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    got = metrics.compute(logits, np.zeros(2, int), task=CLASSIFICATION)
    undefined = {name for name, value in got.items() if np.isnan(value)}
    assert undefined == {
        "roc_auc",
        "cohen_kappa",
        "quadratic_weighted_kappa",
        "top5_accuracy",
    }
    assert got["balanced_accuracy"] == got["f1_macro"] == got["mean_average_precision"] == 1.0


def test_saturated_probabilities_still_rank() -> None:
    logits = np.array([[50.0, 0.0], [60.0, 0.0], [70.0, 0.0]])  # p is 1 up to rounding
    got = metrics.compute(logits, np.array([1, 0, 0]), task=CLASSIFICATION, names=["roc_auc"])
    assert got["roc_auc"] == 1.0


def test_log_loss_of_an_impossible_class_is_bounded_as_in_scikit_learn() -> None:
    logits = np.array([[0.0, -1e4], [0.0, -1e4]])
    got = metrics.compute(logits, np.array([0, 1]), task=CLASSIFICATION, names=["log_loss"])
    expected = reference.log_loss([0, 1], softmax(logits), labels=[0, 1])
    assert got["log_loss"] == pytest.approx(expected)


def test_accuracy_and_balanced_accuracy_differ_on_unequal_classes() -> None:
    y = np.array([0] * 90 + [1] * 10)
    logits = np.tile([1.0, 0.0], (100, 1))
    got = metrics.compute(
        logits, y, task=CLASSIFICATION, names=["balanced_accuracy", "top1_accuracy"]
    )
    assert got == {"balanced_accuracy": 0.5, "top1_accuracy": pytest.approx(0.9)}


def test_confusion_equals_scikit_learns() -> None:
    logits, y = draw(300, 5, 0, False)
    np.testing.assert_array_equal(
        metrics.confusion(logits.argmax(1), y, classes=5),
        reference.confusion_matrix(y, logits.argmax(1), labels=range(5)),
    )


def test_evaluate_returns_what_a_probe_stores() -> None:
    logits, y = draw(50, 6, 0, False)
    assert set(metrics.evaluate(logits, y)) == set(metrics.STANDARD[CLASSIFICATION])
    stored = metrics.evaluate(logits, np.eye(6)[y], task=MULTI_LABEL)
    assert set(stored) == set(metrics.STANDARD[MULTI_LABEL])
    assert metrics.PRIMARY[MULTI_LABEL] in stored


def test_names_have_aliases_and_an_unknown_one_is_an_error() -> None:
    assert metrics.parse_metrics("auroc, accuracy,roc_auc,top3_accuracy") == [
        "roc_auc",
        "top1_accuracy",
        "top3_accuracy",
    ]
    with pytest.raises(UnknownNameError, match="did you mean f1_macro"):
        metrics.parse_metrics("f1_makro")
    with pytest.raises(OptionError, match="metrics: expected names"):
        metrics.parse_metrics(",")
    with pytest.raises(OptionError, match="select: r2 is not a metric of classification"):
        metrics.check_metric("r2", task=CLASSIFICATION, option="select")


def test_lower_is_better_for_losses_and_errors_alone() -> None:
    lower = {name for name, metric in metrics.METRICS.items() if not metric.higher_is_better}
    assert lower == {
        "log_loss",
        "brier_score",
        "expected_calibration_error",
        "mae",
        "rmse",
    }


def test_half_precision_logits_have_full_precision_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 1.0]]).bfloat16()
    got = metrics.summarize_logits(logits, torch.tensor([0, 2]))
    expected = metrics.summarize_logits(logits.float(), torch.tensor([0, 2]))
    for name, values in got.items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=0)

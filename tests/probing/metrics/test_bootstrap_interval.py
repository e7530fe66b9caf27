from __future__ import annotations

import numpy as np
import pytest

from layercache.errors import OptionError
from layercache.probing.metrics import (
    CLASSIFICATION,
    MULTI_LABEL,
    REGRESSION,
    bootstrap,
    compute,
    metrics_of,
)

RESAMPLES = 40


def make_case(task: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    if task == REGRESSION:
        y = np.round(rng.normal(size=(30, 2)), 1)
        return np.round(y + rng.normal(size=(30, 2)), 1), y
    logits = np.round(rng.normal(size=(30, 6)), 1)
    if task == MULTI_LABEL:
        y = (rng.random((30, 6)) < 0.2).astype(np.uint8)
        y[:, 5] = 0
        return logits + y, y
    labels = rng.choice([0, 1, 2, 4, 5], 30)
    logits[np.arange(30), labels] += 1
    return logits, labels


def plain_loop(
    outputs: np.ndarray, y: np.ndarray, *, task: str, groups: np.ndarray | None
) -> dict[str, tuple[float, float]]:
    """The interval by copying the rows of each resample, with the same draws."""
    rng = np.random.default_rng(0)
    levels = np.arange(len(y)) if groups is None else np.unique(groups)
    values: dict[str, list[float]] = {name: [] for name in metrics_of(task)}
    for _ in range(RESAMPLES):
        drawn = levels[rng.integers(0, len(levels), len(levels))]
        member = np.arange(len(y)) if groups is None else groups
        rows = np.concatenate([np.flatnonzero(member == level) for level in drawn])
        for name, value in compute(outputs[rows], y[rows], task=task).items():
            values[name].append(value)
    return {
        name: tuple(np.nanquantile(v, [0.025, 0.975])) if not np.isnan(v).all() else (np.nan,) * 2
        for name, v in values.items()
    }


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("task", [CLASSIFICATION, MULTI_LABEL, REGRESSION])
def test_interval_of_every_metric_equals_a_plain_loop_over_the_same_resamples(
    task: str, grouped: bool
) -> None:
    outputs, y = make_case(task)
    groups = np.random.default_rng(1).integers(0, 9, 30) if grouped else None
    got = bootstrap(outputs, y, task=task, groups=groups, resamples=RESAMPLES)
    expected = plain_loop(outputs, y, task=task, groups=groups)
    assert set(got) == set(metrics_of(task))
    for name, interval in got.items():
        assert interval == pytest.approx(expected[name], nan_ok=True, abs=1e-12), name


def test_chunks_of_resamples_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, y = make_case(CLASSIFICATION)
    whole = bootstrap(outputs, y, task=CLASSIFICATION, resamples=RESAMPLES)
    monkeypatch.setattr("layercache.probing.metrics.bootstrap_interval.CHUNK_BYTES", 8 * 30 * 7)
    parts = bootstrap(outputs, y, task=CLASSIFICATION, resamples=RESAMPLES)
    for name, interval in parts.items():
        assert interval == pytest.approx(whole[name])


def test_interval_has_the_width_of_a_binomial_share() -> None:
    hits = np.random.default_rng(1).random(400) < 0.7
    logits = np.stack([hits, ~hits], 1).astype(float)
    options = {"task": CLASSIFICATION, "names": ["top1_accuracy"]}
    low, high = bootstrap(logits, np.zeros(400, int), resamples=2000, **options)["top1_accuracy"]
    share = hits.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.006)


def test_interval_by_group_is_wider_where_groups_agree() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 20)
    hits = (rng.random(40) < 0.7)[groups]
    logits = np.stack([hits, ~hits], 1).astype(float)
    options = {"task": CLASSIFICATION, "names": ["top1_accuracy"]}
    y = np.zeros(800, int)
    single = np.ptp(bootstrap(logits, y, **options)["top1_accuracy"])
    grouped = np.ptp(bootstrap(logits, y, groups=groups, **options)["top1_accuracy"])
    assert grouped == pytest.approx(single * np.sqrt(20), rel=0.15)


def test_text_groups_and_a_wrong_number_of_groups() -> None:
    outputs, y = make_case(CLASSIFICATION)
    numbers = np.random.default_rng(1).integers(0, 9, 30)
    options = {"task": CLASSIFICATION, "names": ["roc_auc"], "resamples": 20}
    as_text = np.array([f"patient {g}" for g in numbers])
    assert bootstrap(outputs, y, groups=as_text, **options) == bootstrap(
        outputs, y, groups=numbers, **options
    )
    with pytest.raises(OptionError, match="groups: expected one for each of 30 samples, got 3"):
        bootstrap(outputs, y, groups=numbers[:3], **options)


def test_undefined_metric_has_an_undefined_interval() -> None:
    logits = np.array([[1.0, 0.0], [2.0, 0.0]])
    got = bootstrap(logits, np.zeros(2, int), task=CLASSIFICATION, names=["roc_auc"], resamples=5)
    assert np.isnan(got["roc_auc"]).all()

from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from layercache.reporting.analysis.error_analysis import (
    changed_confusions,
    changed_images,
    is_correct,
)

CLASSES = ("cat", "dog", "owl")


def random_case(seed=0, n=300):
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, size=n)
    baseline = rng.normal(size=(n, 3)) + np.eye(3)[targets]
    fusion = rng.normal(size=(n, 3)) + 2 * np.eye(3)[targets]
    return fusion, baseline, targets


def test_changed_confusions_equal_those_of_scikit_learn():
    fusion, baseline, targets = random_case()
    table = changed_confusions(fusion, baseline, targets=targets, classes=CLASSES)
    before, after = (confusion_matrix(targets, x.argmax(1)) for x in (baseline, fusion))
    assert len(table) == 6
    for row in table.itertuples():
        i, j = CLASSES.index(row.true_class), CLASSES.index(row.predicted_class)
        assert (row.baseline, row.fusion, row.change) == (
            before[i, j],
            after[i, j],
            after[i, j] - before[i, j],
        )
    assert list(table["change"].abs()) == sorted(table["change"].abs(), reverse=True)


def test_changed_images_equal_those_of_a_loop():
    fusion, baseline, targets = random_case(1)
    ids = [f"image-{i}" for i in range(len(targets))]
    table = changed_images(fusion, baseline, targets=targets, ids=ids, classes=CLASSES)
    expected = {
        i
        for i in range(len(targets))
        if (fusion[i].argmax() == targets[i]) != (baseline[i].argmax() == targets[i])
    }
    assert set(table["row"]) == expected
    for row in table.itertuples():
        assert row.id == ids[row.row]
        assert row.true_class == CLASSES[targets[row.row]]
        assert (
            (row.outcome == "won")
            == (row.fusion_prediction == row.true_class)
            != (row.baseline_prediction == row.true_class)
        )
        z = np.exp(fusion[row.row])
        assert np.isclose(row.fusion_p_true, z[targets[row.row]] / z.sum())


def test_changes_of_equal_heads_are_none():
    fusion, _, targets = random_case(2)
    assert changed_images(fusion, fusion, targets=targets, ids=[""] * 300, classes=CLASSES).empty
    assert (
        changed_confusions(fusion, fusion, targets=targets, classes=CLASSES)["change"] == 0
    ).all()
    assert is_correct(np.eye(3), np.array([0, 1, 0])).tolist() == [True, True, False]

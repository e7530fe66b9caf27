from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from layercache.reporting.mistakes import changed_images, confused_pairs, correct

CLASSES = ("cat", "dog", "owl")


def random_case(seed=0, n=300):
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, size=n)
    base = rng.normal(size=(n, 3)) + np.eye(3)[targets]
    better = rng.normal(size=(n, 3)) + 2 * np.eye(3)[targets]
    return better, base, targets


def test_confused_pairs_against_scikit_learn():
    better, base, targets = random_case()
    table = confused_pairs(better, base, targets=targets, classes=CLASSES)
    before, after = (confusion_matrix(targets, x.argmax(1)) for x in (base, better))
    assert len(table) == 6
    for row in table.itertuples():
        i, j = CLASSES.index(row.true_class), CLASSES.index(row.taken_for)
        assert (row.baseline, row.fusion, row.change) == (
            before[i, j],
            after[i, j],
            after[i, j] - before[i, j],
        )
    assert list(table["change"].abs()) == sorted(table["change"].abs(), reverse=True)


def test_changed_images_one_by_one():
    better, base, targets = random_case(1)
    ids = [f"image-{i}" for i in range(len(targets))]
    table = changed_images(better, base, targets=targets, ids=ids, classes=CLASSES)
    expected = {
        i
        for i in range(len(targets))
        if (better[i].argmax() == targets[i]) != (base[i].argmax() == targets[i])
    }
    assert set(table["row"]) == expected
    for row in table.itertuples():
        assert row.id == ids[row.row]
        assert row.true_class == CLASSES[targets[row.row]]
        assert (
            (row.outcome == "won")
            == (row.fusion_says == row.true_class)
            != (row.baseline_says == row.true_class)
        )
        z = np.exp(better[row.row])
        assert np.isclose(row.fusion_p_true, z[targets[row.row]] / z.sum())


def test_equal_heads_change_nothing():
    better, _, targets = random_case(2)
    assert changed_images(better, better, targets=targets, ids=[""] * 300, classes=CLASSES).empty
    assert (confused_pairs(better, better, targets=targets, classes=CLASSES)["change"] == 0).all()
    assert correct(np.eye(3), np.array([0, 1, 0])).tolist() == [True, True, False]

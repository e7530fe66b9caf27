from __future__ import annotations

import numpy as np

from layercache.probing.scan.rows import split_rows


def test_groups_stay_on_one_side_and_every_class_in_training() -> None:
    strata, groups = np.arange(90) % 3, np.arange(90) // 9
    rows = split_rows(strata, seed=0, groups=groups)
    assert not set(groups[rows.train]) & set(groups[rows.val])
    assert set(strata[rows.train]) == {0, 1, 2}
    assert len(rows.refit) == 90
    assert rows.val_is_refitted


def test_validation_split_is_no_part_of_the_final_fit() -> None:
    rows = split_rows(np.arange(70) % 2, seed=0, train_rows=50)
    np.testing.assert_array_equal(rows.train, np.arange(50))
    np.testing.assert_array_equal(rows.val, np.arange(50, 70))
    np.testing.assert_array_equal(rows.refit, rows.train)
    assert rows.references.max() < 50
    assert not rows.val_is_refitted

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from layercache.errors import (
    CacheCorruptError,
    ProbeError,
)
from layercache.probing.api import probe
from layercache.probing.heads import HeadSpec
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.stratified_split import folds, subset
from layercache.probing.splits.train_subset import sample_subset
from layercache.probing.token_selection import select_tokens
from layercache.probing.training.config import TrainConfig
from tests.logs import logged
from tests.probing.quick import ONE_CONFIG


def test_sample_subset_of_one_empty_or_rare_class_raises_or_logs_it(
    planted: Callable[..., Any], write_cache: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    x = {
        "train": rng.normal(size=(2, 2, 60, 8)).astype("float16"),
        "test": rng.normal(size=(2, 2, 30, 8)).astype("float16"),
    }
    labels = {"train": np.arange(60) % 2, "test": np.arange(30) % 2}
    with pytest.raises(
        ProbeError, match="at least two classes with samples, but only class 'class 0' occurs"
    ):
        probe(
            write_cache(x, {**labels, "train": np.zeros(60)}, classes=2),
            head="linear",
            **ONE_CONFIG,
        )
    train = labels["train"].copy()
    train[0] = 3  # one sample of class 3, none of class 2
    with logged() as lines:
        (trained,) = probe(
            write_cache(x, {**labels, "train": train}, classes=4, model="rare"),
            head="linear",
            **ONE_CONFIG,
        )
    assert trained.row["empty_classes"] == "class 2"
    assert any(
        "1 of 4 classes have no training sample and get weight 0: class 2" in line for line in lines
    )
    assert any(
        "1 of 4 classes have too few samples for the validation part" in line for line in lines
    )


def test_sample_subset_of_labels_outside_the_classes_raises(
    write_cache: Callable[..., Any],
) -> None:
    x = {"train": np.ones((2, 2, 40, 8), "float32"), "test": np.ones((2, 2, 10, 8), "float32")}
    labels = {"train": np.arange(40) % 4, "test": np.arange(10) % 4}
    with pytest.raises(CacheCorruptError, match="expected class numbers below 3"):
        probe(write_cache(x, labels, classes=3), head="linear", **ONE_CONFIG)


@pytest.mark.parametrize("shots", [None, 1, 3, 5])
def test_train_subset_holds_the_rows_and_folds_that_were_drawn(
    planted: Callable[..., Any], shots: int | None
) -> None:
    cache = planted(classes=5, rows=200)
    labels = cache.split("train").labels
    spec = ProbeSpec(
        tokens=select_tokens(cache, head="linear", layers="last", tokens="cls"),
        head="linear",
        head_spec=HeadSpec(kind="linear", tokens=1, width=8, classes=5),
        grid=({"lr": 0.1},),
        seed=4,
        shots=shots,
        train_fraction=None,
        train_config=TrainConfig(),
        precision="fp32",
    )
    drawn = sample_subset(spec, cache.split("train"))
    rows = subset(labels, shots=shots, fraction=None, seed=4)
    expected = folds(labels[rows], np.arange(len(rows)), shots=shots, seed=4)
    assert np.array_equal(drawn.rows, rows)
    assert drawn.n_folds == len(expected)
    for number, fold in enumerate(expected):
        assert np.array_equal(drawn.fold(number).train, fold.train)
        assert np.array_equal(drawn.fold(number).val, fold.val)

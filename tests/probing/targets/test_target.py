from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layercache.errors import OptionError, ProbeError, UnknownNameError
from layercache.probing.targets.target import check_floats, label_target, stratify
from layercache.probing.targets.target_columns import read_target, target_of_table
from layercache.testing import write_cache, write_planted_cache
from tests.logs import logged


def table(**columns: object) -> pd.DataFrame:
    """Return annotations of four training and two test samples."""
    ids = pd.Index(["a", "b", "c", "d", "a", "b"], name="id")
    split = pd.Categorical(["train"] * 4 + ["test"] * 2)
    return pd.DataFrame({"split": split, **columns}, index=ids)  # type: ignore[dict-item]


class SplitOf:
    """What a target reads of a split."""

    def __init__(self, name: str, rows: int) -> None:
        self.name, self.rows = name, rows


TRAIN, TEST = SplitOf("train", 4), SplitOf("test", 2)


def test_float_column_is_a_regression_and_missing_values_leave_rows_out() -> None:
    target = target_of_table(table(age=[1.5, np.nan, 3.0, 4.0, 5.0, np.nan]), ["age"])
    assert (target.task, target.classes, target.name) == ("regression", ("age",), "age")
    assert target.rows(TRAIN).tolist() == [0, 2, 3]  # type: ignore[arg-type]
    assert target.values(TRAIN)[[0, 2, 3]].tolist() == [[1.5], [3.0], [4.0]]  # type: ignore[arg-type]
    assert target.values(TRAIN).dtype == np.float64  # type: ignore[arg-type]
    assert target.rows(TEST).tolist() == [0]  # type: ignore[arg-type]
    assert target.describe_missing(TRAIN) == (  # type: ignore[arg-type]
        "1 of 4 samples of split train has no value in column 'age' and is left out"
    )


def test_class_names_keep_their_order_and_unused_ones() -> None:
    column = pd.Categorical(["x", None, "y", "x", "y", "x"], categories=["y", "unused", "x"])
    target = target_of_table(table(kind=column), ["kind"])
    assert (target.task, target.classes) == ("classification", ("y", "unused", "x"))
    assert target.rows(TRAIN).tolist() == [0, 2, 3]  # type: ignore[arg-type]
    assert target.values(TRAIN)[target.rows(TRAIN)].tolist() == [2, 0, 2]  # type: ignore[arg-type]


def test_integers_are_classes_in_ascending_order_unless_the_task_is_regression() -> None:
    grades = pd.array([10, 2, None, 2, 10, 3], dtype="Int64")
    target = target_of_table(table(grade=grades), ["grade"])
    assert (target.task, target.classes) == ("classification", ("2", "3", "10"))
    assert target.values(TRAIN)[target.rows(TRAIN)].tolist() == [2, 0, 0]  # type: ignore[arg-type]
    numbers = target_of_table(table(grade=grades), ["grade"], task="regression")
    assert numbers.values(TRAIN)[numbers.rows(TRAIN)].tolist() == [[10.0], [2.0], [2.0]]  # type: ignore[arg-type]


def test_many_different_integers_are_warned_of() -> None:
    counts = pd.array(range(6), dtype="Int64")
    with logged() as lines:
        target_of_table(table(count=counts), ["count"])
    assert "6 different integers on 6 samples, taken as classes" in lines[0]


def test_columns_of_0_and_1_are_multi_label_whatever_their_type() -> None:
    columns = {
        "a": pd.array([1, 0, 0, None, 1, 0], dtype="Int64"),
        "b": [True, False, True, True, False, True],
        "c": pd.Categorical(["0", "1", "0", "1", "0", "1"]),
    }
    target = target_of_table(table(**columns), ["a", "b", "c"])
    assert (target.task, target.classes) == ("multi-label", ("a", "b", "c"))
    assert target.rows(TRAIN).tolist() == [0, 1, 2]  # type: ignore[arg-type]
    assert target.values(TEST).tolist() == [[1, 0, 0], [0, 1, 1]]  # type: ignore[arg-type]


def test_several_float_columns_are_one_regression() -> None:
    target = target_of_table(table(x=np.arange(6.0), y=np.arange(6.0) ** 2), ["x", "y"])
    assert (target.task, target.classes) == ("regression", ("x", "y"))
    assert target.values(TEST).tolist() == [[4.0, 16.0], [5.0, 25.0]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "task", "error", "message"),
    [
        (["agee"], None, UnknownNameError, "unknown annotation column 'agee': did you mean age"),
        (["age"], "regresion", UnknownNameError, "did you mean regression"),
        (["age"], "classification", OptionError, "holds numbers with fractions"),
        (["age", "age"], None, OptionError, "expected each column once"),
        (["age", "kind"], None, OptionError, "expected columns of 0 and 1 .* name the task"),
        (["age", "grade"], "classification", OptionError, "classification has one column, got 2"),
        (["grade"], "multi-label", OptionError, "column 'grade' has '2': choose another task"),
        (["kind"], "regression", OptionError, "needs numbers, column 'kind' has 'x'"),
        (["far"], None, ProbeError, "column 'far': 2 values of 6 are infinite: correct the table"),
        (["several"], None, OptionError, "several classes per sample"),
    ],
)
def test_columns_that_allow_no_target_raise(
    columns: list[str], task: str | None, error: type[Exception], message: str
) -> None:
    several = np.empty(6, object)
    several[:] = [("x",)] * 6
    annotations = table(
        age=np.arange(6) / 2,
        kind=pd.Categorical(list("xyxyxy")),
        grade=[0, 1, 2, 0, 1, 2],
        far=[1.0, np.inf, 2.0, -np.inf, np.nan, 3.0],
        several=several,
    )
    with pytest.raises(error, match=message):
        target_of_table(annotations, columns, task=task)


def test_split_without_a_value_raises() -> None:
    target = target_of_table(table(age=[1.0, 2.0, 3.0, 4.0, np.nan, np.nan]), ["age"])
    with pytest.raises(ProbeError, match=r"none of the 2 samples of split 'test' has a value"):
        target.rows(TEST)  # type: ignore[arg-type]


def test_label_of_the_dataset_is_the_default_and_records_its_digest(tmp_path: Path) -> None:
    cache = write_planted_cache(root=tmp_path)
    for target in (label_target(cache), read_target(cache), read_target(cache, "label")):
        assert target.is_label
        assert target.to_json() == {"annotations": dict(cache.annotation_digests)}
        split = cache.split("train")
        assert target.rows(split).tolist() == list(range(split.rows))
        assert target.values(split).tolist() == split.labels.tolist()


def test_label_of_the_dataset_as_numbers_records_its_digest(tmp_path: Path) -> None:
    tokens = {"train": np.ones((1, 1, 6, 8), np.float16)}
    labels = {"train": np.arange(6) % 3}
    cache = write_cache(tokens, labels, root=tmp_path, kinds=("cls",), classes=["1", "2", "3"])
    target = read_target(cache, "label", task="regression")
    assert target.to_json() == {
        "target": {"columns": ["label"], "task": "regression"},
        "annotations": {"label": cache.annotation_digests["label"]},
    }
    split = cache.split("train")
    assert target.values(split)[:, 0].tolist() == (split.labels + 1).tolist()


def test_floats_are_stratified_by_quantile() -> None:
    values = np.random.default_rng(0).exponential(size=(200, 1))
    quantiles = stratify(values, task="regression")
    assert np.bincount(quantiles).tolist() == [20] * 10
    assert all(values[quantiles == q].max() <= values[quantiles == q + 1].min() for q in range(9))
    assert stratify(values[:9], task="regression").tolist() == [0] * 9


def test_constant_floats_are_refused() -> None:
    with pytest.raises(ProbeError, match=r"here: all 3 values are 2; there is nothing to learn"):
        check_floats(np.full((3, 1), 2.0), where="here")
    with pytest.raises(ProbeError, match=r"all 3 values of target 2 are 1"):
        check_floats(np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), where="here")
    with pytest.raises(ProbeError, match=r"at least two samples with a value, got 1"):
        check_floats(np.ones((1, 1)), where="here")

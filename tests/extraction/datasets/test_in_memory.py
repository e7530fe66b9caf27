import numpy as np
import pytest

from layercache.errors import DataError, UnknownNameError
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import (
    InMemoryDataset,
    check_labels,
    common_classes,
)


def build(ids=("a", "b"), labels=(0, 1), classes=("x", "y"), **options):
    samples = FileSamples(
        "/nowhere",
        list(ids),
        np.asarray(labels, np.uint8 if options.get("multi_label") else np.int64),
    )
    return InMemoryDataset(name="d", classes=classes, samples={"train": samples}, **options)


def test_split_of_an_unknown_name_suggests_the_nearest():
    assert build().split("train").ids == ["a", "b"]
    assert build().splits == ("train",)
    with pytest.raises(
        UnknownNameError, match="unknown split of dataset d 'trian': did you mean train"
    ):
        build().split("trian")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"labels": (0, 2)},
            r"dataset d, split train: sample 'b' has label 2, expected 0 to 1 \(2 classes\); 1 "
            r"sample",
        ),
        ({"labels": (-2, 0)}, "sample 'a' has label -2"),
        ({"ids": ("a", "a")}, "ids must be unique, got 'a' more than once"),
        ({"ids": (), "labels": ()}, "split train: expected at least one sample, got none"),
        ({"labels": (0,)}, r"expected labels of shape \(2,\), got \(1,\)"),
        ({"classes": ("x", "x")}, "class names must be unique, got 'x'"),
        ({"ids": ("a", "b\udcff")}, "not valid UTF-8: rename the file"),
        (
            {"labels": ((0, 1), (2, 0)), "multi_label": True},
            r"sample 'b' has label \[2, 0\], expected 0 or 1",
        ),
        (
            {"labels": ((0, 1, 1), (1, 0, 0)), "multi_label": True},
            r"expected labels of shape \(2, 2\), got \(2, 3\)",
        ),
    ],
)
def test_in_memory_dataset_with_inconsistent_samples_raises(options, text):
    with pytest.raises(DataError, match=text):
        check_labels(build(**options), "train")


def test_in_memory_dataset_without_a_split_raises():
    with pytest.raises(DataError, match="dataset d: expected at least one split, got none"):
        InMemoryDataset(name="d", classes=("x",), samples={})


def test_common_classes_of_equal_splits_returns_them():
    classes = common_classes({"train": ("a", "b"), "test": ("a", "b")}, where="d", remedy="r")
    assert classes == ("a", "b")


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (("a",), r"d: train has a class 'b' that test does not have \(1 such class\(es\)\); r"),
        (("a", "b", "c"), "d: test has a class 'c' that train does not have"),
        (("b", "a"), "d: train and test order their classes differently; r"),
    ],
)
def test_common_classes_of_different_splits_raises(test, text):
    with pytest.raises(DataError, match=text):
        common_classes({"train": ("a", "b"), "test": test}, where="d", remedy="r")

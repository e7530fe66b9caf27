import numpy as np
import pytest

from layercache.errors import DataError, UnknownNameError
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name


def made(ids=("a", "b"), labels=(0, 1), classes=("x", "y"), **options):
    samples = FileSamples(
        "/nowhere",
        list(ids),
        np.asarray(labels, np.uint8 if options.get("multi_label") else np.int64),
    )
    return InMemoryDataset(name="d", classes=classes, samples={"train": samples}, **options)


def test_open():
    assert made().split("train").ids == ["a", "b"]
    assert made().splits == ("train",)
    with pytest.raises(
        UnknownNameError, match="unknown split of data set d 'trian': did you mean train"
    ):
        made().split("trian")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"labels": (0, 2)},
            r"data set d, split train: sample 'b' has label 2, expected 0 to 1 \(2 classes\); 1 sample",
        ),
        ({"labels": (-1, 0)}, "sample 'a' has label -1"),
        ({"ids": ("a", "a")}, "ids must differ, 'a' comes more than once"),
        ({"ids": (), "labels": ()}, "split train: it has no samples"),
        ({"labels": (0,)}, r"expected labels of shape \(2,\), found \(1,\)"),
        ({"classes": ("x", "x")}, "class names must differ, 'x'"),
        ({"ids": ("a", "b\udcff")}, "not valid UTF-8: rename the file"),
        (
            {"labels": ((0, 1), (2, 0)), "multi_label": True},
            r"sample 'b' has label \[2, 0\], expected 0 or 1",
        ),
        (
            {"labels": ((0, 1, 1), (1, 0, 0)), "multi_label": True},
            r"expected labels of shape \(2, 2\), found \(2, 3\)",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(options, text):
    with pytest.raises(DataError, match=text):
        made(**options)


def test_no_split():
    with pytest.raises(DataError, match="data set d: it has no split"):
        InMemoryDataset(name="d", classes=("x",), samples={})


def test_safe_name():
    assert safe_name("my pets/2") == "my_pets_2"
    assert safe_name("...") == "data"
    assert safe_name("katzen-ü.v1") == "katzen-ü.v1"

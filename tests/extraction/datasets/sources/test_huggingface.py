"""Datasets written by the `datasets` library itself."""

import sys

import numpy as np
import pytest

from layercache.errors import DataError, DataNotFoundError, MissingExtraError, OptionError
from layercache.extraction.datasets import (
    dataset_identity,
    dataset_name,
    limit_samples,
    open_dataset,
)

hf = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(hf.config, "HF_DATASETS_OFFLINE", True, raising=False)
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hf.disable_progress_bars()


def table(pictures, numbers, labels, feature, **columns):
    features = {"img": hf.Image(), "label": feature} | {name: f for name, (_, f) in columns.items()}
    values = {
        "img": [{"bytes": pictures.encoded(n), "path": None} for n in numbers],
        "label": labels,
    } | {name: v for name, (v, _) in columns.items()}
    return hf.Dataset.from_dict(values, features=hf.Features(features))


def test_huggingface_saved_to_disk_has_its_splits_and_classes(tmp_path, pictures):
    names = hf.ClassLabel(names=["cat", "dog", "eel"])
    hf.DatasetDict(
        {
            "test": table(pictures, [5, 6], [0, 1], names),
            "train": table(pictures, [0, 1, 2], [2, 0, 1], names),
        }
    ).save_to_disk(tmp_path / "my set")
    dataset = open_dataset(f"hf:{tmp_path / 'my set'}")
    assert (dataset.name, dataset.classes, dataset.splits) == (
        "my_set",
        ("cat", "dog", "eel"),
        ("train", "test"),
    )
    assert dataset_name(f"hf:{tmp_path / 'my set'}?label=label") == "my_set"
    pictures.check(
        dataset,
        "train",
        [("train/000000", "eel", 0), ("train/000001", "cat", 1), ("train/000002", "dog", 2)],
    )
    pictures.check(dataset, "test", [("test/000000", "cat", 5), ("test/000001", "dog", 6)])
    assert dataset_identity(open_dataset(f"hf:{tmp_path / 'my set'}")) == dataset_identity(dataset)
    assert (
        limit_samples(dataset, 2).split("train").content_digest
        != dataset.split("train").content_digest
    )


def test_huggingface_image_folder_uses_validation_as_test(tmp_path, pictures):
    for n, name in enumerate(
        ["train/cat/0.png", "train/dog/1.png", "validation/cat/2.png", "validation/dog/3.png"]
    ):
        pictures.write(tmp_path / "pets" / name, n)
    dataset = open_dataset(f"hf:{tmp_path / 'pets'}")
    pictures.check(dataset, "train", [("train/000000", "cat", 0), ("train/000001", "dog", 1)])
    pictures.check(
        dataset, "test", [("validation/000000", "cat", 2), ("validation/000001", "dog", 3)]
    )


def test_huggingface_with_one_split_holds_out_20_percent(tmp_path, pictures):
    table(pictures, range(10), [0] * 5 + [1] * 5, hf.ClassLabel(names=["a", "b"])).save_to_disk(
        tmp_path / "one"
    )
    dataset = open_dataset(f"hf:{tmp_path / 'one'}")
    assert (
        np.bincount(dataset.split("train").labels).tolist(),
        np.bincount(dataset.split("test").labels).tolist(),
    ) == ([4, 4], [1, 1])
    test = dataset.split("test")
    pictures.check(dataset, "test", [(i, "ab"[int(i[-6:]) // 5], int(i[-6:])) for i in test.ids])


def test_huggingface_with_plain_labels_sorts_them(tmp_path, pictures):
    table(pictures, range(5), ["x", "b", "x", "b", "a"], hf.Value("string")).save_to_disk(
        tmp_path / "d"
    )
    assert open_dataset(f"hf:{tmp_path / 'd'}").classes == ("a", "b", "x")
    table(pictures, range(5), [10, 9, 10, 9, 9], hf.Value("int64")).save_to_disk(tmp_path / "e")
    assert open_dataset(f"hf:{tmp_path / 'e'}").classes == ("9", "10")


def test_huggingface_with_lists_of_labels_is_multi_label(tmp_path, pictures):
    feature = (
        hf.List(hf.ClassLabel(names=["a", "b", "c"]))
        if hasattr(hf, "List")
        else hf.Sequence(hf.ClassLabel(names=["a", "b", "c"]))
    )
    hf.DatasetDict(
        {
            "train": table(pictures, [1, 2], [[0, 2], []], feature),
            "test": table(pictures, [3], [[1]], feature),
        }
    ).save_to_disk(tmp_path / "d")
    dataset = open_dataset(f"hf:{tmp_path / 'd'}")
    assert dataset.multi_label
    pictures.check(dataset, "train", [("train/000000", ("a", "c"), 1), ("train/000001", (), 2)])


def test_huggingface_with_ambiguous_columns_needs_their_names(tmp_path, pictures):
    coarse = ([0, 0, 1, 1, 1], hf.ClassLabel(names=["plant", "animal"]))
    table(
        pictures,
        range(5),
        [0, 1, 2, 2, 2],
        hf.ClassLabel(names=["rose", "oak", "dog"]),
        coarse=coarse,
    ).save_to_disk(tmp_path / "d")
    with pytest.raises(
        DataError,
        match=r"expected one label column, got 2 \(label, coarse\); name it: hf:.*/d\?label=COLUMN",
    ):
        open_dataset(f"hf:{tmp_path / 'd'}")
    assert open_dataset(f"hf:{tmp_path / 'd'}?label=coarse").classes == ("plant", "animal")
    assert open_dataset(f"hf:{tmp_path / 'd'}?label=label&image=img").classes == (
        "rose",
        "oak",
        "dog",
    )
    with pytest.raises(DataError, match="expected one label column, got 'fine'"):
        open_dataset(f"hf:{tmp_path / 'd'}?label=fine")
    with pytest.raises(
        OptionError, match="unknown option 'labels', expected image, label or config"
    ):
        open_dataset(f"hf:{tmp_path / 'd'}?labels=fine")


def test_huggingface_with_a_missing_label_or_image_raises(tmp_path, pictures):
    names = hf.ClassLabel(names=["a", "b"])
    hf.DatasetDict(
        {
            "train": table(pictures, [0, 1], [0, None], names),
            "test": table(pictures, [0], [0], names),
        }
    ).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="sample 'train/000001' has no label"):
        open_dataset(f"hf:{tmp_path / 'd'}")
    holed = hf.Dataset.from_dict(
        {"img": [None, None], "label": [0, 1]},
        features=hf.Features({"img": hf.Image(), "label": names}),
    )
    hf.DatasetDict({"train": holed, "test": holed}).save_to_disk(tmp_path / "e")
    with pytest.raises(DataError, match="sample 'train/000000': the table holds no image"):
        dataset_identity(open_dataset(f"hf:{tmp_path / 'e'}"))


def test_huggingface_missing_raises(tmp_path):
    with pytest.raises(DataNotFoundError, match=f"hf:{tmp_path}/nothing: cannot be loaded"):
        open_dataset(f"hf:{tmp_path}/nothing")


def test_huggingface_without_the_library_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"this needs datasets, .*layercache\[hf\]"):
        open_dataset("hf:x")

"""Datasets written by the `datasets` library itself."""

import shlex
import sys
from dataclasses import replace

import numpy as np
import pytest

from layercache.errors import (
    DataChangedError,
    DataError,
    DataNotFoundError,
    MissingExtraError,
    OptionError,
)
from layercache.extraction.datasets import (
    check_labels,
    dataset_identity,
    dataset_name,
    describe_dataset,
    limit_samples,
    open_dataset,
)
from layercache.extraction.datasets.sources.huggingface_labels import is_multi_label, read_labels
from layercache.extraction.pipeline.decode import open_image

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


def test_huggingface_with_lists_of_labelsis_multi_label(tmp_path, pictures):
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
        match=r"expected one label column, got 2 \(label, coarse\): choose one of label, coarse",
    ) as error:
        open_dataset(f"hf:{tmp_path / 'd'}")
    (remedy,) = shlex.split(str(error.value).rpartition(" as in ")[2])
    assert open_dataset(remedy).classes == ("rose", "oak", "dog")
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


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_huggingface_with_images_in_a_plain_column_takes_it_when_named(tmp_path, pictures, kind):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        pictures.write(file, i)
    values, feature = {
        "bytes": ([file.read_bytes() for file in files], hf.Value("binary")),
        "path": ([str(file) for file in files], hf.Value("string")),
        "struct": (
            [{"bytes": file.read_bytes(), "path": None} for file in files],
            {"bytes": hf.Value("binary"), "path": hf.Value("string")},
        ),
    }[kind]
    name = save(
        tmp_path / "a b",
        train=hf.Dataset.from_dict(
            {"label": [0, 1, 0, 1], "scan": values},
            features=hf.Features(label=hf.ClassLabel(names=["x", "y"]), scan=feature),
        ),
    )
    with pytest.raises(DataError, match=r"expected one image column, got 0 \(none\)") as error:
        open_dataset(name)
    (remedy,) = shlex.split(str(error.value).rpartition(" as in ")[2])
    dataset = open_dataset(remedy)
    train = [("train/000000", "x", 0), ("train/000002", "x", 2), ("train/000003", "y", 3)]
    pictures.check(dataset, "train", train)


def save(path, **tables):
    hf.DatasetDict(tables).save_to_disk(path)
    return f"hf:{path}"


def test_huggingface_with_missing_labels_keeps_them_as_no_class(tmp_path, pictures):
    names = hf.ClassLabel(names=["a", "b"])
    name = save(
        tmp_path / "d",
        train=table(pictures, [0, 1, 2], [0, None, -1], names),
        test=table(pictures, [0], [0], names),
    )
    dataset = open_dataset(name)
    assert dataset.classes == ("a", "b")
    assert dataset.split("train").labels.tolist() == [0, -1, -1]
    check_labels(dataset, "test")
    check_labels(dataset, "train")


@pytest.mark.parametrize("feature", ["names", "int64", "string", "float64"])
def test_huggingface_with_an_unlabelled_test_split_tests_on_validation(tmp_path, pictures, feature):
    values = {"names": [0, 1], "int64": [0, 1], "string": ["a", "b"], "float64": [0.0, 1.0]}
    none = {"names": -1, "int64": -1, "string": None, "float64": float("nan")}[feature]
    kind = hf.ClassLabel(names=["a", "b"]) if feature == "names" else hf.Value(feature)
    name = save(
        tmp_path / "d",
        train=table(pictures, [0, 1], values[feature], kind),
        validation=table(pictures, [2, 3], values[feature], kind),
        test=table(pictures, [4, 5], [none, none], kind),
    )
    dataset = open_dataset(name)
    assert dataset.splits == ("train", "unlabelled_test", "test")
    assert len(dataset.classes) == 2
    assert dataset.split("test").ids == ["validation/000000", "validation/000001"]
    assert dataset.split("unlabelled_test").labels.tolist() == [-1, -1]


def test_huggingface_with_a_test_split_without_the_label_column_keeps_it_apart(tmp_path, pictures):
    names = hf.ClassLabel(names=["a", "b"])
    train = table(pictures, range(10), [0, 1] * 5, names)
    name = save(tmp_path / "d", train=train, test=train.remove_columns("label"))
    dataset = open_dataset(name)
    assert [len(dataset.split(split).ids) for split in ("train", "test")] == [8, 2]
    assert len(dataset.split("unlabelled_test").ids) == 10


def test_huggingface_with_class_tables_that_differ_reads_each_by_name(tmp_path, pictures):
    name = save(
        tmp_path / "d",
        train=table(pictures, [0, 1, 2], [0, 1, 2], hf.ClassLabel(names=["ant", "bee", "cat"])),
        test=table(pictures, [3, 4, 5], [0, 1, 2], hf.ClassLabel(names=["bee", "cat", "dog"])),
    )
    dataset = open_dataset(name)
    assert dataset.classes == ("ant", "bee", "cat", "dog")
    pictures.check(
        dataset,
        "test",
        [("test/000000", "bee", 3), ("test/000001", "cat", 4), ("test/000002", "dog", 5)],
    )
    lines = list(describe_dataset(dataset))
    assert any("'test' numbers its classes differently than 'train'" in line for line in lines)
    assert "train has no image of the class 'dog'" in lines


def test_huggingface_with_numbers_beside_class_names_raises(tmp_path, pictures):
    train = table(pictures, [0, 1], [0, 1], hf.ClassLabel(names=["ant", "bee"]))
    by_number = table(pictures, [2, 3], [0, 1], hf.Value("int64"))
    by_name = table(pictures, [2, 3], ["bee", "ant"], hf.Value("string"))
    with pytest.raises(DataError, match="none of them, such as '0': cast the columns"):
        open_dataset(save(tmp_path / "d", train=train, test=by_number))
    dataset = open_dataset(save(tmp_path / "e", train=train, test=by_name))
    assert dataset.split("test").labels.tolist() == [1, 0]


def test_huggingface_with_two_unicode_forms_of_a_class_is_one_class(tmp_path, pictures):
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    name = save(
        tmp_path / "d",
        train=table(pictures, [0, 1], [0, 1], hf.ClassLabel(names=["a", nfc])),
        test=table(pictures, [2, 3], [0, 1], hf.ClassLabel(names=[nfd, "a"])),
    )
    dataset = open_dataset(name)
    assert dataset.classes == ("a", nfc)
    assert dataset.split("test").labels.tolist() == [1, 0]


def test_huggingface_with_lists_in_one_split_only_raises(tmp_path, pictures):
    names = hf.ClassLabel(names=["a", "b"])
    lists = hf.List(names) if hasattr(hf, "List") else hf.Sequence(names)
    train = table(pictures, [0, 1], [0, 1], names)
    # save_to_disk refuses such a pair, load_dataset of a remote one does not
    tables = {"train": train, "test": table(pictures, [0], [[1]], lists)}
    with pytest.raises(DataError, match="got lists in 'test' and single labels in 'train'"):
        is_multi_label("d", {s: read_labels(t, "label") for s, t in tables.items()})


def test_huggingface_with_numbers_as_strings_sorts_them_as_numbers(tmp_path, pictures):
    values = ["10", "9", "1.0", "-2", "9"]
    table(pictures, range(5), values, hf.Value("string")).save_to_disk(tmp_path / "d")
    assert open_dataset(f"hf:{tmp_path / 'd'}").classes == ("-2", "1.0", "9", "10")


def test_huggingface_with_an_empty_image_cell_lists_it_as_unreadable(tmp_path, pictures):
    names = hf.ClassLabel(names=["a", "b"])
    holed = hf.Dataset.from_dict(
        {"img": [{"bytes": pictures.encoded(1), "path": None}, None], "label": [0, 1]},
        features=hf.Features({"img": hf.Image(), "label": names}),
    )
    dataset = open_dataset(save(tmp_path / "e", train=holed, test=holed))
    assert dataset_identity(dataset).splits["train"].rows == 2
    assert dataset.split("train").unreadable == {"train/000001": "the table holds no image"}
    with pytest.raises(DataError, match="'train/000001' cannot be decoded: the table holds no"):
        open_image(dataset.split("train"), 1)


def test_huggingface_missing_raises(tmp_path):
    with pytest.raises(DataNotFoundError, match=f"hf:{tmp_path}/nothing: cannot be loaded"):
        open_dataset(f"hf:{tmp_path}/nothing")


def test_huggingface_image_that_changed_since_the_digest_raises(tmp_path, pictures):
    names = hf.ClassLabel(names=["cat", "dog"])
    table(pictures, [0, 1, 2], [0, 1, 0], names).save_to_disk(tmp_path / "my_set")
    samples = open_dataset(f"hf:{tmp_path / 'my_set'}").split("train")
    assert samples.content_digest
    open_image(samples, 0)
    row = int(samples.rows[0])
    others = samples.table.map(lambda _: {"img": {"bytes": pictures.encoded(9), "path": None}})
    changed = replace(samples, table=others)
    changed.__dict__["_contents"] = samples._contents
    with pytest.raises(DataChangedError, match=f"sample 'all/{row:06d}' has changed since"):
        open_image(changed, 0)


def test_huggingface_without_the_library_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"this needs datasets, .*layercache-vit\[hf\]"):
        open_dataset("hf:x")

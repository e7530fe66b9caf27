import numpy as np
import pytest

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets import dataset_identity, dataset_name, open_dataset


def table(tmp_path, text, name="things.csv", encoding="utf-8"):
    (tmp_path / name).write_text(text, encoding=encoding)
    return f"csv:{tmp_path / name}"


def test_csv_with_a_split_column_has_its_splits_and_sorted_classes(tmp_path, pictures):
    for n in range(4):
        pictures.write(tmp_path / f"im/{n}.png", n)
    name = table(
        tmp_path,
        "path,label,split\nim/3.png,dog,test\nim/1.png,dog,train\nim/0.png,cat,train\nim/2.png,cat,test\n",
    )
    dataset = open_dataset(name)
    assert (dataset.name, dataset.classes, dataset.splits) == (
        "things",
        ("cat", "dog"),
        ("train", "test"),
    )
    assert dataset_name(name) == "things"
    pictures.check(dataset, "train", [("im/1.png", "dog", 1), ("im/0.png", "cat", 0)])
    pictures.check(dataset, "test", [("im/3.png", "dog", 3), ("im/2.png", "cat", 2)])


def test_csv_with_numeric_labels_sorts_them_as_numbers(tmp_path, pictures):
    pictures.write(tmp_path / "a.png", 0)
    name = table(
        tmp_path,
        "\n".join(["ID, Label, Path, split", *(f"{i}, {i}, a{i}.png, train" for i in (10, 9, 2))]),
        encoding="utf-8-sig",
    )
    dataset = open_dataset(name)
    assert dataset.classes == ("2", "9", "10")
    assert dataset.split("train").labels.tolist() == [2, 1, 0]


def test_csv_with_several_labels_is_multi_label(tmp_path, pictures):
    for n in range(3):
        pictures.write(tmp_path / f"{n}.png", n)
    dataset = open_dataset(
        table(tmp_path, "path,label,split\n0.png,cat;dog,train\n1.png,dog,train\n2.png,,test\n")
    )
    assert dataset.multi_label
    pictures.check(dataset, "train", [("0.png", ("cat", "dog"), 0), ("1.png", ("dog",), 1)])
    pictures.check(dataset, "test", [("2.png", (), 2)])


def test_csv_with_a_labels_column_is_multi_label(tmp_path):
    dataset = open_dataset(table(tmp_path, "path,labels,split\n0.png,cat,train\n1.png,dog,train\n"))
    assert dataset.multi_label
    assert dataset.split("train").labels.tolist() == [[1, 0], [0, 1]]


def test_csv_without_splits_holds_out_20_percent(tmp_path):
    dataset = open_dataset(
        table(tmp_path, "path,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(20)))
    )
    assert (
        np.bincount(dataset.split("train").labels).tolist(),
        np.bincount(dataset.split("test").labels).tolist(),
    ) == ([8, 8], [2, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,label\na.png,x\n",
            "expected a first line with the columns path, label and optionally split, got file, "
            "label",
        ),
        ("", "got nothing"),
        ("path,label\n", "expected at least one sample, got none"),
        ("path,label\na.png\n", r"line 2: expected 2 fields \(path, label\)"),
        ("path,label\na.png,x,y\n", "line 2: expected 2 fields"),
        ("path,label\n,x\n", "line 2: the path is empty"),
        ("path,label,split\na.png,x,\n", "line 2: the split is empty"),
        ("path,label\na.png,x\nb.png,\n", r"sample 'b\.png' has no label"),
        (
            "path,label\na.png,x\nb.png,x\na.png,y\n",
            r"sample 'a\.png' is listed more than once: list each once",
        ),
        ("path,label,split\na.png,x,train\na.png,y,train\n", r"ids must be unique, got 'a\.png'"),
    ],
)
def test_csv_malformed_raises(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        open_dataset(table(tmp_path, text))


def test_csv_with_a_missing_file_lists_it_as_unreadable(tmp_path, pictures):
    pictures.write(tmp_path / "a.png", 0)
    name = table(tmp_path, "path,label,split\na.png,x,train\nb.png,x,train\n")
    dataset = open_dataset(name)
    incomplete = dataset_identity(dataset)
    assert dataset.split("train").unreadable == {
        "b.png": f"No such file or directory: {tmp_path / 'b.png'}"
    }
    pictures.write(tmp_path / "b.png", 1)
    dataset = open_dataset(name)
    assert dataset_identity(dataset) != incomplete
    assert dataset.split("train").unreadable == {}


def test_csv_missing_raises(tmp_path):
    with pytest.raises(DataNotFoundError, match="there is no such file"):
        open_dataset(f"csv:{tmp_path}/x.csv")


def test_csv_of_a_folder_raises(tmp_path):
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        open_dataset(f"csv:{tmp_path}")


def test_csv_not_in_utf8_raises(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff.png,x\n")
    with pytest.raises(DataError, match="expected text in UTF-8"):
        open_dataset(f"csv:{tmp_path}/x.csv")

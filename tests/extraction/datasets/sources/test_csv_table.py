import os

import numpy as np
import pytest

from layercache.cache.format.origin import dataset_source
from layercache.errors import DataError, DataNotFoundError, OptionError
from layercache.extraction.datasets import (
    check_labels,
    dataset_identity,
    dataset_name,
    open_dataset,
)
from layercache.extraction.pipeline.decode import open_image


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
        ("path,label,label\na.png,x,y\n", "line 1: expected the column label once, got it 2"),
        ("path,label\na.png,x\nb\0.png,x\n", "line 3: expected text, got a NUL byte in the path"),
        ('path,label\na.png,"x\nb.png,y\n', "line 2: a field opens a quote that is not closed"),
        ('path,label\n\na.png,"x\nb.png,y"\n', "line 2: the label opens a quote"),
        ('path,label,note\na.png,x,"b\nb.png,y,"c"\n', "line 2: a closing quote has text behind"),
        (
            'path,label\na.png,x\nb.png,"' + "x" * 140000,
            "line 3: a field opens a quote that is not",
        ),
        ("path,labels\na.png,x;-1\n", "-1 is no class"),
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


def test_csv_in_latin_1_raises_with_the_line(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"path,label\n" + b"a.png,x\n" * 5000 + b"b.png,caf\xe9\n")
    with pytest.raises(
        DataError,
        match=r"x\.csv, line 5002: expected text in UTF-8, got the byte 0xe9 \(perhaps La",
    ):
        open_dataset(f"csv:{tmp_path}/x.csv")
    (tmp_path / "x.csv").write_text("path,label\na.png,x\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"line 1: expected .* \(UTF-16\): save the table as UTF-8"):
        open_dataset(f"csv:{tmp_path}/x.csv")
    (tmp_path / "x.csv").write_text("path,label\na.png,x\nb.png,x\n", encoding="utf-8")
    open_dataset(f"csv:{tmp_path}/x.csv")


def test_csv_of_a_pipe_raises(tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DataError, match="expected a regular file, got a pipe or device"):
        open_dataset(f"csv:{tmp_path}/x.csv")


def test_csv_that_lists_a_pipe_lists_it_as_unreadable(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    samples = open_dataset(table(tmp_path, "path,label,split\na.png,x,train\n")).split("train")
    assert samples.content_digest.startswith("bytes:")
    reason = f"expected a regular file, got a pipe or device: {tmp_path / 'a.png'}"
    assert samples.unreadable == {"a.png": reason}
    with pytest.raises(DataError, match=r"'a\.png' cannot be decoded: .*got a pipe"):
        open_image(samples, 0)


@pytest.mark.parametrize("separator", [";", "\t", ",", ", "])
def test_csv_with_pandas_index_and_other_separators_is_read(tmp_path, separator):
    lines = [("", "path", "label", "split"), ("0", "a.png", '"x;y"', "train")]
    text = "".join(separator.join(fields) + "\n" for fields in lines)
    dataset = open_dataset(table(tmp_path, text))
    assert (dataset.classes, dataset.multi_label) == (("x", "y"), True)
    assert dataset.split("train").ids == ["a.png"]


def test_csv_without_a_test_split_uses_validation_as_test(tmp_path):
    text = "path,label,split\na.png,x,Training\nb.png,x,val\nc.png,x,extra\n"
    dataset = open_dataset(table(tmp_path, text))
    assert dataset.splits == ("train", "extra", "test")
    assert dataset.notes == ("there is no test split: test is the split 'val'",)
    assert dataset.split("test").ids == ["b.png"]
    dataset = open_dataset(table(tmp_path, text + "d.png,x,test\n"))
    assert dataset.splits == ("train", "val", "extra", "test")


def test_csv_with_an_unlabelled_test_split_tests_on_the_validation_split(tmp_path):
    text = "path,label,split\na.png,0,train\nb.png,1,valid\n"
    text += "c.png,-1,test\nc2.png,-1.0,test\nd.png,,test\n"
    dataset = open_dataset(table(tmp_path, text))
    assert dataset.splits == ("train", "unlabelled_test", "test")
    assert dataset.classes == ("0", "1")
    assert dataset.split("test").ids == ["b.png"]
    assert dataset.split("unlabelled_test").ids == ["c.png", "c2.png", "d.png"]
    assert "the split 'test' has no labels: it is called unlabelled_test" in dataset.notes


def test_csv_with_an_empty_label_keeps_it_as_no_class(tmp_path):
    dataset = open_dataset(table(tmp_path, "path,label,split\na.png,x,train\nb.png,,train\n"))
    assert dataset.split("train").labels.tolist() == [0, -1]
    check_labels(dataset, "train")


def test_csv_with_decimal_labels_sorts_them_as_numbers(tmp_path):
    rows = "".join(f"{i}.png,{i}.0,train\n" for i in (10, 9, 1))
    assert open_dataset(table(tmp_path, f"path,label,split\n{rows}")).classes == (
        "1.0",
        "9.0",
        "10.0",
    )


def test_csv_with_two_unicode_forms_of_a_class_is_one_class(tmp_path):
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    text = f"path,label,split\na.png,{nfc},train\nb.png,{nfd},train\nc.png,z\u0301,train\n"
    dataset = open_dataset(table(tmp_path, text))
    assert dataset.classes == (nfc, "z\u0301")
    assert dataset.split("train").labels.tolist() == [0, 0, 1]


NAMED = "File;Category;Part\na.png;x;train\nb.png;y;train\nc.png;x;test\n"


def test_csv_options_name_its_columns_in_any_case(tmp_path):
    name = table(tmp_path, NAMED)
    dataset = open_dataset(f"{name}?path=file&label=category&split=part")
    assert (dataset.name, dataset.splits, dataset.classes) == (
        "things",
        ("train", "test"),
        ("x", "y"),
    )
    assert dataset.split("train").ids == ["a.png", "b.png"]
    assert dataset_name(f"{name}?label=Category") == "things"


def test_csv_with_an_empty_label_option_has_no_labels(tmp_path):
    dataset = open_dataset(f"{table(tmp_path, NAMED)}?path=file&label=&split=part")
    assert dataset.classes == ()
    assert dataset.split("train").labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("query", "error", "text"),
    [
        ("?path=file&labels=x", OptionError, "unknown option 'labels', expected path, label or"),
        ("?path=file&label=kind", DataError, "expected a first line with the column kind, got"),
        ("?path=file&label=file", DataError, "expected the column file once, got it 2 times"),
        ("", DataError, r"the columns path, label .* as in csv:things.csv\?path=COLUMN&label="),
    ],
)
def test_csv_with_options_that_do_not_fit_says_so(tmp_path, query, error, text):
    with pytest.raises(error, match=text):
        open_dataset(table(tmp_path, NAMED) + query)


def test_csv_with_a_question_mark_in_its_name_is_that_file(tmp_path):
    text = "path,label,split\na.png,x,train\nb.png,y,test\n"
    name = table(tmp_path, text, name="really?.csv")
    assert open_dataset(name).split("train").ids == ["a.png"]
    assert dataset_source(name) == name

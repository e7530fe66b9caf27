import os

import numpy as np
import pytest

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets import dataset_name, dataset_identity, open_dataset


def grown(root, pictures, names, start=0):
    for n, name in enumerate(names, start):
        pictures.write(root / name, n)
    return root


def test_train_and_test_folders(tmp_path, pictures):
    # written in another order than sorted, as a directory may list them
    grown(
        tmp_path,
        pictures,
        [
            "train/dog/2.png",
            "train/dog/10.png",
            "train/cat/b/1.png",
            "train/cat/a.jpg",
            "test/cat/9.png",
            "test/dog/9.png",
        ],
    )
    dataset = open_dataset(f"folder:{tmp_path}")
    assert (dataset.classes, dataset.splits, dataset.multi_label) == (
        ("cat", "dog"),
        ("train", "test"),
        False,
    )
    pictures.check(
        dataset,
        "train",
        [
            ("train/cat/a.jpg", "cat", 3),
            ("train/cat/b/1.png", "cat", 2),
            ("train/dog/10.png", "dog", 1),
            ("train/dog/2.png", "dog", 0),
        ],
    )
    pictures.check(dataset, "test", [("test/cat/9.png", "cat", 4), ("test/dog/9.png", "dog", 5)])


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_serves_as_test_where_there_is_none(tmp_path, pictures, name):
    grown(tmp_path, pictures, ["train/a/0.png", f"{name}/a/1.png"])
    dataset = open_dataset(f"folder:{tmp_path}")
    pictures.check(dataset, "test", [(f"{name}/a/1.png", "a", 1)])
    grown(tmp_path, pictures, ["test/a/2.png"], 2)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.splits == ("train", "test", "val")
    pictures.check(dataset, "test", [("test/a/2.png", "a", 2)])
    pictures.check(dataset, "val", [(f"{name}/a/1.png", "a", 1)])


@pytest.mark.parametrize("above", ["", "train/"])
def test_one_split_is_held_out_by_class(tmp_path, pictures, above):
    names = [
        f"{above}{c}/{i:02d}.png"
        for c, count in (("a", 20), ("b", 10), ("single", 1))
        for i in range(count)
    ]
    grown(tmp_path, pictures, names)
    dataset = open_dataset(f"folder:{tmp_path}")
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(train.labels).tolist() == [16, 8, 1]
    assert np.bincount(test.labels).tolist() == [4, 2]
    assert sorted(train.ids + test.ids) == sorted(names)
    pictures.check(dataset, "test", [(i, i.split("/")[-2], names.index(i)) for i in test.ids])
    assert dataset_identity(open_dataset(f"folder:{tmp_path}")) == dataset_identity(dataset)


def test_a_class_called_train_is_a_class(tmp_path, pictures):
    grown(tmp_path, pictures, ["bus/0.png", "train/1.png", "car/2.png"])
    assert open_dataset(f"folder:{tmp_path}").classes == ("bus", "car", "train")


def test_hidden_and_other_files_are_left_out_and_counted(tmp_path, pictures):
    grown(
        tmp_path,
        pictures,
        [
            "train/a/0.png",
            "test/a/1.png",
            "train/a/.hidden.png",
            "train/a/.cache/2.png",
            ".git/train/x.png",
        ],
    )
    (tmp_path / "train/a/notes.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    dataset = open_dataset(f"folder:{tmp_path}")
    pictures.check(dataset, "train", [("train/a/0.png", "a", 0)])
    assert dataset.ignored == {"hidden": 2, "not an image by its name": 1}


def test_links_are_followed_and_a_loop_ends(tmp_path, pictures):
    grown(tmp_path, pictures, ["there/0.png"])
    (tmp_path / "data/train").mkdir(parents=True)
    os.symlink(tmp_path / "there", tmp_path / "data/train/a")
    os.symlink(tmp_path / "data", tmp_path / "there/loop")
    grown(tmp_path / "data", pictures, ["test/a/1.png"], 1)
    pictures.check(open_dataset(f"folder:{tmp_path / 'data'}"), "test", [("test/a/1.png", "a", 1)])
    assert "train/a/0.png" in open_dataset(f"folder:{tmp_path / 'data'}").split("train").ids


def test_order_does_not_depend_on_the_locale_or_the_directory(tmp_path, pictures):
    names = [
        "train/a/Z.png",
        "train/a/a.png",
        "train/a/ä.png",
        "train/a/10.png",
        "train/a/9.png",
        "train/B/0.png",
        "train/b/0.png",
    ]
    grown(tmp_path, pictures, names + [n.replace("train", "test") for n in names])
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("B", "a", "b")
    assert dataset.split("train").ids == sorted(names)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["train/a/0.png", "train/b/0.png", "test/a/0.png"],
            r"class 'b' has a folder in train/ but none in test/ \(1 such",
        ),
        (
            ["train/a/0.png", "test/a/0.png", "test/c/0.png"],
            "class 'c' has a folder in test/ but none in train/",
        ),
        (["0.png", "1.png"], "expected one folder per class"),
        (["a/0.png", "b/notes.txt"], "class folder 'b' holds no image"),
    ],
)
def test_refusals(tmp_path, pictures, names, text):
    for name in names:
        if name.endswith(".png"):
            pictures.write(tmp_path / name, 0)
        else:
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=text):
        open_dataset(f"folder:{tmp_path}")


def test_a_class_may_be_empty_in_one_split(tmp_path, pictures):
    grown(tmp_path, pictures, ["train/a/0.png", "train/b/0.png", "test/a/0.png"])
    (tmp_path / "test/b").mkdir()
    assert open_dataset(f"folder:{tmp_path}").split("test").labels.tolist() == [0]


def test_no_folder(tmp_path):
    with pytest.raises(DataNotFoundError, match=f"there is no folder {tmp_path / 'x'}"):
        open_dataset(f"folder:{tmp_path / 'x'}")


def test_a_file_name_in_another_encoding_is_refused(tmp_path, pictures):
    grown(tmp_path, pictures, ["train/a/0.png", "test/a/0.png"])
    try:
        os.rename(
            os.fsencode(tmp_path / "train/a/0.png"),
            os.fsencode(tmp_path / "train/a") + b"/\xff.png",
        )
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    with pytest.raises(DataError, match="not valid UTF-8"):
        open_dataset(f"folder:{tmp_path}")


def test_name_is_the_last_folder(tmp_path, pictures, monkeypatch):
    root = grown(tmp_path / "my pets", pictures, ["a/0.png", "a/1.png"])
    assert open_dataset(f"folder:{root}").name == dataset_name(f"folder:{root}") == "my_pets"
    monkeypatch.chdir(root)
    assert open_dataset("folder:.").name == dataset_name("folder:.") == "my_pets"

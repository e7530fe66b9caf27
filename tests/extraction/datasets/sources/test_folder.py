import os

import numpy as np
import pytest

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets import dataset_identity, dataset_name, open_dataset
from layercache.extraction.datasets.splits import split_of
from layercache.extraction.pipeline.decode import open_image


def write_all(root, pictures, names, start=0):
    for n, name in enumerate(names, start):
        pictures.write(root / name, n)
    return root


def test_folder_with_train_and_test_sorts_classes_and_paths(tmp_path, pictures):
    # not in sorted order, as a directory may list them
    write_all(
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
def test_folder_without_test_uses_validation_as_test(tmp_path, pictures, name):
    write_all(tmp_path, pictures, ["train/a/0.png", f"{name}/a/1.png"])
    dataset = open_dataset(f"folder:{tmp_path}")
    pictures.check(dataset, "test", [(f"{name}/a/1.png", "a", 1)])
    assert dataset.notes == (f"there is no test split: test is the split {name!r}",)
    write_all(tmp_path, pictures, ["test/a/2.png"], 2)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.splits == ("train", "test", "val")
    assert dataset.notes == ()
    pictures.check(dataset, "test", [("test/a/2.png", "a", 2)])
    pictures.check(dataset, "val", [(f"{name}/a/1.png", "a", 1)])


@pytest.mark.parametrize("above", ["", "train/"])
def test_folder_with_one_split_holds_out_20_percent_of_every_class(tmp_path, pictures, above):
    names = [
        f"{above}{c}/{i:02d}.png"
        for c, count in (("a", 20), ("b", 10), ("single", 1))
        for i in range(count)
    ]
    write_all(tmp_path, pictures, names)
    dataset = open_dataset(f"folder:{tmp_path}")
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(train.labels).tolist() == [16, 8, 1]
    assert np.bincount(test.labels).tolist() == [4, 2]
    assert sorted(train.ids + test.ids) == sorted(names)
    pictures.check(dataset, "test", [(i, i.split("/")[-2], names.index(i)) for i in test.ids])
    assert dataset_identity(open_dataset(f"folder:{tmp_path}")) == dataset_identity(dataset)


def test_folder_with_other_folders_takes_train_as_a_class(tmp_path, pictures):
    write_all(tmp_path, pictures, ["bus/0.png", "train/1.png", "car/2.png"])
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("bus", "car", "train")
    assert dataset.notes == (
        "the folder 'train' is taken as a class, not as a split",
        "there is no test split: test is 20 % of the images, which training does not use",
    )


def test_folder_with_hidden_and_other_files_counts_them_as_ignored(tmp_path, pictures):
    write_all(
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
    assert dataset.ignored == {"hidden": 2, "not an image by its name: .txt": 1}


def test_folder_with_links_follows_them_except_loops(tmp_path, pictures):
    write_all(tmp_path, pictures, ["there/0.png"])
    (tmp_path / "data/train").mkdir(parents=True)
    os.symlink(tmp_path / "there", tmp_path / "data/train/a")
    os.symlink(tmp_path / "data", tmp_path / "there/loop")
    write_all(tmp_path / "data", pictures, ["test/a/1.png"], 1)
    pictures.check(open_dataset(f"folder:{tmp_path / 'data'}"), "test", [("test/a/1.png", "a", 1)])
    assert "train/a/0.png" in open_dataset(f"folder:{tmp_path / 'data'}").split("train").ids


def test_folder_order_is_by_code_point(tmp_path, pictures):
    names = [
        "train/a/Z.png",
        "train/a/a.png",
        "train/a/ä.png",
        "train/a/10.png",
        "train/a/9.png",
        "train/B/0.png",
        "train/b/0.png",
    ]
    write_all(tmp_path, pictures, names + [n.replace("train", "test") for n in names])
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("B", "a", "b")
    assert dataset.split("train").ids == sorted(names)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["train/a/0.png", "train/b/0.png", "test/a/0.png"],
            r"train has a class 'b' that test does not have \(1 such",
        ),
        (
            ["train/a/0.png", "test/a/0.png", "test/c/0.png"],
            "test has a class 'c' that train does not have",
        ),
        ([], "expected one folder per class"),
        (["a/0.png", "b/notes.txt"], "class folder 'b' holds no image"),
    ],
)
def test_folder_malformed_raises(tmp_path, pictures, names, text):
    for name in names:
        if name.endswith(".png"):
            pictures.write(tmp_path / name, 0)
        else:
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=text):
        open_dataset(f"folder:{tmp_path}")


def test_folder_with_a_class_empty_in_one_split_opens(tmp_path, pictures):
    write_all(tmp_path, pictures, ["train/a/0.png", "train/b/0.png", "test/a/0.png"])
    (tmp_path / "test/b").mkdir()
    assert open_dataset(f"folder:{tmp_path}").split("test").labels.tolist() == [0]


def test_folder_missing_raises(tmp_path):
    with pytest.raises(DataNotFoundError, match=f"there is no folder {tmp_path / 'x'}"):
        open_dataset(f"folder:{tmp_path / 'x'}")


def test_folder_with_a_file_name_in_another_encoding_raises(tmp_path, pictures):
    write_all(tmp_path, pictures, ["train/a/0.png", "test/a/0.png"])
    try:
        os.rename(
            os.fsencode(tmp_path / "train/a/0.png"),
            os.fsencode(tmp_path / "train/a") + b"/\xff.png",
        )
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    with pytest.raises(DataError, match="not valid UTF-8"):
        open_dataset(f"folder:{tmp_path}")


def test_folder_name_is_the_last_path_component(tmp_path, pictures, monkeypatch):
    root = write_all(tmp_path / "my pets", pictures, ["a/0.png", "a/1.png"])
    assert open_dataset(f"folder:{root}").name == dataset_name(f"folder:{root}") == "my_pets"
    monkeypatch.chdir(root)
    assert open_dataset("folder:.").name == dataset_name("folder:.") == "my_pets"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("TRAIN", "Val"),
        ("train_images", "test_images"),
        ("seg_train", "seg_test"),
        ("trainset", "Validation Set"),
        ("train2017", "val2017"),
        ("train", "test1"),
        ("training", "evaluation"),
    ],
)
def test_folder_with_usual_forms_of_split_names_takes_them_as_splits(
    tmp_path, pictures, train, test
):
    write_all(tmp_path, pictures, [f"{train}/a/0.png", f"{test}/a/1.png", f"{test}/b/2.png"])
    (tmp_path / train / "b").mkdir()
    dataset = open_dataset(f"folder:{tmp_path}")
    assert (dataset.splits, dataset.classes) == (("train", "test"), ("a", "b"))
    pictures.check(dataset, "train", [(f"{train}/a/0.png", "a", 0)])


@pytest.mark.parametrize("name", ["train station", "contest", "pretrain", "data", "valley", "3"])
def test_split_of_another_word_is_none(name):
    assert split_of(name) is None


def test_folder_beside_split_folders_is_left_out_by_name(tmp_path, pictures):
    names = ["train/a/0.png", "test/a/1.png", "extra/2.png", "extra/x/3.png", "pred/4.png"]
    write_all(tmp_path, pictures, names)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert (dataset.splits, dataset.classes) == (("train", "test"), ("a",))
    assert dataset.ignored == {
        "folder 'extra' next to the split folders": 2,
        "folder 'pred' next to the split folders": 1,
    }


def test_folder_with_an_unlabelled_test_folder_holds_out_of_train(tmp_path, pictures):
    names = [f"train/{c}/{i}.png" for c in "ab" for i in range(5)]
    write_all(tmp_path, pictures, [*names, "test/8.png", "test/9.png"])
    dataset = open_dataset(f"folder:{tmp_path}")
    assert [len(dataset.split(split).ids) for split in ("train", "test")] == [8, 2]
    assert dataset.split("unlabelled_test").ids == ["test/8.png", "test/9.png"]
    assert dataset.split("unlabelled_test").labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/0.png", "test/1.png"], {"train": ["train/0.png"], "test": ["test/1.png"]}),
        (["test/0.png"], {"test": ["test/0.png"]}),
        ([f"{i}.png" for i in range(5)], {"train": [0, 1, 2, 3], "test": [4]}),
    ],
)
def test_folder_without_class_folders_has_no_labels(tmp_path, pictures, names, splits):
    write_all(tmp_path, pictures, names)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ()
    assert {split: len(dataset.split(split).ids) for split in dataset.splits} == {
        split: len(ids) for split, ids in splits.items()
    }
    assert all((dataset.split(split).labels == -1).all() for split in dataset.splits)


@pytest.mark.parametrize(
    ("names", "text", "remedy"),
    [
        (["train/a/0.png", "Training/a/0.png"], "'Training' and 'train' for train", None),
        (
            ["train/a/0.png", "train/a/1.png", "bus/1.png", "car/1.png"],
            "got 'train' next to 'bus', 'car': open folder:",
            "train",
        ),
        (["pets/a/0.png", "pets/b/0.png"], "got 'pets', which holds the folders 'a', 'b'", "pets"),
        (
            ["pets/train/a/0.png", "pets/test/a/0.png"],
            "got 'pets', which holds the folders 'test', 'train': open folder:",
            "pets",
        ),
        (
            ["pets/train/a/0.png", "pets/test/a/0.png", "cars/x/0.png"],
            "got 'pets', which holds the folders 'test', 'train': open folder:",
            "pets",
        ),
        (
            ["train/train/a/0.png", "test/test/a/0.png"],
            "got 'train', which holds the folders 'a': move the folders in",
            None,
        ),
    ],
)
def test_folder_of_another_level_or_kind_raises(tmp_path, pictures, names, text, remedy):
    write_all(tmp_path, pictures, names)
    with pytest.raises(DataError, match=text):
        open_dataset(f"folder:{tmp_path}")
    if remedy:
        open_dataset(f"folder:{tmp_path / remedy}")


def test_folder_with_an_empty_split_folder_raises(tmp_path, pictures):
    write_all(tmp_path, pictures, ["train/a/0.png", "train/a/1.png"])
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"test: expected one folder per class .*remove it"):
        open_dataset(f"folder:{tmp_path}")
    (tmp_path / "test").rmdir()
    open_dataset(f"folder:{tmp_path}")


def test_folder_with_two_unicode_forms_of_a_class_is_one_class(tmp_path, pictures):
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    write_all(tmp_path, pictures, [f"train/{nfc}/0.png", f"test/{nfd}/1.png"])
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == (nfc,)
    pictures.check(dataset, "test", [(f"test/{nfd}/1.png", nfc, 1)])
    write_all(tmp_path, pictures, [f"train/{nfd}/0.png"])
    with pytest.raises(DataError, match=r"two folders are called .*: merge them"):
        open_dataset(f"folder:{tmp_path}")


def test_folder_counts_what_it_leaves_out_by_reason(tmp_path, pictures):
    write_all(
        tmp_path,
        pictures,
        [
            *("a/0.png", "a/1.png", "loose.png", "@eaDir/x.png", "__MACOSX/a/y.png"),
            *("a/@eaDir/thumb.png", "a/thumbs/0.png", "a/.hidden.png"),
        ],
    )
    for name in ("a/x.heic", "a/y.HEIC", "a/notes"):
        (tmp_path / name).write_text("x")
    (tmp_path / "a/nothing").mkdir()
    os.mkfifo(tmp_path / "a/pipe.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("a",)
    assert dataset.ignored == {
        "image outside the class folders": 1,
        "folder '@eaDir'": 2,
        "folder '__MACOSX'": 1,
        "folder 'thumbs'": 1,
        "hidden": 1,
        "not an image by its name: .heic": 2,
        "not an image by its name: no suffix": 1,
        "empty folder": 1,
        "neither a file nor a folder": 1,
    }


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2", "tga", "pcx", "ico", "qoi", "JPE"])
def test_folder_takes_every_still_image_that_pillow_opens(tmp_path, pictures, suffix):
    for n, split in enumerate(("train", "test")):
        (tmp_path / split / "a").mkdir(parents=True)
        # Pillow 11 writes no icon below 16 x 16
        pictures.image(n).resize((16, 16)).save(tmp_path / split / "a" / f"{n}.{suffix}")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.split("train").ids == [f"train/a/0.{suffix}"]
    assert open_image(dataset.split("train"), 0).mode == "RGB"


def test_folder_that_cannot_be_listed_raises(tmp_path, pictures, monkeypatch):
    write_all(tmp_path, pictures, ["train/a/0.png", "test/a/1.png"])
    scandir = os.scandir

    def refuse(path):  # chmod does not stop root, which runs the tests in a container
        if str(path).endswith("test/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="test/a: the folder cannot be read: Permission denied"):
        open_dataset(f"folder:{tmp_path}")

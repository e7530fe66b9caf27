"""Every remedy for a folder or table of images is followed once, as tests/remedies does."""

from __future__ import annotations

import re
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layercache.errors import LayercacheError
from layercache.extraction.datasets import check_labels, open_dataset


def write_images(folder: Path, names: str) -> None:
    """Write two images into each of some folders, given with spaces between them."""
    for name in names.split():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            pixels = np.full((4, 4, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name.replace('/', '-')}{i}.png")


def rename(old: str, new: str) -> Callable[[Path, re.Match[str]], None]:
    return lambda folder, _: shutil.move(folder / old, folder / new) and None


def merge(old: str, new: str) -> Callable[[Path, re.Match[str]], None]:
    def do(folder: Path, _: re.Match[str]) -> None:
        shutil.copytree(folder / old, folder / new, dirs_exist_ok=True)
        shutil.rmtree(folder / old)

    return do


NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))

FOLDERS: dict[str, tuple[str, str, Callable[[Path, re.Match[str]], object]]] = {
    "a class of one split": (
        "train/a train/b test/a",
        "make an empty folder where the split has no image",
        lambda folder, match: (folder / "test/b").mkdir(),
    ),
    "a split beside classes, opened": (
        "train/a train/b other",
        r"open folder:(\S+), or",
        lambda folder, match: Path(match[1]),
    ),
    "a split beside classes, moved": (
        "train/a train/b other more",
        "or move 'train' elsewhere",
        rename("train", "../elsewhere"),
    ),
    "a split beside classes, renamed": (
        "train/a train/b other",
        "or rename it if it is a class",
        rename("train", "trains"),
    ),
    "two folders for a split, merged": (
        "train/a train/b Training/a test/a test/b",
        "merge them",
        merge("Training", "train"),
    ),
    "two folders for a split, moved": (
        "train/a train/b Training/a test/a test/b",
        "move one elsewhere",
        rename("Training", "../elsewhere"),
    ),
    "an empty split": (
        "train/a train/b test/",
        "fill it, or remove it",
        lambda folder, match: shutil.rmtree(folder / "test"),
    ),
    "a level too high": (
        "pets/a pets/b",
        r"open folder:(\S+)$",
        lambda folder, match: Path(match[1]),
    ),
    "a level too high in a split": (
        "train/pets/a train/pets/b test/pets/a test/pets/b",
        r"move the folders in (\S+) up into (\S+)$",
        lambda folder, match: (
            [
                shutil.move(below, folder / split)
                for split in ("train", "test")
                for below in [*(folder / split / "pets").iterdir()]
            ]
            and [(folder / split / "pets").rmdir() for split in ("train", "test")]
            and None
        ),
    ),
    "splits below classes, opened": (
        "a/train/x a/train/y a/test/x a/test/y b/train b/test",
        r"open folder:(\S+), or",
        lambda folder, match: Path(match[1]),
    ),
    "splits below classes, turned": (
        "a/train a/test b/train b/test",
        "or put the split folders above the class folders",
        lambda folder, match: (
            [
                shutil.move(folder / label / split, folder / split / label)
                for split in ("train", "test")
                for label in "ab"
                if (folder / split).mkdir(exist_ok=True) is None
            ]
            and [(folder / label).rmdir() for label in "ab"]
            and None
        ),
    ),
    "an empty class": (
        "a b c/",
        "add images, or remove the folder",
        lambda folder, match: shutil.rmtree(folder / "c"),
    ),
    "a name in two forms": (
        f"{NFC} {NFD} b",
        "in different Unicode forms: merge them",
        merge(NFD, NFC),
    ),
}


@pytest.mark.parametrize(("images", "says", "follow"), FOLDERS.values(), ids=FOLDERS)
def test_remedy_of_a_folder_works(
    tmp_path: Path, images: str, says: str, follow: Callable[[Path, re.Match[str]], object]
) -> None:
    folder = tmp_path / "data"
    for name in images.split():
        if name.endswith("/"):
            (folder / name).mkdir(parents=True)
        else:
            write_images(folder, name)
    with pytest.raises(LayercacheError) as error:
        open_dataset(f"folder:{folder}")
    match = re.search(says, str(error.value))
    assert match, error.value
    opened = follow(folder, match)
    dataset = open_dataset(f"folder:{opened if isinstance(opened, Path) else folder}")
    assert len(dataset.classes) >= 2
    for split in dataset.splits:
        check_labels(dataset, split)


ROWS = "1.png,a\n2.png,b\n3.png,a\n4.png,b\n"

TABLES = {
    "columns": ("file,class\n" + ROWS, "columns path, label", ("file,class", "path,label")),
    "a column twice": (
        "path,label,label\n1.png,x,a\n2.png,y,b\n3.png,y,a\n",
        "rename the others",
        ("path,label,label", "path,group,label"),
    ),
    "a sample twice": (
        f"path,label\n{ROWS}1.png,b\n",
        "several labels of one image are joined by ';'",
        (ROWS + "1.png,b\n", ROWS.replace("1.png,a", "1.png,a;b")),
    ),
    "-1 for none": (
        f"path,labels\n{ROWS}5.png,-1\n",
        "leave the label empty where an image has none",
        ("5.png,-1", "5.png,"),
    ),
    "an open quote": (
        f'path,label\n{ROWS}5.png,"a\n',
        "close it, or remove it",
        ('5.png,"a', '5.png,"a"'),
    ),
    "a quote within a field": (
        f'path,label\n{ROWS}5.png,"a"b"\n',
        "double the quotes within a field",
        ('"a"b"', '"a""b"'),
    ),
    "a NUL byte": (f"path,label\n{ROWS}5.png,a\0\n", "a NUL byte .*: remove it", ("\0", "")),
}


@pytest.mark.parametrize(("text", "says", "edit"), TABLES.values(), ids=TABLES)
def test_remedy_of_a_table_works(
    tmp_path: Path, text: str, says: str, edit: tuple[str, str]
) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(LayercacheError, match=says):
        open_dataset(f"csv:{file}")
    assert edit[0] in text
    file.write_text(text.replace(*edit, 1))
    dataset = open_dataset(f"csv:{file}")
    for split in dataset.splits:
        check_labels(dataset, split)


def test_remedy_of_a_table_in_latin_1_works(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"path,label\n{ROWS}5.png,é\n", encoding="latin-1")
    with pytest.raises(LayercacheError, match="save the table as UTF-8"):
        open_dataset(f"csv:{file}")
    file.write_text(file.read_text("latin-1"), encoding="utf-8")
    assert "é" in open_dataset(f"csv:{file}").classes


@pytest.mark.parametrize("name", ["data", "./data", "t.csv", "flder:data"])
def test_remedy_of_an_unknown_dataset_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "data", "a b")
    (tmp_path / "t.csv").write_text("path,label\n" + ROWS)
    with pytest.raises(LayercacheError) as error:
        open_dataset(name)
    (remedy,) = re.findall(r"did you mean (\S+)\?", str(error.value))
    assert len(open_dataset(remedy).classes) == 2


def test_remedies_of_tars_work(tmp_path: Path) -> None:
    """One after the other, as a user meets them."""
    folder = tmp_path / "train"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i in range(4):
            write_images(tmp_path / "images", "a")
            tar.add(tmp_path / "images/a/a0.png", f"{i}.png")
            (tmp_path / "cls").write_text(str(i % 2))
            tar.add(tmp_path / "cls", f"{i}.cls")

    def fails(says: str) -> None:
        with pytest.raises(LayercacheError, match=says):
            open_dataset(f"wds:{tmp_path}")

    fails("classnames.txt is missing")
    (tmp_path / "classnames.txt").write_text("a\n\nb\n")
    fails("classnames.txt, line 2: .* name the class or remove the line")
    (tmp_path / "classnames.txt").write_text("a\nb\n")
    fails("nshards.txt is missing")
    (folder / "nshards.txt").write_text("2")
    fails("1.tar is missing; nshards.txt says that there are 2 tars")
    (folder / "nshards.txt").write_text("1")
    assert open_dataset(f"wds:{tmp_path}").classes == ("a", "b")

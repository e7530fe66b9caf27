import io
import shutil
import tarfile
from dataclasses import replace

import pytest

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets import (
    check_labels,
    dataset_identity,
    dataset_name,
    open_dataset,
)
from layercache.extraction.datasets.sources.webdataset import open_vtab, open_webdataset


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def root(tmp_path, pictures):
    """The clip-benchmark layout: train in two tars, test in one."""
    root = tmp_path / "wds_things"
    shard(
        root / "train/0.tar",
        [
            ("s0000001.cls", b"2"),
            ("s0000001.png", pictures.encoded(1)),
            ("s0000000.webp", pictures.encoded(0, "WEBP")),
            ("s0000000.cls", b"0\n"),
            ("s0000000.json", b"{}"),
        ],
    )
    shard(root / "train/1.tar", [("./s0000000.png", pictures.encoded(2)), ("./s0000000.cls", b"1")])
    shard(root / "test/0.tar", [("s1.png", pictures.encoded(3)), ("s1.cls", b"1")])
    (root / "train/nshards.txt").write_text("2")
    (root / "test/nshards.txt").write_text("1\n")
    (root / "classnames.txt").write_text("tench\nhouse cat\ncar\n")
    return root


def test_webdataset_has_its_splits_classes_and_images(root, pictures):
    shard(
        root / "test/0.tar",
        [
            ("sub/s0.png", pictures.encoded(4)),
            ("sub/s0.cls", b"0"),
            ("s1.png", pictures.encoded(3)),
            ("s1.cls", b"1"),
        ],
    )
    dataset = open_dataset(f"wds:{root}")
    assert (dataset.name, dataset.classes, dataset.splits) == (
        "wds_things",
        ("tench", "house cat", "car"),
        ("train", "test"),
    )
    assert dataset_name(f"wds:{root}") == "wds_things"
    pictures.check(
        dataset,
        "train",
        [
            ("train/0/s0000000", "tench", 0),
            ("train/0/s0000001", "car", 1),
            ("train/1/s0000000", "house cat", 2),
        ],
        atol=12,
    )
    pictures.check(dataset, "test", [("test/0/s1", "house cat", 3), ("test/0/sub/s0", "tench", 4)])


def test_webdataset_with_an_unpaired_member_raises(root):
    shard(root / "test/0.tar", [("sub/s0.cls", b"0"), ("s1.png", b""), ("s1.cls", b"1")])
    with pytest.raises(DataError, match=r"test/0\.tar: sample 'sub/s0' has no image \(1 such"):
        open_dataset(f"wds:{root}")


def test_webdataset_content_digest_depends_on_images_and_rows_only(root, pictures):
    samples = open_webdataset(root).split("train")
    assert samples.content_digest.startswith("bytes:")
    assert samples.take([2]).content_digest != samples.content_digest
    assert samples.take([0, 1, 2]).content_digest == samples.content_digest
    before = dataset_identity(open_webdataset(root))
    shard(root / "train/1.tar", [("s0000000.cls", b"1"), ("s0000000.png", pictures.encoded(2))])
    assert dataset_identity(open_webdataset(root)) == before, (
        "the same samples in another order within the tar"
    )
    shard(root / "train/1.tar", [("s0000000.cls", b"1"), ("s0000000.png", pictures.encoded(20))])
    assert (
        dataset_identity(open_webdataset(root)).splits["train"].content
        != before.splits["train"].content
    )
    assert replace(samples, max_hashed_bytes=10).content_digest.startswith("sizes:")


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            lambda r: (r / "train/1.tar").unlink(),
            DataNotFoundError,
            r"train/1\.tar is missing; nshards\.txt says that there are 2",
        ),
        (
            lambda r: (r / "train/nshards.txt").unlink(),
            DataNotFoundError,
            r"nshards\.txt is missing",
        ),
        (
            lambda r: (r / "train/nshards.txt").write_text("two"),
            DataError,
            "expected a number, got 'two'",
        ),
        (
            lambda r: (r / "classnames.txt").unlink(),
            DataNotFoundError,
            r"classnames\.txt is missing",
        ),
        (
            lambda r: shard(r / "train/1.tar", [("s.png", b""), ("s.cls", b"cat")]),
            DataError,
            "sample 's' has label 'cat', expected a class number",
        ),
        (
            lambda r: shard(r / "train/1.tar", [("s.png", b""), ("s.jpg", b""), ("s.cls", b"0")]),
            DataError,
            "'s' has two members of one kind",
        ),
    ],
)
def test_webdataset_malformed_raises(root, pictures, change, error, text):
    change(root)
    with pytest.raises(error, match=text):
        open_webdataset(root)


def test_webdataset_with_a_label_beyond_the_classes_raises_when_it_is_used(root):
    (root / "classnames.txt").write_text("a\nb\n")
    dataset = open_webdataset(root)
    check_labels(dataset, "test")
    with pytest.raises(DataError, match="sample 'train/0/s0000001' has label 2, expected 0 to 1"):
        check_labels(dataset, "train")


def test_webdataset_with_dots_in_a_key_takes_pairs_and_counts_the_rest(root, pictures):
    shard(
        root / "test/0.tar",
        [
            ("s1.png", pictures.encoded(3)),
            ("s1.cls", b"1"),
            ("s1.gif", pictures.encoded(9, "GIF")),
            ("s1.mask.png", pictures.encoded(9)),
            ("photo.of.cat.jfif", pictures.encoded(4, "JPEG")),
            ("photo.of.cat.cls", b"0"),
            ("s1.json", b"{}"),
            ("LICENSE", b"x"),
            ("__MACOSX/._s1.png", b"x"),
        ],
    )
    dataset = open_webdataset(root)
    pictures.check(
        dataset,
        "test",
        [("test/0/photo.of.cat", "tench", 4), ("test/0/s1", "house cat", 3)],
        atol=12,
    )
    assert dataset.ignored == {
        "member .json": 2,
        "member .gif, a second image of its sample": 1,
        "member .mask.png": 1,
        "member without a suffix": 1,
        "hidden or in a system folder": 1,
    }


def test_webdataset_class_names_are_lines_without_a_mark_or_trailing_blanks(root):
    names = "\ufefftench\r\nhouse\u2028cat\r\ncar\r\n\r\n \n"
    (root / "classnames.txt").write_bytes(names.encode())
    assert open_webdataset(root).classes == ("tench", "house\u2028cat", "car")
    (root / "classnames.txt").write_text("tench\n\ncar\n")
    with pytest.raises(DataError, match=r"classnames\.txt, line 2: .* got a blank line"):
        open_webdataset(root)


def test_webdataset_with_a_huge_number_of_tars_raises_at_the_first_missing(root):
    (root / "train/nshards.txt").write_text("1000000000000")
    with pytest.raises(DataNotFoundError, match=r"train/2\.tar is missing; .* 1000000000000 tars"):
        open_webdataset(root)
    (root / "train/nshards.txt").write_text("9" * 5000)
    with pytest.raises(DataError, match="expected a number, got '999"):
        open_webdataset(root)


def test_webdataset_with_fewer_shards_or_more_folders_than_lie_there_counts_them(root):
    (root / "train/nshards.txt").write_text("1")
    (root / "val").mkdir()
    ignored = open_webdataset(root).ignored
    assert ignored["tar in 'train' beyond the number in nshards.txt"] == 1
    assert ignored["folder 'val' without nshards.txt"] == 1


def add_split(root, folder, pictures):
    shard(root / folder / "0.tar", [("v.png", pictures.encoded(5)), ("v.cls", b"2")])
    (root / folder / "nshards.txt").write_text("1")


@pytest.mark.parametrize("folder", ["val", "valid", "validation", "dev"])
def test_webdataset_delivers_a_validation_split_under_any_usual_name(root, pictures, folder):
    add_split(root, folder, pictures)
    dataset = open_webdataset(root)
    assert dataset.splits == ("train", "val", "test")
    assert not dataset.notes
    pictures.check(dataset, "val", [(f"{folder}/0/v", "car", 5)])


def test_webdataset_without_test_tests_on_the_validation_split(root, pictures):
    add_split(root, "validation", pictures)
    shutil.rmtree(root / "test")
    dataset = open_webdataset(root)
    assert dataset.splits == ("train", "test")
    assert dataset.split("test").ids == ["validation/0/v"]
    assert dataset.notes == ("there is no test split: test is the split 'validation'",)


def test_webdataset_with_two_validation_folders_counts_the_second(root, pictures):
    for folder in ("val", "dev"):
        add_split(root, folder, pictures)
    dataset = open_webdataset(root)
    assert dataset.split("val").ids == ["val/0/v"]
    assert dataset.ignored["folder 'dev' next to 'val'"] == 1


def test_vtab_keeps_to_the_splits_of_the_paper(root, pictures):
    add_split(root, "val", pictures)
    dataset = open_vtab("resisc45", root)
    assert dataset.splits == ("train", "test")
    assert dataset.ignored["folder 'val', which is not used"] == 1


def test_webdataset_with_an_empty_label_keeps_it_as_no_class(root, pictures):
    image = pictures.encoded(1)
    shard(
        root / "train/1.tar", [("a.png", image), ("a.cls", b""), ("b.png", image), ("b.cls", b"-1")]
    )
    assert open_webdataset(root).split("train").labels.tolist() == [0, 2, -1, -1]


@pytest.mark.parametrize("folder", ["resisc45", "wds_resisc45", "wds_vtab-resisc45", "."])
def test_open_dataset_of_vtab_finds_its_folder(root, pictures, tmp_path, folder):
    if folder == ".":
        place = root
    else:
        root.rename(tmp_path / folder)
        place = tmp_path
    dataset = open_dataset("resisc45", root=place)
    assert dataset.name == "resisc45"
    pictures.check(dataset, "test", [("test/0/s1", "house cat", 3)])


def test_open_dataset_of_vtab_missing_raises(tmp_path):
    with pytest.raises(
        DataNotFoundError,
        match=f"dataset dmlab: expected classnames.txt, .* in one of {tmp_path}/dmlab, .*get it: "
        ".*wds_vtab-dmlab",
    ):
        open_dataset("dmlab", root=tmp_path)


def test_webdataset_missing_raises(tmp_path):
    with pytest.raises(DataNotFoundError, match="expected train/, val/ or test/"):
        open_dataset(f"wds:{tmp_path}")
    with pytest.raises(DataNotFoundError, match="there is no folder"):
        open_dataset(f"wds:{tmp_path}/x")

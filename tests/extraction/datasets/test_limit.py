import numpy as np
import pytest

from layercache.errors import OptionError
from layercache.extraction.datasets import dataset_identity, limit_samples, open_dataset
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.pipeline.decode import open_image


@pytest.fixture
def many(tmp_path, pictures):
    """60 files: 40 of class a, 20 of class b."""
    ids = [f"{i:02d}.png" for i in range(60)]
    for i, name in enumerate(ids):
        pictures.write(tmp_path / name, i)
    labels = (np.arange(60) % 3 == 2).astype(np.int64)
    return InMemoryDataset(
        name="many",
        classes=("a", "b"),
        samples={
            "train": FileSamples(str(tmp_path), ids, labels),
            "test": FileSamples(str(tmp_path), ids[:6], labels[:6]),
        },
    )


def test_limit_is_stratified_in_order_and_loads_the_right_images(many, pictures):
    few = limit_samples(many, 12, seed=1)
    samples = few.split("train")
    assert np.bincount(samples.labels).tolist() == [8, 4]
    assert samples.ids == sorted(samples.ids)
    pictures.check(few, "train", [(i, "ab"[int(i[:2]) % 3 == 2], int(i[:2])) for i in samples.ids])


def test_a_split_below_the_limit_stays(many):
    assert limit_samples(many, 12, seed=1).split("test") is many.split("test")
    assert limit_samples(many, None) is many


def test_another_seed_another_draw(many):
    assert limit_samples(many, 12, seed=1).split("train").ids != limit_samples(many, 12, seed=2).split("train").ids
    assert limit_samples(many, 12, seed=1).split("train").ids == limit_samples(many, 12, seed=1).split("train").ids


def test_multi_label_is_drawn_by_rows(tmp_path):
    samples = FileSamples(str(tmp_path), [str(i) for i in range(20)], np.eye(20, 3, dtype=np.uint8))
    few = limit_samples(
        InMemoryDataset(
            name="m", classes=("a", "b", "c"), samples={"train": samples}, multi_label=True
        ),
        5,
    ).split("train")
    assert few.labels.shape == (5, 3)
    np.testing.assert_array_equal(few.labels, samples.labels[[int(i) for i in few.ids]])


@pytest.mark.parametrize(
    ("n", "seed", "text"),
    [(0, 0, "at least 1 sample, got 0"), (5, -1, "seed of at least 0, got -1")],
)
def test_refusals(many, n, seed, text):
    with pytest.raises(OptionError, match=text):
        limit_samples(many, n, seed=seed)


def test_identity_knows_limit_seed_labels_bytes_and_classes(many, tmp_path, pictures):
    whole = dataset_identity(many)
    assert (
        whole.limit,
        whole.limit_seed,
        whole.splits["train"].rows,
        whole.splits["test"].rows,
    ) == (None, 0, 60, 6)
    assert dataset_identity(many) == whole
    assert dataset_identity(many, seed=5) == whole, "the seed says nothing without a limit"
    few = dataset_identity(many, 12, seed=1)
    assert (few.limit, few.limit_seed, few.splits["train"].rows) == (12, 1, 12)
    assert dataset_identity(limit_samples(many, 12, seed=1), 12, seed=1) == few
    assert dataset_identity(many, 12, seed=2).splits["train"] != few.splits["train"]

    relabelled = InMemoryDataset(
        name="many",
        classes=("a", "b"),
        samples={
            s: FileSamples(str(tmp_path), many.split(s).ids, 1 - many.split(s).labels)
            for s in many.splits
        },
    )
    assert dataset_identity(relabelled).splits["train"].labels != whole.splits["train"].labels
    assert dataset_identity(relabelled).splits["train"].content == whole.splits["train"].content

    fresh = InMemoryDataset(
        name="many",
        classes=many.classes,
        samples={
            s: FileSamples(str(tmp_path), many.split(s).ids, many.split(s).labels)
            for s in many.splits
        },
    )
    assert dataset_identity(fresh) == whole
    pictures.write(tmp_path / "00.png", 77)
    changed = InMemoryDataset(
        name="many",
        classes=many.classes,
        samples={
            s: FileSamples(str(tmp_path), many.split(s).ids, many.split(s).labels)
            for s in many.splits
        },
    )
    assert dataset_identity(changed).splits["train"].content != whole.splits["train"].content


def test_sizes_stand_for_bytes_above_the_limit(many, monkeypatch, tmp_path):
    samples = many.split("train")
    assert samples.content_digest.startswith("bytes:")
    monkeypatch.setattr("layercache.extraction.datasets.image_files.HASHED_IN_FULL", 100)
    by_size = FileSamples(samples.root, samples.ids, samples.labels).content_digest
    assert by_size.startswith("sizes:")
    with open(tmp_path / "00.png", "ab") as f:
        f.write(b"x")
    assert FileSamples(samples.root, samples.ids, samples.labels).content_digest != by_size


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    dataset, source = open_dataset("digits"), load_digits()
    train, test = dataset.split("train"), dataset.split("test")
    assert (len(train.ids), len(test.ids), dataset.classes) == (1437, 360, tuple("0123456789"))
    assert sorted(train.ids + test.ids) == [f"digits/{i:06d}" for i in range(1797)]
    for samples in (train, test):
        index = [int(i[-6:]) for i in samples.ids]
        np.testing.assert_array_equal(samples.labels, source.target[index])
        assert (
            np.abs(
                np.bincount(samples.labels) / len(index) - np.bincount(source.target) / 1797
            ).max()
            < 0.003
        )
        for row in (0, 100, 359):
            np.testing.assert_array_equal(
                np.asarray(open_image(samples, row))[..., 0],
                np.round(source.images[index[row]] / 16 * 255),
            )


def test_the_split_of_digits_never_changes():
    """Written down once: published numbers on digits depend on it."""
    ids = dataset_identity(open_dataset("digits"))
    assert (ids.splits["train"].ids[:16], ids.splits["test"].ids[:16]) == DIGITS


DIGITS = ("11b0d2af231d82fc", "eadc210424196526")

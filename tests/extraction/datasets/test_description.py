import numpy as np

from layercache.extraction.datasets import describe_dataset, limit_samples
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset


def build(root, splits, classes, **options):
    return InMemoryDataset(
        name="d",
        classes=classes,
        samples={
            split: FileSamples(str(root), ids, np.asarray(labels, np.int64))
            for split, (ids, labels) in splits.items()
        },
        **options,
    )


def test_describe_dataset_names_classes_and_counts_what_is_left_out(many):
    dataset = build("/", {"train": (["x"], [0])}, tuple(f"c{i:02d}" for i in range(22)))
    first, empty = describe_dataset(dataset)
    assert first.startswith("22 classes: c00, c01, ")
    assert first.endswith("c19 and 2 more")
    assert empty == "train has no image of the class 'c01', 'c02', 'c03', 'c04', 'c05' and 16 more"
    ignored = {"hidden": 2, "empty folder": 11}
    dataset = build("/", {"train": (["x"], [0])}, ("a",), ignored=ignored, notes=("a note",))
    expected = ["1 class: a", "a note", "left out: 11 (empty folder)", "left out: 2 (hidden)"]
    assert list(describe_dataset(dataset)) == expected
    assert list(describe_dataset(limit_samples(dataset, 1))) == expected


def test_describe_dataset_counts_images_that_are_in_train_as_well(tmp_path, pictures):
    for n, name in enumerate(("0.png", "1.png", "2.png")):
        pictures.write(tmp_path / name, n)
    pictures.write(tmp_path / "copy.png", 1)
    splits = {"train": (["0.png", "1.png"], [0, 1]), "test": (["2.png", "copy.png"], [0, -1])}
    assert list(describe_dataset(build(tmp_path, splits, ("a", "b")))) == [
        "2 classes: a, b",
        "test: 1 image without a label",
        "test: 1 of 2 images have the same bytes as an image of train",
    ]

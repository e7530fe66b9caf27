from layercache.extraction.datasets import dataset_identity, limit_samples
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset


def test_dataset_identity_depends_on_limit_and_bytes_but_not_on_labels(many, tmp_path, pictures):
    whole = dataset_identity(many)
    assert (
        whole.limit,
        whole.limit_seed,
        whole.splits["train"].rows,
        whole.splits["test"].rows,
    ) == (None, 0, 60, 6)
    assert dataset_identity(many) == whole
    assert dataset_identity(many, seed=5) == whole, "without a limit the seed has no effect"
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
    assert dataset_identity(relabelled) == whole

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

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layercache.testing.caches import make_cache, make_ids, make_labels, make_spec


@pytest.fixture
def two_splits(tmp_path: Path):
    return make_cache(tmp_path, make_spec(20), splits=("train", "test"), skipped={3: "broken"})


def test_annotations_hold_the_label_of_every_row_of_every_split(two_splits) -> None:
    frame = two_splits.annotations
    assert list(frame.columns) == ["split", "label"]
    assert frame["split"].value_counts().to_dict() == {"train": 19, "test": 7}
    train = frame[frame["split"] == "train"]
    assert list(train.index) == [i for n, i in enumerate(make_ids(20)) if n != 3]
    assert list(train["label"].cat.categories) == ["a", "b", "c"]
    assert train["label"].cat.codes.tolist() == two_splits.split("train").labels.tolist()


def test_annotations_of_a_multi_label_dataset_are_tuples_of_names(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(6), multi_label=True)
    names = np.array(["a", "b", "c"])
    expected = [tuple(names[row == 1]) for row in make_labels(6, multi_label=True)]
    assert cache.annotations["label"].tolist() == expected


def test_annotation_digest_is_that_of_the_values(tmp_path: Path) -> None:
    one = make_cache(tmp_path / "a", make_spec(20))
    two = make_cache(tmp_path / "b", make_spec(20, weights="cd" * 32))
    assert one.annotation_digests == two.annotation_digests
    assert len(one.annotation_digests["label"]) == 12
    other = make_cache(tmp_path / "c", make_spec(21))
    assert other.annotation_digests != one.annotation_digests

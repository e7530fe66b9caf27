from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layercache.cache import Cache
from layercache.cache.annotate import annotate, drop_annotations
from layercache.cache.cache import load_cache
from layercache.cache.storage.local import LocalStore
from layercache.errors import CacheCorruptError, DataError, OptionError
from layercache.testing.caches import make_cache, make_ids, make_spec, write_cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    tokens = {name: np.ones((1, 1, n, 4), np.float16) for name, n in (("train", 6), ("test", 3))}
    labels = {"train": np.array([0, 1, 2, 0, 1, 2]), "test": np.array([0, 1, 2])}
    return write_cache(tokens, labels, root=tmp_path, kinds=("cls",))


def table_of(cache: Cache, **columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns, index=cache.annotations.index)


def test_columns_of_a_table_are_annotations_of_every_sample(cache: Cache) -> None:
    frame = table_of(cache, patient=list("aabbccddd"), age=np.arange(9) + 0.5)
    changes = annotate(cache, frame.sample(frac=1, random_state=0))
    assert [change.name for change in changes] == ["patient", "age"]
    assert changes[0].summary().startswith("patient: 4 classes, 9 values; version ")
    stored = load_cache(cache.path).annotations
    assert stored["patient"].astype(str).tolist() == list("aabbccddd")
    assert stored["age"].tolist() == frame["age"].tolist()
    assert set(cache.annotation_digests) == {"label", "patient", "age"}


def test_corrected_label_replaces_the_datasets(cache: Cache) -> None:
    before = cache.annotation_digests["label"]
    corrected = cache.annotations["label"].astype(str).tolist()
    corrected[2] = "class 1"
    [change] = annotate(cache, table_of(cache, label=corrected))
    assert cache.annotations["label"].astype(str).tolist() == corrected
    assert cache.annotation_digests["label"] == change.digest != before


def test_same_values_are_the_same_version(cache: Cache) -> None:
    [first] = annotate(cache, table_of(cache, x=range(9)))
    [second] = annotate(cache, table_of(cache, x=range(9)))
    assert (first.digest, second.changed, second.previous) == (second.digest, 0, first.digest)
    [third] = annotate(cache, table_of(cache, x=[0, 1, 2, 3, 4, 5, 6, 7, 9]))
    assert third.changed == 1
    assert f"1 value changed, version {first.digest} before" in third.summary()


def test_table_must_fit_the_samples_unless_it_is_partial(cache: Cache) -> None:
    frame = table_of(cache, x=range(9)).rename(index={"train/1.png": "other.png"})
    with pytest.raises(DataError, match=r"8 of 9 samples .* 1 row of no sample \('other.png'\)"):
        annotate(cache, frame)
    assert "x" not in cache.annotation_digests
    annotate(cache, frame, partial=True)
    assert cache.annotations["x"].isna().tolist() == [False, True, *[False] * 7]


def test_partial_table_keeps_the_other_values(cache: Cache) -> None:
    frame = table_of(cache, x=list("aabbccddd"))
    annotate(cache, frame.iloc[:6], partial=True)
    annotate(cache, frame.iloc[6:], partial=True)
    assert cache.annotations["x"].astype(str).tolist() == frame["x"].tolist()
    with pytest.raises(DataError, match="expected class values as the column has already"):
        annotate(cache, table_of(cache, x=range(9)).iloc[:1], partial=True)


def test_table_without_a_known_id_is_refused_also_if_partial(cache: Cache) -> None:
    frame = pd.DataFrame({"path": ["0.png"], "x": [1]})
    with pytest.raises(DataError, match=r"expected ids such as 'train/0.png', got such as '0.png'"):
        annotate(cache, frame, partial=True)


def test_repeated_id_is_refused(cache: Cache) -> None:
    frame = table_of(cache, x=range(9))
    with pytest.raises(DataError, match=r"got 'train/0.png' in the rows 1 and 10"):
        annotate(cache, pd.concat([frame, frame.iloc[:1]]))


def test_id_in_two_splits_needs_the_split(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(7), splits=("train", "test"))
    frame = pd.DataFrame({"id": make_ids(7), "x": range(7)})
    with pytest.raises(DataError, match=r"is in several splits of the cache \(7 such ids\)"):
        annotate(cache, frame)
    both = pd.concat([frame.assign(split="train"), frame.assign(split="test", x=range(7, 14))])
    annotate(cache, both)
    assert cache.annotations["x"].tolist() == list(range(14))


def test_skipped_sample_needs_no_row(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(20), skipped={3: "broken"})
    frame = pd.DataFrame({"x": range(19)}, index=cache.annotations.index)
    [change] = annotate(cache, frame)
    assert (change.values, change.missing) == (19, 0)


def test_dropped_annotation_leaves_no_file(cache: Cache) -> None:
    annotate(cache, table_of(cache, patient=list("aabbccddd")))
    annotate(cache, table_of(cache, patient=list("aabbccdde")))
    drop_annotations(cache, ["patient"])
    assert set(cache.annotation_digests) == {"label"}
    assert len(list(Path(str(cache.path), "annotations").glob("*.npz"))) == 1
    with pytest.raises(OptionError, match="expected an annotation, got 'patient'"):
        drop_annotations(cache, ["patient"])


def test_kill_between_the_files_leaves_the_old_columns(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(cache, table_of(cache, x=range(9)))
    put = LocalStore.put

    def put_or_die(self: LocalStore, key: str, parts: object) -> None:
        if key.endswith("columns.json"):
            raise KeyboardInterrupt
        put(self, key, parts)

    monkeypatch.setattr(LocalStore, "put", put_or_die)
    with pytest.raises(KeyboardInterrupt):
        annotate(cache, table_of(cache, x=range(9, 18)))
    assert load_cache(cache.path).annotations["x"].tolist() == list(range(9))


@pytest.mark.parametrize("name", ["columns.json", "*.npz"])
def test_flipped_byte_is_an_error_with_a_remedy(cache: Cache, name: str) -> None:
    annotate(cache, table_of(cache, x=range(9)))
    file = min(Path(str(cache.path), "annotations").glob(name))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CacheCorruptError, match="annotate the cache with its table again"):
        load_cache(cache.path).annotations  # noqa: B018

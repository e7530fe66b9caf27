from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import layercache
from layercache.errors import CacheIncompleteError, OptionError


def test_parquet_has_a_row_for_each_sample_and_a_column_for_each_token(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    cache = planted()
    path = tmp_path / "new" / "tokens.parquet"
    export = layercache.export_tokens(cache, path, format="parquet", layers=[2, 4], tokens="cls")
    assert export.rows == {"train": 240, "test": 120}
    frame = pd.read_parquet(path)
    assert list(frame.columns) == ["id", "split", "label", "2:cls", "4:cls"]
    of_test = frame[frame["split"] == "test"]
    assert of_test["id"].tolist() == cache.split("test").ids
    tokens = np.stack(of_test["4:cls"].to_list())
    assert np.array_equal(tokens, cache.to_numpy("test", layers=4, tokens="cls")[:, 0])
    description = json.loads(pq.read_schema(path).metadata[b"layercache"])
    assert description["fingerprint"] == cache.spec.fingerprint
    assert description["tokens"] == ["2:cls", "4:cls"]


def test_h5_has_a_group_for_each_split(planted: Callable[..., Any], tmp_path: Path) -> None:
    cache = planted()
    layercache.export_tokens(str(cache.path), tmp_path / "tokens.h5", format="h5", splits="train")
    with h5py.File(tmp_path / "tokens.h5") as file:
        assert list(file) == ["train"]
        assert np.array_equal(file["train/tokens"], cache.to_numpy())
        assert file["train/ids"].asstr()[:].tolist() == cache.split("train").ids
        names = [f"class {label}" for label in cache.split("train").labels]
        assert file["train/labels"].asstr()[:].tolist() == names
        assert file.attrs["tokens"].tolist() == [f"{la}:{t}" for la, t in cache.pairs()]


def test_npy_is_a_folder_of_arrays(planted: Callable[..., Any], tmp_path: Path) -> None:
    cache = planted()
    layercache.export_tokens(cache, tmp_path / "tokens", format="npy", layers="last")
    assert np.array_equal(np.load(tmp_path / "tokens/test.npy"), cache.to_numpy("test", layers=4))
    assert (tmp_path / "tokens/test.ids.txt").read_text().split() == cache.split("test").ids
    table = pd.read_csv(tmp_path / "tokens/annotations.csv")
    assert len(table) == 360


def test_export_refuses_what_it_cannot_write_and_leaves_nothing(
    planted: Callable[..., Any], write_cache: Callable[..., Any], tmp_path: Path
) -> None:
    cache = planted()
    path = tmp_path / "out"
    with pytest.raises(OptionError, match="format: expected parquet, h5, npy, got 'csv'"):
        layercache.export_tokens(cache, path, format="csv")
    with pytest.raises(OptionError, match="numbers from 1 to 4"):
        layercache.export_tokens(cache, path, format="npy", layers="7")
    assert not path.exists()
    path.mkdir()
    with pytest.raises(OptionError, match="exists: delete it, or choose another path"):
        layercache.export_tokens(cache, path, format="npy")
    x = {"train": np.zeros((1, 2, 4, 8), np.float16)}
    unfinished = write_cache(x, {"train": np.arange(4)}, dataset="other", finish=False)
    with pytest.raises(CacheIncompleteError, match="expected a complete split to export"):
        layercache.export_tokens(unfinished, tmp_path / "none", format="npy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "root"]

"""Caches of given arrays and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import layercache
from layercache.cache import SplitWriter
from layercache.errors import (
    BackboneError,
    DataError,
    DataNotFoundError,
    NonFiniteError,
    OptionError,
)
from tests.probing.quick import ONE_CONFIG

Array = np.ndarray[Any, Any]


def make(n: int = 60, *, seed: int = 0) -> tuple[Array, Array]:
    """Tokens (N, 2, 2, 8) of three classes, and labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centers = 2 * np.random.default_rng(9).normal(size=(3, 2, 2, 8))
    return (rng.normal(size=(n, 2, 2, 8)) + centers[y]).astype(np.float32), y


@pytest.fixture
def arrays() -> dict[str, tuple[Array, Array]]:
    return {"train": make(), "test": make(30, seed=1)}


def import_arrays(
    arrays: dict[str, tuple[Array, Array]], root: Path, **options: Any
) -> layercache.Cache:
    return layercache.import_tokens(
        {name: x for name, (x, _) in arrays.items()},
        labels={name: y for name, (_, y) in arrays.items()},
        name="shapes",
        root=root,
        **options,
    )


def test_imported_cache_has_the_arrays_labels_and_says_that_it_is_imported(
    arrays: dict[str, tuple[Array, Array]], tmp_path: Path
) -> None:
    cache = import_arrays(arrays, tmp_path, model="mine")
    assert cache.spec.imported
    assert (cache.spec.model, cache.spec.architecture, cache.spec.tap) == (
        "mine",
        "imported",
        "imported",
    )
    assert cache.spec.storage_dtype == "float32"
    for name, (x, y) in arrays.items():
        assert np.array_equal(cache.to_numpy(name), x.reshape(len(x), 4, 8))
        assert cache.split(name).labels.tolist() == y.tolist()
    assert cache.spec.tokens == ("cls", "ap")
    again = import_arrays(arrays, tmp_path, model="mine")
    assert again.path == cache.path
    arrays["train"][0][3, 1, 0, 2] += 1e-3
    assert import_arrays(arrays, tmp_path, model="mine").path != cache.path


def test_imported_cache_is_probed_like_any_other_and_has_no_encoder(
    arrays: dict[str, tuple[Array, Array]], tmp_path: Path
) -> None:
    cache = import_arrays({k: (x[:, 1, 0], y) for k, (x, y) in arrays.items()}, tmp_path)
    assert cache.spec.tokens == ("cls",)
    (probe,) = layercache.probe(cache, head="linear", **ONE_CONFIG | {"dropout": None})
    assert probe.row["test_balanced_accuracy"] > 0.9
    with pytest.raises(BackboneError, match="trained on imported tokens"):
        layercache.load_classifier(probe.path)
    with pytest.raises(OptionError, match="layercache import --tokens FILE"):
        layercache.probe(cache, head="linear", tokens="ap", **ONE_CONFIG | {"dropout": None})


def write_files(arrays: dict[str, tuple[Array, Array]], folder: Path) -> dict[str, Any]:
    """Files of the same arrays in every format -> the arguments of `import_tokens`."""
    flat = {f"{name}/tokens": x for name, (x, _) in arrays.items()}
    flat |= {f"{name}/labels": y for name, (_, y) in arrays.items()}
    np.savez(folder / "a.npz", **flat)
    np.savez(folder / "b.npz", **{name.replace("/", "_"): v for name, v in flat.items()})
    with h5py.File(folder / "c.h5", "w") as file:
        for name, values in flat.items():
            file[name] = values
    torch.save(
        {
            name: {"features": torch.from_numpy(x), "targets": torch.from_numpy(y)}
            for name, (x, y) in arrays.items()
        },
        folder / "d.pt",
    )
    separate: dict[str, Any] = {"tokens": {}, "labels": {}}
    layers: dict[str, Any] = {"tokens": {}, "labels": {}}
    for name, (x, y) in arrays.items():
        np.save(folder / f"{name}.npy", x)
        np.save(folder / f"{name}.y.npy", y)
        torch.save(torch.from_numpy(y), folder / f"{name}.y.pt")
        for layer in (0, 1):
            torch.save(torch.from_numpy(x[:, layer]), folder / f"{name}.{layer}.pt")
        separate["tokens"][name] = folder / f"{name}.npy"
        separate["labels"][name] = folder / f"{name}.y.npy"
        layers["tokens"][name] = [folder / f"{name}.{layer}.pt" for layer in (0, 1)]
        layers["labels"][name] = str(folder / f"{name}.y.pt")
    return {
        **{name: {"tokens": folder / name} for name in ("a.npz", "b.npz", "c.h5", "d.pt")},
        "npy": separate,
        "a file for each layer": layers,
    }


def test_files_of_every_format_give_the_cache_of_the_arrays(
    arrays: dict[str, tuple[Array, Array]], tmp_path: Path
) -> None:
    expected = import_arrays(arrays, tmp_path / "root")
    for name, arguments in write_files(arrays, tmp_path).items():
        cache = layercache.import_tokens(**arguments, name="shapes", root=tmp_path / "root")
        assert cache.path == expected.path, name
        assert cache.annotation_digests == expected.annotation_digests, name


@pytest.mark.parametrize("multi_label", [False, True])
def test_exported_files_are_imported_with_their_ids_labels_and_names(
    planted: Callable[..., Any], tmp_path: Path, multi_label: bool
) -> None:
    cache = planted(multi_label=multi_label, kinds=("cls", "max"))
    for name in ("out.parquet", "out.h5"):
        path = tmp_path / name
        layercache.export_tokens(cache, path, format=path.suffix[1:], layers=[2, 4])
        again = layercache.import_tokens(path, name="again", root=tmp_path / "root")
        assert again.pairs() == cache.pairs(layers=[2, 4])
        assert again.spec.storage_dtype == "float16"
        for split in ("train", "test"):
            assert np.array_equal(again.to_numpy(split), cache.to_numpy(split, layers=[2, 4]))
            assert again.split(split).ids == cache.split(split).ids
            assert again.split(split).labels.tolist() == cache.split(split).labels.tolist()
        if name == "out.parquet" or not multi_label:  # HDF5 has 0/1 without the names of classes
            assert again.annotations["label"].tolist() == cache.annotations["label"].tolist()


def test_labels_may_be_floats_several_or_missing(tmp_path: Path) -> None:
    x, y = make()
    multi = (np.arange(180).reshape(60, 3) % 2).astype(np.uint8)
    for labels, dtype in ((y / 2, "float64"), (multi, "object"), (None, None)):
        cache = layercache.import_tokens(x, labels=labels, name="shapes", root=tmp_path)
        if dtype is None:
            continue
        assert cache.annotations["label"].dtype == dtype
    named = np.where(y == 2, "", np.array(["a", "b", "c"])[y])
    cache = layercache.import_tokens(x[:50], labels=named[:50], name="other", root=tmp_path)
    assert cache.annotations["label"].isna().sum() == (y[:50] == 2).sum()
    assert (cache.split("train").labels == -1).sum() == (y[:50] == 2).sum()


def test_names_of_layers_and_tokens_and_dtype_are_options(tmp_path: Path) -> None:
    x, _ = make()
    cache = layercache.import_tokens(
        x.astype(np.float16), name="n", root=tmp_path, layers=[6, 12], token_names=["cls", "max"]
    )
    assert cache.pairs() == ((6, "cls"), (6, "max"), (12, "cls"), (12, "max"))
    assert cache.spec.storage_dtype == "float16"
    many = layercache.import_tokens(np.zeros((4, 5, 8)), name="m", root=tmp_path)
    assert many.spec.tokens == tuple(f"patch/{i}" for i in range(5))


def test_what_cannot_be_imported_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    x, y = make()
    root = tmp_path / "root"

    def run(tokens: Any, **options: Any) -> None:
        layercache.import_tokens(tokens, **{"name": "n", "root": root, **options})

    with pytest.raises(DataError, match=r"expected \(N, D\), \(N, T, D\) or \(N, L, T, D\)"):
        run(x[0, 0, 0])
    with pytest.raises(DataError, match="expected floats, got int64"):
        run(y[:, None])
    with pytest.raises(DataError, match="split 'train': expected 60 labels, got 59"):
        run(x, labels=y[:59])
    with pytest.raises(DataError, match="expected distinct ids, got 'a' more than once"):
        run(x, ids=["a"] * 60)
    with pytest.raises(DataError, match=r"\(L, T, D\) = \(2, 2, 8\) as in the first split"):
        run({"train": x, "test": x[:, :1]})
    with pytest.raises(DataError, match="labels of one kind in all splits"):
        run({"train": x, "test": x}, labels={"train": y, "test": y / 2})
    with pytest.raises(OptionError, match="labels of split 'val', but there are no tokens of it"):
        run(x, labels={"val": y})
    with pytest.raises(OptionError, match="token_names: the arrays have 2, got 1: cls"):
        run(x, token_names=["cls"])
    with pytest.raises(OptionError, match="expected ascending numbers"):
        run(x, layers=[2, 1])
    with pytest.raises(DataNotFoundError, match="expected a file of arrays"):
        run(tmp_path / "none.npz")
    np.savez(tmp_path / "odd.npz", first=x, second=x)
    with pytest.raises(OptionError, match=r"got first, second: name it, as in .*odd.npz#first"):
        run(tmp_path / "odd.npz")
    (tmp_path / "broken.h5").write_bytes(b"no hdf5")
    with pytest.raises(DataError, match=r"broken.h5: cannot be read as .h5"):
        run(tmp_path / "broken.h5")
    broken = x.copy()
    broken[7, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="sample '7' of split 'train': a token is NaN"):
        run(broken)
    broken[7] = 1e6
    with pytest.raises(NonFiniteError, match="larger than float16 holds: import with storage_dt"):
        run(broken, storage_dtype="float16")
    assert not root.exists()
    run(broken)
    run(str(tmp_path / "odd.npz#first"))


def test_interrupted_import_is_finished_by_the_same_call(
    arrays: dict[str, tuple[Array, Array]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = import_arrays(arrays, tmp_path / "expected").to_numpy("test")
    finish = SplitWriter.finish

    def stop(writer: SplitWriter) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SplitWriter, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        import_arrays(arrays, tmp_path / "root")
    monkeypatch.setattr(SplitWriter, "finish", finish)
    cache = import_arrays(arrays, tmp_path / "root")
    assert np.array_equal(cache.to_numpy("test"), expected)


def test_files_with_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    torch.save({"tokens": pd.DataFrame({"a": [1]})}, tmp_path / "b.pt")
    for name in ("a.npy", "b.pt"):
        with pytest.raises(DataError, match="it must hold plain arrays, no pickled objects"):
            layercache.import_tokens(tmp_path / name, name="n", root=tmp_path / "root")

"""Readers that know nothing of us: zarr, xarray, tensorstore."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from layercache.testing import make_cache, make_ids, make_labels, make_spec, make_tokens

CODECS = [None, "zstd", "blosc"]


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compressor", CODECS)
def test_zarr_reads_the_same_numbers(tmp_path: Path, compressor: str | None, dtype: str) -> None:
    import zarr

    spec = make_spec(50, storage_dtype=dtype)
    group = zarr.open_group(
        make_cache(tmp_path, spec, compressor=compressor).path / "train.zarr", mode="r"
    )
    assert {name for name, _ in group.members()} == {
        "tokens",
        "id",
        "valid",
        "layer",
        "token",
    }
    assert group["tokens"].metadata.dimension_names == ("layer", "token", "image", "channel")
    np.testing.assert_array_equal(group["tokens"][...], make_tokens(spec))
    np.testing.assert_array_equal(group["tokens"][1, 0, 5:40, 2], make_tokens(spec)[1, 0, 5:40, 2])
    assert list(group["id"][...]) == make_ids(50)
    assert group["valid"][...].all()
    assert group["layer"][...].tolist() == [6, 12]
    assert list(group["token"][...]) == ["cls", "ap"]
    assert group.attrs["fingerprint"] == spec.fingerprint


def test_zarr_finds_a_flipped_byte(tmp_path: Path) -> None:
    import zarr

    path = make_cache(tmp_path, make_spec(50)).path / "train.zarr"
    shard = path / "tokens/c.0.0.1.0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(path / "tokens", mode="r")[...]


def inner_chunks(shard: bytes) -> list[bytes]:
    """The four encoded inner chunks of a shard, found by its index."""
    index = np.frombuffer(shard[-4 * 16 - 4 : -4], "<u8").reshape(4, 2)
    return [shard[offset : offset + length] for offset, length in index.tolist()]


@pytest.mark.parametrize("compressor", CODECS)
def test_encode_shard_writes_the_bytes_that_zarr_writes(
    tmp_path: Path, compressor: str | None
) -> None:
    import zarr

    spec = make_spec(50)
    ours = make_cache(tmp_path, spec, compressor=compressor).path / "train.zarr" / "tokens"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "zarr.json").write_bytes((ours / "zarr.json").read_bytes())
    zarr.open_array(theirs, mode="r+")[...] = make_tokens(spec)
    for block in range(
        6
    ):  # not the last: what a writer puts behind the end of the array is its own affair
        key = f"c.0.0.{block}.0"
        assert inner_chunks((ours / key).read_bytes()) == inner_chunks((theirs / key).read_bytes())


def test_xarray_reads_the_same_numbers(tmp_path: Path) -> None:
    import xarray

    spec = make_spec(50)
    cache = make_cache(tmp_path, spec, skipped={9: "why"})
    with xarray.open_zarr(cache.path / "train.zarr", consolidated=False) as ds:
        assert ds.tokens.dims == ("layer", "token", "image", "channel")
        kept = ds.isel(image=ds.valid.values)
        np.testing.assert_array_equal(
            kept.tokens.sel(layer=12, token="ap").values,
            np.delete(make_tokens(spec)[1, 1], 9, axis=0),
        )
        assert list(ds.id.values) == make_ids(50)


def test_numpy_reads_the_labels(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(50))
    file = cache.path / "annotations" / f"{cache.annotation_digests['label']}.npz"
    with np.load(file) as label:
        np.testing.assert_array_equal(label["train"], make_labels(50))
        assert json.loads(label["column.json"])["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize("compressor", CODECS)
def test_tensorstore_reads_the_same_numbers(tmp_path: Path, compressor: str | None) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    spec = make_spec(50)
    path = make_cache(tmp_path, spec, compressor=compressor).path / "train.zarr" / "tokens"
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, read=True
    ).result()
    assert array.domain.labels == ("layer", "token", "image", "channel")
    np.testing.assert_array_equal(array.read().result(), make_tokens(spec))


def test_tensorstore_opens_every_array_but_those_of_strings(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    group = make_cache(tmp_path, make_spec(50)).path / "train.zarr"
    folders = sorted(file.parent for file in group.glob("*/zarr.json"))
    assert {"id", "token"} < {folder.name for folder in folders}
    for folder in folders:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
        if folder.name in ("id", "token"):  # as the README says
            with pytest.raises(ValueError, match="string data type is not one of the supported"):
                tensorstore.open(spec, read=True).result()
        else:
            tensorstore.open(spec, read=True).result()

"""Caches whose tokens are stored by a codec: written, read, continued, checked and copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layercache.cache import open_cache
from layercache.cache.copy import copy_cache
from layercache.cache.describe import describe
from layercache.cache.format.layout import planned_bytes
from layercache.cache.verify import verify
from layercache.cache.writing.codec import read_codec, store_codec
from layercache.errors import CacheCorruptError, NonFiniteError
from layercache.testing import (
    encode_tokens,
    make_cache,
    make_codec,
    make_spec,
    make_tokens,
    make_writer,
    write_pending,
)

CODECS = ["int8", "pca:3", "pca:3:float16", "pq:4"]
PAIRS = [(12, "ap"), (6, "cls")]


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


@pytest.mark.parametrize("name", CODECS)
def test_codes_are_read_as_decoded_tokens(tmp_path: Path, name: str) -> None:
    spec = make_spec(50, codec=name)
    cache = make_cache(tmp_path, spec)
    split = open_cache(cache.path).split("train")
    codec = make_codec(spec, make_tokens(spec))
    codes = encode_tokens(codec, make_tokens(spec))
    np.testing.assert_array_equal(
        split.read_stored(PAIRS, rows=(3, 20)), codes[[1, 0], [1, 0], 3:20]
    )
    expected = np.stack([codec.decode(codes[1, 1], 1), codec.decode(codes[0, 0], 0)])
    np.testing.assert_array_equal(split.read(PAIRS), expected.astype(np.float16))
    assert cache.spec.schema == 4
    assert make_spec(50).schema == 3
    assert cache.spec.fingerprint != make_spec(50).fingerprint
    assert len(cache.to_numpy("train", tokens="ap", layers="last")) == 50


@pytest.mark.parametrize("name", CODECS)
def test_zarr_alone_decodes_by_the_specification(tmp_path: Path, name: str) -> None:
    """docs/cache-format.md, followed to the letter."""
    import zarr

    spec = make_spec(50, codec=name)
    cache = make_cache(tmp_path, spec, skipped={9: "broken"})
    group = zarr.open_group(cache.path / "train.zarr", mode="r")
    layer, token = 1, 0
    rows = np.flatnonzero(group["valid"][...])
    codes = group["codes"][layer, token][rows]
    kind = group.attrs["codec"].split(":")[0]
    if kind == "pq":
        codebook = group["codebook"][layer]
        x = np.concatenate([codebook[m][codes[:, m]] for m in range(codes.shape[1])], axis=1)
    else:
        x = codes.astype(np.float32)
        if codes.dtype == np.int8:
            x = group["offset"][layer] + group["scale"][layer] * x
    if kind != "int8":
        x = group["mean"][layer] + x @ group["components"][layer]
    np.testing.assert_allclose(x, cache.split("train").read([(12, "cls")])[0], atol=2e-3, rtol=1e-3)
    missing = np.array(spec.missing, codes.dtype)
    np.testing.assert_array_equal(group["codes"][layer, token, 9], np.full_like(codes[0], missing))


@pytest.mark.parametrize("compressor", [None, "zstd"])
def test_a_writer_continues_with_the_stored_codec(tmp_path: Path, compressor: str | None) -> None:
    spec = make_spec(50, codec="int8")
    whole = make_cache(tmp_path / "whole", spec, compressor=compressor)
    codec = store_codec(tmp_path, spec, lambda: make_codec(spec, make_tokens(spec)))
    codes = encode_tokens(codec, make_tokens(spec))
    with make_writer(tmp_path, spec, compressor=compressor) as writer:
        write_pending(writer, codes, stop_after=3)

    def refit() -> None:
        raise AssertionError("fitted twice")

    again = store_codec(tmp_path, spec, refit)  # type: ignore[arg-type]
    with make_writer(tmp_path, spec, compressor=compressor) as writer:
        assert len(writer.pending) == 1
        write_pending(writer, encode_tokens(again, make_tokens(spec)))
        writer.finish()
    for path in (whole.path / "train.zarr").rglob("*"):
        if path.is_file():
            other = writer.path / "train.zarr" / path.relative_to(whole.path / "train.zarr")
            assert other.read_bytes() == path.read_bytes()
    assert (whole.path / "codec.npz").read_bytes() == (writer.path / "codec.npz").read_bytes()


def test_a_lost_or_damaged_codec_of_committed_codes_is_an_error(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(50, codec="pq:2"))
    file = cache.path / "codec.npz"
    data = bytearray(file.read_bytes())
    data[300] ^= 1
    file.write_bytes(data)
    assert [c.path for c in verify(cache.path)] == [file]
    with pytest.raises(CacheCorruptError, match=r"codec\.npz: is damaged, and without it"):
        read_codec(tmp_path, cache.spec)
    with pytest.raises(CacheCorruptError, match=r"codec\.npz"):
        open_cache(cache.path).split("train").read(PAIRS)
    file.unlink()
    with pytest.raises(CacheCorruptError, match=r"codec\.npz: is missing, and without it"):
        read_codec(tmp_path, cache.spec)


def test_a_damaged_codec_without_codes_is_fitted_again(tmp_path: Path) -> None:
    spec = make_spec(50, codec="int8")
    codec = make_codec(spec, make_tokens(spec))
    store_codec(tmp_path, spec, lambda: codec)
    file = next(tmp_path.rglob("codec.npz"))
    good = file.read_bytes()
    file.write_bytes(good[:-5])
    store_codec(tmp_path, spec, lambda: codec)
    assert file.read_bytes() == good


@pytest.mark.parametrize("name", CODECS)
def test_verify_and_copy_know_every_file(tmp_path: Path, name: str) -> None:
    cache = make_cache(tmp_path / "a", make_spec(50, codec=name), splits=["train", "test"])
    assert verify(cache.path) == []
    copied = copy_cache(cache, to=tmp_path / "b")
    assert verify(copied.path) == []
    for path in cache.path.rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            assert (copied.path / path.relative_to(cache.path)).read_bytes() == path.read_bytes()
    shard = next((copied.path / "train.zarr/codes").glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    assert [c.path for c in verify(copied.path)] == [shard]


def test_saturated_codes_are_counted_in_records_and_description(tmp_path: Path) -> None:
    spec = make_spec(50, codec="int8")
    tokens = make_tokens(spec)
    codec = store_codec(tmp_path, spec, lambda: make_codec(spec, tokens))
    tokens[0, 1, 7, 3], tokens[1, 0, 30, :2] = 50, -50
    with make_writer(tmp_path, spec) as writer:
        write_pending(writer, encode_tokens(codec, tokens), skipped={30: "broken"})
        writer.finish()
    split = open_cache(writer.path).split("train")
    assert split.saturated == 1  # those of a skipped image are not stored
    assert describe(open_cache(writer.path))["splits"]["train"]["saturated"] == 1
    assert describe(open_cache(writer.path))["codec"] == "int8"
    assert split.read([(6, "ap")])[0, 7, 3] < 5  # clipped at the range of the sample


def test_a_token_that_is_not_finite_is_not_committed(tmp_path: Path) -> None:
    spec = make_spec(50, codec="pq:4")
    tokens = make_tokens(spec)
    codec = store_codec(tmp_path, spec, lambda: make_codec(spec, tokens))
    tokens[1, 0, 3, 2] = np.nan
    with (
        make_writer(tmp_path, spec) as writer,
        pytest.raises(NonFiniteError, match=r"layer 12, token 'cls', sample 'bilder/é3.png'"),
    ):
        write_pending(writer, encode_tokens(codec, tokens))


def test_planned_bytes_count_codes(tmp_path: Path) -> None:
    spec = make_spec(50, codec="pq:4")
    cache = make_cache(tmp_path, spec)
    shards = (cache.path / "train.zarr/codes").glob("c.*")
    assert planned_bytes(spec, 50) == sum(shard.stat().st_size for shard in shards)

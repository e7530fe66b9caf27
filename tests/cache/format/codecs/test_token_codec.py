"""Codecs in numpy against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from layercache.cache.format.codecs.codec_file import codec_bytes, parse_codec
from layercache.cache.format.codecs.token_codec import count_saturated
from layercache.errors import CacheCorruptError
from layercache.testing import make_codec, make_spec, make_tokens

CODECS = ["int8", "pca:3", "pca:3:float16", "pq:4"]


def tokens_and_codec(name: str, seed: int = 0):
    spec = make_spec(rows=300, codec=name, storage_dtype="float32")
    tokens = make_tokens(spec, seed=seed)
    return spec, tokens, make_codec(spec, tokens)


def test_int8_codes_are_off_by_half_a_step_at_most() -> None:
    _, tokens, codec = tokens_and_codec("int8")
    x = tokens[1, 0]
    decoded = codec.decode(codec.encode(x, 1), 1)
    assert (np.abs(decoded - x) <= codec.tables["scale"][1] * 0.5001).all()
    assert np.abs(codec.encode(x, 1)).max() == 126


def test_pca_decodes_to_the_projection_on_the_components() -> None:
    _, tokens, codec = tokens_and_codec("pca:3:float16")
    x = tokens[0].reshape(-1, 8).astype(np.float64)
    centred = x - x.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    projector = vectors[:, np.argsort(values)[-3:]]
    expected = centred @ projector @ projector.T + x.mean(0)
    decoded = codec.decode(codec.encode(x, 0), 0)
    np.testing.assert_allclose(decoded, expected, atol=5e-3)
    assert np.abs(decoded - codec.decode(codec.encode(x, 1), 1)).max() > 0.1  # another layer's


def test_pq_codes_are_the_nearest_centroids() -> None:
    _, tokens, codec = tokens_and_codec("pq:4")
    x = tokens[0, 0][:20]
    codes = codec.encode(x, 0)
    mean, components = codec.tables["mean"][0], codec.tables["components"][0]
    chosen = np.zeros((20, 8))
    for n in range(20):
        for m in range(4):
            part = ((x[n] - mean) @ components.T)[2 * m : 2 * m + 2]
            distances = np.linalg.norm(codec.tables["codebook"][0, m] - part, axis=1)
            assert distances[codes[n, m]] == pytest.approx(distances.min(), abs=1e-5)
            chosen[n, 2 * m : 2 * m + 2] = codec.tables["codebook"][0, m, codes[n, m]]
    np.testing.assert_allclose(codec.decode(codes, 0), chosen @ components + mean, atol=1e-5)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_token_that_is_not_finite_has_the_code_of_a_missing_one(name: str, value: float) -> None:
    spec, tokens, codec = tokens_and_codec(name)
    x = tokens[0, 0][:3].copy()
    x[1, 5] = value
    codes = codec.encode(x, 0)
    assert np.array_equal(codes[1], np.full(codes.shape[1], spec.missing, codes.dtype), True)
    assert np.array_equal(codes[::2], codec.encode(tokens[0, 0][:3:2], 0))


def test_saturated_codes_are_those_of_values_outside_the_range_of_the_sample() -> None:
    _, tokens, codec = tokens_and_codec("int8")
    x = tokens[0, 0].copy()
    assert count_saturated(codec.encode(x, 0)) == 0
    x[0, 0], x[1, 3] = 100, -100
    codes = codec.encode(x, 0)
    assert count_saturated(codes) == 2
    assert (codes[0, 0], codes[1, 3]) == (127, -127)
    assert count_saturated(np.full(5, 127, np.uint8)) == 0


@pytest.mark.parametrize("name", CODECS)
def test_codec_file_is_read_back_and_a_changed_byte_is_an_error(name: str) -> None:
    spec, _, codec = tokens_and_codec(name)
    data = codec_bytes(codec, spec)
    back = parse_codec(data, spec, where="here")
    assert back.spec == codec.spec
    assert all(np.array_equal(back.tables[k], table) for k, table in codec.tables.items())
    assert codec_bytes(back, spec) == data
    for position in (0, 60, len(data) // 2, len(data) - 3):
        bad = bytearray(data)
        bad[position] ^= 1
        with pytest.raises(CacheCorruptError, match="here: the tables of the codec"):
            parse_codec(bytes(bad), spec, where="here")
    with pytest.raises(CacheCorruptError, match="belongs to another cache"):
        parse_codec(data, replace(spec, weights="cd" * 32), where="here")

"""SplitWriter.write: the tokens of a row block, and those that it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layercache.cache import open_cache
from layercache.errors import NonFiniteError, OptionError
from layercache.testing import make_spec, make_tokens, make_writer, write_pending
from tests.cache.folders import tree

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


def test_write_with_skipped_rows_keeps_their_place_and_records_them(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    tokens[0, 0, 9] = np.inf  # nobody looks at a token that is left out
    with make_writer(tmp_path, spec) as writer:
        write_pending(writer, tokens, skipped={9: "cannot be decoded: truncated", 49: "zero bytes"})
        writer.finish()
    import zarr

    group = zarr.open_group(writer.path / "train.zarr", mode="r")
    valid = np.asarray(group["valid"][...])
    assert np.flatnonzero(~valid).tolist() == [9, 49]
    stored = np.asarray(group["tokens"][...])
    assert np.isnan(stored[:, :, ~valid]).all()
    np.testing.assert_array_equal(stored[:, :, valid], tokens[:, :, valid])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")]
)
def test_write_of_a_token_that_is_not_finite_raises_naming_it(
    tmp_path: Path, dtype: str, precision: str, value: float, word: str
) -> None:
    spec = make_spec(50, storage_dtype=dtype, precision=precision)
    tokens = make_tokens(spec)
    tokens[1, 0, 12, 5] = value
    with make_writer(tmp_path, spec) as writer:
        r = writer.block_rows
        sample = "sample 'bilder/é12.png' of split 'train'"
        text = f"model vit_tiny, layer 12, token 'cls', {sample}: the token is {word}"
        with pytest.raises(NonFiniteError, match=text) as caught:
            write_pending(writer, tokens)
        overflow = dtype == "float16" and word == "infinite"
        assert ("storage dtype float32" in str(caught.value)) == overflow
        assert ("precision fp32" in str(caught.value)) == (
            precision == "bf16"
        )  # never what was asked for already
        assert ("check the checkpoint" in str(caught.value)) == (
            precision == "fp32" and not overflow
        )
        assert writer.pending[0] == 12 // r


def test_write_of_the_largest_float16_commits_it(tmp_path: Path) -> None:
    spec = make_spec(8)
    with make_writer(tmp_path, spec) as writer:
        writer.write(0, np.full((2, 2, 8, 8), 65504, np.float16))
        writer.finish()
    assert (open_cache(writer.path).split("train").read([(6, "ap")]) == 65504).all()


def test_write_of_a_block_that_does_not_fit_raises(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    with make_writer(tmp_path, spec) as writer:
        with pytest.raises(
            OptionError,
            match=r"row block 0 .*expected float16 \(2, 2, 8, 8\).*got float32 \(2, 2, 8, 8\)",
        ):
            writer.write(0, tokens[:, :, :8].astype(np.float32))
        with pytest.raises(
            OptionError,
            match=r"row block 6 .*expected float16 \(2, 2, 2, 8\).*got float16 \(2, 2, 8, 8\)",
        ):
            writer.write(6, tokens[:, :, :8])
        with pytest.raises(OptionError, match=r"row block 7: split 'train' has the blocks 0 to 6"):
            writer.write(7, tokens[:, :, :8])
        with pytest.raises(
            OptionError, match=r"holds rows 8 to 15; skipped rows \[3\] are not in it"
        ):
            writer.write(1, tokens[:, :, 8:16], skipped={3: "why"})
        writer.write(0, tokens[:, :, :8])
        with pytest.raises(OptionError, match=r"row block 0 of split 'train' is already written"):
            writer.write(0, tokens[:, :, :8])


def test_write_after_close_raises(tmp_path: Path) -> None:
    spec = make_spec(50)
    with make_writer(tmp_path, spec) as writer:
        pass
    before = tree(tmp_path)
    with pytest.raises(OptionError, match="the writer of split 'train' is closed"):
        write_pending(writer, make_tokens(spec))
    with pytest.raises(OptionError, match="the writer of split 'train' is closed"):
        writer.finish()
    assert tree(tmp_path) == before


def test_write_of_a_strided_view_commits_its_values(tmp_path: Path) -> None:
    spec = make_spec(8)
    tokens_nltd = np.ascontiguousarray(make_tokens(spec).transpose(2, 0, 1, 3))
    with make_writer(tmp_path, spec) as writer:
        writer.write(0, tokens_nltd.transpose(1, 2, 0, 3))
        writer.finish()
    np.testing.assert_array_equal(
        open_cache(writer.path).split("train").read(PAIRS), make_tokens(spec).reshape(4, 8, 8)
    )

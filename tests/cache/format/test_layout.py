from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache import block_rows, cache_folder, planned_bytes
from layercache.cache.format import layout
from layercache.cache.format.layout import SplitLayout, safe_name
from layercache.errors import UnknownNameError
from layercache.testing import make_spec

LARGE = 10**7


@pytest.mark.parametrize(
    ("layers", "tokens", "width", "dtype", "rows"),
    [
        (12, 2, 384, "float16", 1024),
        (12, 2, 768, "float16", 512),
        (24, 2, 1024, "float16", 256),
        (12, 2, 768, "float32", 256),
        (1, 197, 768, "float16", 64),
    ],
    ids=["ViT-S", "ViT-B", "ViT-L", "ViT-B float32", "all tokens of a layer"],
)
def test_block_rows_is_the_largest_power_of_two_below_32_mib(
    layers: int, tokens: int, width: int, dtype: str, rows: int
) -> None:
    spec = make_spec(
        layers=tuple(range(1, layers + 1)),
        tokens=tuple(f"patch/{i}" for i in range(tokens)),
        width=width,
        storage_dtype=dtype,
    )
    assert block_rows(spec, LARGE) == rows
    item = 2 if dtype == "float16" else 4
    assert (
        layers * tokens * rows * width * item
        < 32 * 2**20
        <= 2 * layers * tokens * rows * width * item
    )


def test_block_rows_of_a_row_above_the_limit_is_one() -> None:
    assert block_rows(make_spec(width=10**8), LARGE) == 1


@given(st.integers(1, 5000))
def test_block_rows_of_a_small_split_pads_less_than_it_holds(rows: int) -> None:
    r = block_rows(make_spec(width=768), rows)
    assert r & (r - 1) == 0
    assert -(-rows // r) * r < 2 * rows


def test_planned_bytes_is_the_size_of_the_shards() -> None:
    lay = SplitLayout(make_spec(rows=50), "train")
    assert (
        planned_bytes(lay.spec, 50)
        == lay.blocks * lay.shard_bytes
        == 4 * (64 * 8 * 2 + 4) + 4 * 16 + 4
    )


def test_spans_of_all_blocks_cover_the_rows_once(small_blocks: int) -> None:
    lay = SplitLayout(make_spec(rows=50), "train")
    assert lay.block_rows == small_blocks
    assert [r for b in range(lay.blocks) for r in range(*lay.span(b))] == list(range(50))


@given(st.text(min_size=1), st.text(min_size=1))
def test_safe_name_of_any_name_is_safe_and_distinct(a: str, b: str) -> None:
    def surrogates(s: str) -> bool:
        return any(0xD800 <= ord(c) < 0xE000 for c in s)

    if surrogates(a) or surrogates(b):
        return
    names = safe_name(a), safe_name(b)
    assert (names[0] == names[1]) == (a == b)
    for name in names:
        assert name not in ("", ".", "..")
        assert not set(name) & set('/\\:*?"<>|\0')


def test_safe_name_of_a_long_name_fits_a_file_system_and_stays_distinct() -> None:
    a, b = (safe_name(f"local-dir:/{'data/' * 60}{end}") for end in "ab")
    assert len(a) == len(b) == 255
    assert a != b
    assert safe_name("a" * 255) == "a" * 255


def test_cache_folder_of_a_model_with_a_slash_is_one_folder() -> None:
    spec = make_spec(model="hf-hub:timm/vit_base")
    assert (
        cache_folder(Path("/c"), spec)
        == Path("/c/shapes/hf-hub%3Atimm%2Fvit_base") / spec.fingerprint[:12]
    )


def test_split_layout_of_an_unknown_split_raises() -> None:
    with pytest.raises(UnknownNameError, match="unknown split 'tset': did you mean test"):
        SplitLayout(make_spec(), "tset")


def test_max_shard_bytes_is_32_mib() -> None:
    assert layout.MAX_SHARD_BYTES == 33_554_432

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layercache.cache.format.layout import SplitLayout
from layercache.cache.storage.local import LocalStore
from layercache.cache.writing.block_writer import BlockWriter
from layercache.cache.writing.partial_block import (
    PartialBlock,
    read_partials,
    remove_partials,
    save_partial,
)
from layercache.testing import make_ids, make_spec, make_tokens, make_writer

SPEC = make_spec(rows=20)
LAYOUT = SplitLayout(SPEC, "train")
TOKENS = make_tokens(SPEC)


def test_partial_block_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for rows in (4, 9):
        save_partial(store, LAYOUT, 0, PartialBlock(TOKENS[:, :, :rows], {2: "gone"}))
    assert len(list((tmp_path / "commits").iterdir())) == 1
    (back,) = read_partials(store, LAYOUT, [0]).values()
    assert back.rows == 9
    assert back.skipped == {2: "gone"}
    np.testing.assert_array_equal(back.tokens, TOKENS[:, :, :9])
    assert back.first(2, start=0).skipped == {}
    np.testing.assert_array_equal(back.first(2, start=0).tokens, TOKENS[:, :, :2])
    remove_partials(store, LAYOUT, [0])
    assert not read_partials(store, LAYOUT, [0])


@pytest.mark.parametrize("at", [0, 30, -1])
def test_partial_block_with_a_changed_byte_or_of_another_cache_counts_as_none(
    tmp_path: Path, at: int
) -> None:
    store = LocalStore(tmp_path)
    save_partial(store, LAYOUT, 0, PartialBlock(TOKENS[:, :, :9], {}))
    other = SplitLayout(make_spec(rows=20, weights="cd" * 32), "train")
    assert not read_partials(store, other, [0])
    file = tmp_path / LAYOUT.partial_block(0)
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    assert not read_partials(store, LAYOUT, [0])


def test_write_of_a_block_removes_its_first_rows(tmp_path: Path) -> None:
    with make_writer(tmp_path, SPEC) as split:
        for _ in range(2):  # saved by this writer, read by another
            writer = BlockWriter(tmp_path, SPEC, "train", ids=make_ids(20))
            if not writer.read_partials([0]):
                writer.save_partial(0, TOKENS[:, :, :9])
        file = split.path / LAYOUT.partial_block(0)  # type: ignore[operator]
        assert file.exists()
        writer.write(0, TOKENS[:, :, : split.block_rows])
        assert not file.exists()

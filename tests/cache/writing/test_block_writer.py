from __future__ import annotations

from pathlib import Path

import pytest

from layercache.cache.writing.block_writer import BlockWriter
from layercache.errors import CacheIncompleteError, OptionError
from layercache.testing import make_cache, make_ids, make_spec, make_tokens, make_writer
from tests.cache.folders import tree


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


def test_split_writer_adopts_blocks_of_other_writers_to_the_same_bytes(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    undisturbed = tree(make_cache(tmp_path / "a", spec, labelled=False).path)
    with make_writer(tmp_path / "b", spec) as writer:
        for block in (6, 0, 3, 1, 2, 5, 4):
            BlockWriter(tmp_path / "b", spec, "train", ids=make_ids(50)).write(
                block, tokens[:, :, 8 * block : 8 * block + 8]
            )
            writer.adopt(block)
        writer.finish()
    assert tree(writer.path) == undisturbed


def test_split_writer_given_a_record_adopts_the_block_without_reading(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    undisturbed = tree(make_cache(tmp_path / "a", spec, labelled=False).path)
    with make_writer(tmp_path / "b", spec) as writer:
        blocks = BlockWriter(tmp_path / "b", spec, "train", ids=make_ids(50))
        for block in (6, 0, 3, 1, 2, 5):
            record = blocks.write(block, tokens[:, :, 8 * block : 8 * block + 8])
            assert blocks.committed([block, 4]) == {block: record}
            (writer.path / f"commits/train/{block:08d}.json").rename(tmp_path / "away")
            writer.adopt(block, record)
            (tmp_path / "away").rename(writer.path / f"commits/train/{block:08d}.json")
        assert writer.pending == (4,)
        assert writer.write(4, tokens[:, :, 32:40]).block == 4
        writer.finish()
    assert tree(writer.path) == undisturbed


def test_block_written_twice_is_committed_once(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    blocks = BlockWriter(tmp_path, spec, "train", ids=make_ids(50))
    with make_writer(tmp_path, spec) as writer:
        first = blocks.write(2, tokens[:, :, 16:24])
        assert blocks.write(2, tokens[:, :, 16:24]) == first
        writer.adopt(2)
        assert 2 not in writer.pending
        with pytest.raises(OptionError, match="row block 2 of split 'train' is already written"):
            writer.write(2, tokens[:, :, 16:24])


def test_adopt_of_a_block_that_is_not_committed_raises(tmp_path: Path) -> None:
    with (
        make_writer(tmp_path, make_spec(50)) as writer,
        pytest.raises(CacheIncompleteError, match=r"row block 4 .* was reported as written"),
    ):
        writer.adopt(4)

from __future__ import annotations

from pathlib import Path

import pytest

from layercache.cache.format.layout import SplitLayout
from layercache.cache.reading.chunks import VERIFIED
from layercache.errors import (
    CacheCorruptError,
)
from layercache.testing import make_cache, make_spec

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


def test_read_verifies_a_chunk_once_and_again_after_its_file_changed(
    tmp_path: Path, small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.reading import chunks

    checked: list[int] = []
    plain = chunks.crc32c

    def counting(data: object, crc: int = 0) -> int:
        checked.append(1)
        return plain(data, crc)

    monkeypatch.setattr(chunks, "crc32c", counting)
    spec = make_spec(50)
    cache = make_cache(tmp_path, spec)
    cache.split("train").read(PAIRS)
    assert checked
    checked.clear()
    cache.split("train").read(PAIRS, rows=(3, 31))
    assert not checked
    shard = cache.path / SplitLayout(spec, "train").shard(1)
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(CacheCorruptError):
        cache.split("train").read(PAIRS)


@pytest.mark.parametrize("compressor", [None, "zstd"])
def test_read_with_the_shard_of_another_block_raises(
    tmp_path: Path, small_blocks: int, compressor: str | None
) -> None:
    spec = make_spec(50, tokens=("cls",))
    split = make_cache(tmp_path, spec, compressor=compressor).split("train")
    lay = SplitLayout(spec, "train")
    (split.path / lay.shard(2)).write_bytes((split.path / lay.shard(1)).read_bytes())
    with pytest.raises(
        CacheCorruptError,
        match=r"tokens/c.0.0.2.0: (layer 6, token 'cls': crc32c does not match|the shard's index)",
    ):
        split.read(PAIRS[:1])


def test_read_with_a_flipped_index_raises(tmp_path: Path, small_blocks: int) -> None:
    spec = make_spec(50)
    split = make_cache(tmp_path, spec).split("train")
    shard = split.path / SplitLayout(spec, "train").shard(2)
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    with pytest.raises(
        CacheCorruptError,
        match=r"tokens/c.0.0.2.0: the shard's index is not the one that was written",
    ):
        split.read(PAIRS[:1])


def test_verified_chunks_of_many_files_stay_bounded() -> None:
    from layercache.cache.reading.chunks import VerifiedChunks

    checked = VerifiedChunks(max_files=10)
    for i in range(100):
        checked.bitmap(i, 3)[0] = 1
    assert checked.bitmap(99, 3)[0] == 1
    assert checked.bitmap(0, 3)[0] == 0
    assert VERIFIED is not checked

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layercache.cache.format import layout
from layercache.cache.format.layout import SplitLayout
from layercache.errors import (
    CacheCorruptError,
    OptionError,
    UnknownNameError,
)
from layercache.testing import make_cache, make_ids, make_labels, make_spec, make_tokens
from tests.cache.folders import folder_in_memory

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


@st.composite
def cases(draw: st.DrawFn) -> tuple:  # type: ignore[type-arg]
    layers = tuple(sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=3))))
    tokens = tuple(
        draw(
            st.sampled_from(
                [("cls",), ("ap",), ("cls", "ap"), ("cls", "ap", "grid:2/0", "grid:2/1")]
            )
        )
    )
    rows = draw(st.integers(1, 40))
    spec = make_spec(
        rows,
        layers=layers,
        tokens=tokens,
        width=draw(st.integers(1, 9)),
        storage_dtype=draw(st.sampled_from(["float16", "float32"])),
    )
    skipped = {
        r: f"reason {r}" for r in draw(st.sets(st.integers(0, rows - 1), max_size=min(5, rows - 1)))
    }
    kept = rows - len(skipped)
    chunks = draw(
        st.lists(
            st.tuples(st.integers(0, kept), st.integers(0, kept)).map(sorted),
            min_size=1,
            max_size=4,
        )
    )
    pairs = draw(
        st.lists(
            st.tuples(st.sampled_from(layers), st.sampled_from(tokens)), min_size=1, max_size=6
        )
    )
    limit = draw(st.sampled_from([1, 600, 3000]))
    return (
        spec,
        skipped,
        pairs,
        chunks,
        draw(st.sampled_from([None, None, "zstd", "blosc"])),
        draw(st.booleans()),
        limit,
    )


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases())
def test_read_of_any_selection_returns_what_was_written(
    case: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[type-arg]
    spec, skipped, pairs, chunks, compressor, verify, limit = case
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", limit)
    tokens = make_tokens(spec)
    kept = np.array([r for r in range(tokens.shape[2]) if r not in skipped])
    expected = np.stack(
        [tokens[spec.layers.index(layer), spec.tokens.index(token)][kept] for layer, token in pairs]
    )
    with folder_in_memory() as folder:
        split = make_cache(folder, spec, skipped=skipped, compressor=compressor).split("train")
        assert split.rows == len(kept)
        assert split.ids == [make_ids(len(tokens[0, 0]))[r] for r in kept]
        np.testing.assert_array_equal(split.labels, make_labels(tokens.shape[2])[kept])
        assert split.skipped == {make_ids(tokens.shape[2])[r]: why for r, why in skipped.items()}
        for start, stop in chunks:
            np.testing.assert_array_equal(
                split.read(pairs, rows=(start, stop), verify=verify), expected[:, start:stop]
            )
        np.testing.assert_array_equal(split.read(pairs, verify=verify), expected)
        blocks = [split.read(pairs, rows=block, verify=verify) for block in split.blocks]
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)


def test_read_into_a_view_changes_nothing_else(tmp_path: Path, small_blocks: int) -> None:
    spec = make_spec(50)
    split = make_cache(tmp_path, spec).split("train")
    buffer = np.full((6, 60, 8), 7, np.float16)
    view = buffer[1:3, 5:45]
    assert split.read([(12, "ap"), (6, "ap")], rows=(3, 43), out=view) is view
    np.testing.assert_array_equal(view, make_tokens(spec)[[1, 0], 1, 3:43])
    buffer[1:3, 5:45] = 7
    assert (buffer == 7).all()


def test_read_into_a_torch_tensor_fills_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    spec = make_spec(50)
    tensor = torch.zeros((4, 50, 8), dtype=torch.float16)
    make_cache(tmp_path, spec).split("train").read(PAIRS, out=tensor.numpy())
    np.testing.assert_array_equal(tensor.numpy(), make_tokens(spec).reshape(4, 50, 8))


@pytest.mark.parametrize(
    "out",
    [
        np.empty((4, 50, 8), np.float32),
        np.empty((4, 49, 8), np.float16),
        np.empty((4, 8, 50), np.float16).transpose(0, 2, 1),
    ],
)
def test_read_into_a_wrong_buffer_raises(tmp_path: Path, out: np.ndarray) -> None:  # type: ignore[type-arg]
    split = make_cache(tmp_path, make_spec(50)).split("train")
    with pytest.raises(
        OptionError,
        match=r"out: expected float16 \(4, 50, 8\), contiguous in its last two axes; got",
    ):
        split.read(PAIRS, out=out)


def test_read_of_what_is_not_stored_raises(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(50))
    split = cache.split("train")
    with pytest.raises(OptionError, match=r"layer 3 is not in .*, which stores 6, 12"):
        split.read([(3, "cls")])
    with pytest.raises(UnknownNameError, match="unknown token 'patch/0'"):
        split.read([(6, "patch/0")])
    with pytest.raises(
        OptionError, match="rows: expected a range within 0 to 50 of split 'train', got 0 to 51"
    ):
        split.read(PAIRS, rows=(0, 51))
    with pytest.raises(UnknownNameError, match="unknown split 'validation'"):
        cache.split("validation")
    assert split.read(PAIRS, rows=(9, 9)).shape == (4, 0, 8)
    assert split.read([]).shape == (0, 50, 8)


def test_labels_of_a_multi_label_dataset_are_uint8_rows(tmp_path: Path) -> None:
    labels = (
        make_cache(tmp_path, make_spec(20), multi_label=True, skipped={3: "why"})
        .split("train")
        .labels
    )
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.delete(make_labels(20, multi_label=True), 3, axis=0))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("compressor", [None, "zstd"])
@pytest.mark.parametrize("damage", ["missing", "cut", "longer"])
def test_read_of_a_missing_or_cut_shard_raises(
    tmp_path: Path, small_blocks: int, damage: str, compressor: str | None, verify: bool
) -> None:
    spec = make_spec(50)
    split = make_cache(tmp_path, spec, compressor=compressor).split("train")
    shard = split.path / SplitLayout(spec, "train").shard(2)
    data = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(data[:-1] if damage == "cut" else data + b"\0")
    with pytest.raises(
        CacheCorruptError, match=r"train\.zarr/tokens/c.0.0.2.0: .*run the same extraction again"
    ):
        split.read(PAIRS[:1], verify=verify)
    np.testing.assert_array_equal(
        split.read(PAIRS[:1], rows=(0, 16), verify=verify)[0], make_tokens(spec)[0, 0, :16]
    )


@pytest.mark.parametrize("compressor", [None, "zstd"])
def test_read_of_a_flipped_byte_raises(
    tmp_path: Path, small_blocks: int, compressor: str | None
) -> None:
    spec = make_spec(50)
    split = make_cache(tmp_path, spec, compressor=compressor).split("train")
    lay = SplitLayout(spec, "train")
    shard = split.path / lay.shard(2)
    data = bytearray(shard.read_bytes())
    data[lay.chunk_stride + 11 if compressor is None else len(data) // 2 - 40] ^= (
        4  # in the second inner chunk: layer 6, ap
    )
    shard.write_bytes(data)
    text = (
        r"tokens/c.0.0.2.0: layer 6, token 'ap': crc32c does not match"
        if compressor is None
        else r"tokens/c.0.0.2.0: .*(checksum|crc32c)"
    )
    with pytest.raises(CacheCorruptError, match=text):
        split.read(PAIRS)
    split.read([(6, "cls"), (12, "cls"), (12, "ap")] if compressor is None else [(6, "cls")])
    with pytest.raises(CacheCorruptError):
        split.read([(6, "ap")], rows=(17, 18))
    if compressor is None:
        split.read([(6, "ap")], verify=False)  # as asked


def test_ids_with_a_flipped_byte_raise(tmp_path: Path) -> None:
    split = make_cache(tmp_path, make_spec(50)).split("train")
    file = split.path / "train.zarr" / "id" / "c" / "0"
    data = bytearray(file.read_bytes())
    data[17] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        CacheCorruptError,
        match=r"train\.zarr/id/c/0: SHA-256 is not the one of the complete record",
    ):
        split.ids  # noqa: B018


def test_read_of_a_selection_reads_only_its_bytes(
    tmp_path: Path, small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.storage.local_file import LocalFile

    spec = make_spec(50)
    split = make_cache(tmp_path, spec).split("train")
    read: list[int] = []
    plain = LocalFile.read_into

    def counting(self: LocalFile, offset: int, buffers: list[np.ndarray]) -> None:  # type: ignore[type-arg]
        read.append(sum(b.nbytes for b in buffers))
        plain(self, offset, buffers)

    monkeypatch.setattr(LocalFile, "read_into", counting)
    lay = SplitLayout(spec, "train")
    split.read([(12, "cls")], rows=(8, 24))
    index = lay.chunks * 16 + 4
    assert sum(read) == 2 * (lay.chunk_stride + index)
    read.clear()
    split.read([(12, "cls")], rows=(9, 12))
    assert sum(read) == 3 * lay.row_bytes

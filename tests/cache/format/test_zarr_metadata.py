from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.dtype import VariableLengthUTF8

from layercache.cache.format.zarr_metadata import decode_ids, encode_ids
from tests.cache.folders import folder_in_memory


def by_zarr(ids: list[str], folder: Path) -> bytes:
    array = zarr.create_array(
        folder,
        shape=(len(ids),),
        chunks=(len(ids),),
        dtype=VariableLengthUTF8(),
        compressors=None,
        fill_value="",
        config={"write_empty_chunks": True},
    )
    array[...] = np.array(ids, dtype=np.dtypes.StringDType())
    return (folder / "c" / "0").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
        min_size=1,
        max_size=20,
    )
)
def test_encode_ids_writes_the_bytes_that_zarr_writes(ids: list[str]) -> None:
    with folder_in_memory() as folder:
        assert encode_ids(ids) == by_zarr(ids, folder / "id")
        assert decode_ids(bytes(encode_ids(ids))) == ids


def test_encode_ids_of_any_alphabet_writes_the_bytes_that_zarr_writes() -> None:
    ids = ["", "a/b.jpg", "Übung 1.png", "猫/🐈.webp"]
    with folder_in_memory() as folder:
        assert encode_ids(ids) == by_zarr(ids, folder / "id")
        assert encode_ids(ids[::-1]) != by_zarr(ids, folder / "other")

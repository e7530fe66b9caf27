"""The Zarr v3 group of a split without its shards: metadata, ids and coordinates.

Arrays: tokens (L, T, N, D); id string (N,); valid bool (N,), False where a
sample was skipped (and everywhere until the split is complete); layer int64 (L,) and token string
(T,), the coordinates that xarray picks up by name. With a codec `tokens` is called `codes`, and the
tables of the codec are arrays of their own, float32 with the layer first.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.format.codecs.token_codec import DIMENSIONS as TABLE_DIMENSIONS
from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import DIMENSIONS, SplitLayout

Array = np.ndarray[Any, np.dtype[Any]]


def write_group(
    folder: Path,
    layout: SplitLayout,
    *,
    ids: list[str],
    compressor: Compressor | None,
    codec: TokenCodec | None = None,
) -> None:
    """Write the group into a new folder, through zarr itself."""
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
    from zarr.core.dtype import VariableLengthUTF8

    spec = layout.spec
    attributes = {
        "layercache_schema": spec.schema,
        "fingerprint": spec.fingerprint,
        "model": spec.model,
        "dataset": spec.dataset.name,
        "split": layout.split,
    }
    if spec.codec:
        attributes["codec"] = spec.codec
    group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    compressors = [compressor.metadata(layout.dtype.itemsize)] if compressor else []
    sharding = ShardingCodec(
        chunk_shape=(1, 1, layout.block_rows, layout.width),
        codecs=[BytesCodec(endian="little"), *compressors, Crc32cCodec()],
        index_codecs=[BytesCodec(endian="little"), Crc32cCodec()],
    )
    group.create_array(
        layout.array,
        shape=layout.shape,
        chunks=layout.shard_shape,
        dtype=layout.dtype,
        serializer=sharding,
        filters=None,
        compressors=None,
        fill_value=layout.missing,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=(*DIMENSIONS[:3], "code") if spec.codec else DIMENSIONS,
    )

    def one_chunk(
        name: str, shape: tuple[int, ...], dtype: Any, dimensions: tuple[str, ...], fill: Any
    ) -> Any:
        return group.create_array(
            name,
            shape=shape,
            chunks=tuple(max(n, 1) for n in shape),
            dtype=dtype,
            compressors=None,
            fill_value=fill,
            dimension_names=dimensions,
            config={"write_empty_chunks": True},
        )

    n = layout.rows
    one_chunk("id", (n,), VariableLengthUTF8(), ("image",), "")
    (folder / "id" / "c").mkdir()
    (folder / "id" / "c" / "0").write_bytes(encode_ids(ids))
    one_chunk("valid", (n,), np.bool_, ("image",), False)
    layers = np.array(spec.layers)
    one_chunk("layer", layers.shape, np.int64, ("layer",), 0)[...] = layers
    for name, table in codec.tables.items() if codec else ():
        one_chunk(name, table.shape, np.float32, TABLE_DIMENSIONS[name], np.nan)[...] = table
    tokens = np.array(spec.tokens, dtype=np.dtypes.StringDType())
    one_chunk("token", tokens.shape, VariableLengthUTF8(), ("token",), "")[...] = tokens


def encode_ids(ids: list[str]) -> bytearray:
    """Return the one chunk of `id`, as zarr's vlen-utf8 codec stores it.

    That codec makes arrays of objects: 250 bytes an id, gigabytes for 14 million.
    """
    chunk = bytearray(len(ids).to_bytes(4, "little"))
    for name in ids:
        text = name.encode()
        chunk += len(text).to_bytes(4, "little")
        chunk += text
    return chunk


def decode_ids(chunk: bytes) -> list[str]:
    """Return the ids that `encode_ids` encoded.

    Raises ValueError if they end early or are not UTF-8.
    """
    ids = []
    start = 4
    for _ in range(int.from_bytes(chunk[:4], "little")):
        length = int.from_bytes(chunk[start : start + 4], "little")
        start += 4
        if start + length > len(chunk):
            raise ValueError(f"expected an id of {length} bytes, the file ends at {len(chunk)}")
        ids.append(chunk[start : start + length].decode())
        start += length
    return ids


def encode_valid(rows: int, skipped: Iterable[int]) -> bytes:
    """Return the one chunk of `valid`, as zarr's bytes codec stores it."""
    valid = np.ones(rows, np.bool_)
    valid[list(skipped)] = False
    return valid.tobytes()

"""The Zarr v3 group of a split without its shards: metadata, labels, ids and coordinates, written and read through zarr itself.

Arrays: tokens (L, T, N, D); label int64 (N,) or uint8 (N, C); id string (N,); valid bool (N,), False where a sample was skipped (and
everywhere until the split is complete); layer int64 (L,) and token string (T,), the coordinates that xarray picks up by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.format.layout import DIMENSIONS, SplitLayout
from layercache.cache.format.records import REMEDY
from layercache.cache.format.shard import Codec
from layercache.cache.storage.base import Store
from layercache.cache.storage.local_file import sync
from layercache.errors import CacheCorruptError, CacheError

Array = np.ndarray[Any, np.dtype[Any]]


def write_group(
    folder: Path, layout: SplitLayout, *, ids: list[str], labels: Array, codec: Codec | None
) -> None:
    """Write the group into a new folder and sync every file and folder of it."""
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
        "classes": list(spec.dataset.classes),
    }
    group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    compressors = [codec.metadata(layout.dtype.itemsize)] if codec else []
    sharding = ShardingCodec(
        chunk_shape=(1, 1, layout.block_rows, spec.width),
        codecs=[BytesCodec(endian="little"), *compressors, Crc32cCodec()],
        index_codecs=[BytesCodec(endian="little"), Crc32cCodec()],
    )
    group.create_array(
        "tokens",
        shape=layout.shape,
        chunks=layout.shard_shape,
        dtype=layout.dtype,
        serializer=sharding,
        filters=None,
        compressors=None,
        fill_value=np.nan,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=DIMENSIONS,
    )

    def small(
        name: str, shape: tuple[int, ...], dtype: Any, dimensions: tuple[str, ...], fill: Any
    ) -> Any:
        chunks = tuple(max(n, 1) for n in shape)
        return group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            compressors=None,
            fill_value=fill,
            dimension_names=dimensions,
            config={"write_empty_chunks": True},
        )

    n = layout.rows
    small("label", labels.shape, labels.dtype, ("image", "class")[: labels.ndim], 0)[...] = labels
    small("id", (n,), VariableLengthUTF8(), ("image",), "")
    (folder / "id" / "c").mkdir()
    (folder / "id" / "c" / "0").write_bytes(id_bytes(ids))
    small("valid", (n,), np.bool_, ("image",), False)
    small("layer", (len(spec.layers),), np.int64, ("layer",), 0)[...] = np.array(spec.layers)
    small("token", (len(spec.tokens),), VariableLengthUTF8(), ("token",), "")[...] = np.array(
        spec.tokens, dtype=np.dtypes.StringDType()
    )
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def id_bytes(ids: list[str]) -> bytearray:
    """The one chunk of `id`, as zarr's vlen-utf8 codec stores it, without its arrays of objects: 250 bytes an id, gigabytes for 14 million."""
    chunk = bytearray(len(ids).to_bytes(4, "little"))
    for i in ids:
        text = i.encode()
        chunk += len(text).to_bytes(4, "little")
        chunk += text
    return chunk


def valid_bytes(rows: int, skipped: list[int]) -> bytes:
    """The one chunk of `valid`, as zarr's bytes codec stores it."""
    valid = np.ones(rows, np.bool_)
    valid[skipped] = False
    return valid.tobytes()


def group_digests(store: Store, layout: SplitLayout) -> dict[str, str]:
    """Key -> SHA-256 of the group's files but the shards."""
    shards = {layout.shard(b) for b in range(layout.blocks)}
    found = store.read_many(key for key in store.list(layout.group) if key not in shards)
    return {key: hashlib.sha256(data).hexdigest() for key, data in found.items()}


def read_labels(store: Store, layout: SplitLayout) -> Array:
    """The array `label`."""
    import zarr

    with store.faults(layout.group):
        return np.asarray(zarr.open_array(**store.zarr(f"{layout.group}/label"), mode="r")[...])


def read_ids(store: Store, layout: SplitLayout) -> list[str]:
    """The array `id`."""
    import zarr

    with store.faults(layout.group):
        return [str(i) for i in zarr.open_array(**store.zarr(f"{layout.group}/id"), mode="r")[...]]


def read_zarr(
    store: Store,
    block: int,
    rows: tuple[int, int],
    layout: SplitLayout,
    wanted: Sequence[tuple[int, Array]],
) -> None:
    """Rows [start, stop) of the split, all in one block, for each (inner chunk, destination (n, D)), whatever the codec. Raises CacheCorruptError."""
    import zarr

    with store.faults(layout.shard(block)):
        array = zarr.open_array(**store.zarr(f"{layout.group}/tokens"), mode="r")
    for k, destination in wanted:
        layer, token = divmod(k, layout.shape[1])
        try:
            with store.faults(layout.shard(block)):
                destination[...] = array[layer, token, rows[0] : rows[1], :]
        except CacheError:
            raise
        except (ValueError, RuntimeError) as e:
            raise CacheCorruptError(f"{store.path(layout.shard(block))}: {e}; {REMEDY}") from None

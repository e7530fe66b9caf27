"""Row blocks of one split, committed one by one: a shard, then the record that says it is there.

A `BlockWriter` holds no lock and begins no split: it works under the lock of a `SplitWriter`, in its process or in others that share its work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layercache.cache.format.layout import SplitLayout, cache_folder
from layercache.cache.format.records import BlockRecord
from layercache.cache.format.shard import Codec, encode, fill_rows, first_non_finite
from layercache.cache.format.spec import CacheSpec
from layercache.cache.storage.base import open_store
from layercache.cache.storage.local import LocalStore
from layercache.cache.storage.paths import CachePath, RemotePath
from layercache.cache.storage.s3 import ObjectStore
from layercache.cache.writing.conditional_commit import claim
from layercache.errors import CacheCorruptError, NonFiniteError, OptionError

Array = np.ndarray[Any, np.dtype[Any]]


class BlockWriter:
    """Commits row blocks of a split that a `SplitWriter` has begun."""

    rows: int
    """N, skipped rows included."""
    block_rows: int
    """R: block b holds the rows b R to min((b + 1) R, N)."""

    def __init__(
        self,
        root: CachePath,
        spec: CacheSpec,
        split: str,
        *,
        ids: list[str],
        codec: str | None = None,
    ) -> None:
        """ids: N names in order, for messages. codec: the one that the split was begun with. Raises OptionError."""
        self._layout = SplitLayout(spec, split)
        self._ids = ids
        self.rows, self.block_rows = self._layout.rows, self._layout.block_rows
        self.codec = Codec(codec) if codec else None
        folder = cache_folder(root, spec)
        if isinstance(folder, RemotePath) and folder.scheme == "hf":
            raise OptionError(
                f"{root}: tokens are extracted to a folder or to s3://; `layercache cache push` then copies them to the Hugging Face Hub"
            )
        self.store = open_store(folder, partial=self._layout.partial)

    def write(
        self, block: int, tokens_ltnd: Array, *, skipped: Mapping[int, str] | None = None
    ) -> BlockRecord:
        """Commit one row block; when this returns, it survives a power cut. Safe to call from several threads and processes.

        Two that commit the same block do no harm where they bring the same bytes: in a folder the later one takes the earlier one's place, on
        object storage the earlier one stays, whatever its bytes (`claim`). Gives the record of what is stored.
        Arguments and errors: see `SplitWriter.write`.
        """
        layout, skipped = self._layout, dict(skipped or {})
        start, stop = self._check_block(block, tokens_ltnd, skipped)
        if bad := first_non_finite(tokens_ltnd, leave_out=[r - start for r in skipped]):
            self._refuse(tokens_ltnd, start, *bad)
        tokens = (
            fill_rows(tokens_ltnd, skipped, start) if skipped else np.ascontiguousarray(tokens_ltnd)
        )
        shard = encode(layout, tokens, codec=self.codec)
        record = BlockRecord(
            fingerprint=layout.spec.fingerprint,
            split=layout.split,
            block=block,
            rows=stop - start,
            bytes=shard.bytes,
            crc32c=f"{shard.crc:08x}",
            index=f"{shard.index_crc:08x}",
            chunks="".join(f"{c:08x}" for c in shard.chunk_crcs),
            skipped={str(r): skipped[r] for r in sorted(skipped)},
        )
        if isinstance(self.store, LocalStore):
            self.store.put_in_order(
                {layout.shard(block): shard.parts, layout.record(block): [record.to_bytes()]}
            )
            return record
        assert isinstance(self.store, ObjectStore)
        return claim(self.store, layout, record, shard.parts, codec=self.codec)

    def committed(self, blocks: Sequence[int]) -> dict[int, BlockRecord]:
        """Return the records of those of `blocks` that are committed: record and shard exist and agree in length."""
        layout, store = self._layout, self.store
        records = store.read_many(layout.record(block) for block in blocks)
        if not records:
            return {}
        sizes = {key: info.size for key, info in store.entries(f"{layout.group}/tokens").items()}
        found = {
            block: committed(
                layout,
                block,
                records.get(layout.record(block)),
                shard_bytes=sizes.get(layout.shard(block)),
            )
            for block in blocks
        }
        return {block: record for block, record in found.items() if record}

    def pending(self, blocks: Sequence[int]) -> tuple[int, ...]:
        """Return those of `blocks` that are not committed."""
        committed_blocks = self.committed(blocks)
        return tuple(block for block in blocks if block not in committed_blocks)

    def record(self, block: int) -> BlockRecord | None:
        """Return the record of a block if it is committed (see `committed`), else None."""
        key, store = self._layout.record(block), self.store
        return committed(
            self._layout,
            block,
            store.read_many([key]).get(key),
            shard_bytes=store.size(self._layout.shard(block)),
        )

    def _check_block(
        self, block: int, tokens_ltnd: Array, skipped: Mapping[int, str]
    ) -> tuple[int, int]:
        layout = self._layout
        if not 0 <= block < layout.blocks:
            raise OptionError(
                f"row block {block}: split {layout.split!r} has the blocks 0 to {layout.blocks - 1}"
            )
        start, stop = layout.span(block)
        shape = (*layout.shape[:2], stop - start, layout.spec.width)
        if tokens_ltnd.shape != shape or tokens_ltnd.dtype != layout.dtype:
            expected, came = (
                f"{layout.dtype} {shape} (layer, token, image, channel)",
                f"{tokens_ltnd.dtype} {tokens_ltnd.shape}",
            )
            raise OptionError(
                f"row block {block} of split {layout.split!r}: expected {expected}, came {came}"
            )
        if outside := [r for r in skipped if not start <= r < stop]:
            raise OptionError(
                f"row block {block} of split {layout.split!r} holds rows {start} to {stop - 1}; skipped rows {outside} are not in it"
            )
        return start, stop

    def _refuse(self, tokens_ltnd: Array, start: int, layer: int, token: int, row: int) -> None:
        spec = self._layout.spec
        value = tokens_ltnd[layer, token, row]
        what = "NaN" if np.isnan(value).any() else "infinite"
        remedies = []
        if what == "infinite" and spec.store_dtype == "float16":
            remedies.append(
                "it may only overflow float16, whose largest value is 65504: try --store-dtype float32"
            )
        if spec.precision != "fp32":
            remedies.append(f"the forward may overflow {spec.precision}: try --precision fp32")
        if not remedies:
            remedies.append(
                "the forward gave no finite number, so look at the checkpoint, or leave the layer out with --layers"
            )
        raise NonFiniteError(
            f"model {spec.model}, layer {spec.layers[layer]}, token {spec.tokens[token]!r}, sample {self._ids[start + row]!r} of split "
            f"{self._layout.split!r}: the token is {what}; {'; '.join(remedies)}"
        )


def committed(
    layout: SplitLayout, block: int, data: bytes | None, *, shard_bytes: int | None
) -> BlockRecord | None:
    """The record of a block, from its bytes, if it is this split's and its shard is as long as it says; else the block is to be done again."""
    if data is None or shard_bytes is None:
        return None
    try:
        record = BlockRecord.from_bytes(data, where=layout.record(block))
    except CacheCorruptError:
        return None
    expected = (layout.spec.fingerprint, layout.split, block, shard_bytes)
    return (
        record
        if (record.fingerprint, record.split, record.block, record.bytes) == expected
        else None
    )

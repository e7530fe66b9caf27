"""Row blocks of one split, committed one by one: a shard, then its record.

A record that exists means that its shard is complete.

A `BlockWriter` holds no lock and begins no split: it works under the lock of a `SplitWriter`, in
its process or in others that share its work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.codecs.token_codec import count_saturated
from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import SplitLayout, cache_folder
from layercache.cache.format.records import BlockRecord
from layercache.cache.format.zarr_shard import blank_rows, encode_shard, first_non_finite
from layercache.cache.storage.base import FileInfo, Store
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.commit import open_commit
from layercache.cache.writing.partial_block import (
    PartialBlock,
    read_partials,
    remove_partials,
    save_partial,
)
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
        compressor: str | None = None,
    ) -> None:
        """Open the split for writing blocks.

        Args:
            root: Root of all caches.
            spec: The cache's.
            split: Name of the split.
            ids: N names in order, for messages.
            compressor: The one that the split was begun with.

        Raises:
            OptionError: The compressor is unknown, or the root is on the Hugging Face Hub.
        """
        self._layout = SplitLayout(spec, split)
        self._ids = ids
        self.rows, self.block_rows = self._layout.rows, self._layout.block_rows
        self.compressor = Compressor(compressor) if compressor else None
        self.commit = open_commit(
            cache_folder(root, spec), self._layout, compressor=self.compressor
        )
        self._partials: set[int] = set()
        """Blocks of which this writer has read or saved the first rows."""

    @property
    def store(self) -> Store:
        """The folder or address of the cache."""
        return self.commit.store

    def write(
        self, block: int, tokens_ltnd: Array, *, skipped: Mapping[int, str] | None = None
    ) -> BlockRecord:
        """Commit one row block; when this returns, it survives a power cut.

        Safe to call from several threads and processes.

        Two that commit the same block do no harm if they bring the same bytes: in a folder the
        later one replaces the earlier one, on object storage the earlier one
        stays in any case. Arguments and errors: see `SplitWriter.write`.

        Returns:
            The record of what is stored.
        """
        layout, skipped = self._layout, dict(skipped or {})
        start, stop = self._check_block(block, tokens_ltnd, skipped)
        bad = first_non_finite(tokens_ltnd, leave_out=[row - start for row in skipped])
        if bad:
            raise self._non_finite_error(tokens_ltnd, start, *bad)
        tokens = (
            blank_rows(tokens_ltnd, skipped, start, missing=layout.missing)
            if skipped
            else np.ascontiguousarray(tokens_ltnd)
        )
        shard = encode_shard(layout, tokens, compressor=self.compressor)
        record = BlockRecord(
            fingerprint=layout.spec.fingerprint,
            split=layout.split,
            block=block,
            rows=stop - start,
            bytes=shard.bytes,
            crc32c=f"{shard.crc:08x}",
            index_crc32c=f"{shard.index_crc:08x}",
            chunk_crc32c="".join(f"{c:08x}" for c in shard.chunk_crcs),
            skipped={str(row): skipped[row] for row in sorted(skipped)},
            saturated=count_saturated(tokens) if layout.dtype == np.int8 else None,
        )
        record = self.commit.commit(record, shard.parts)
        if block in self._partials:
            remove_partials(self.store, layout, [block])
        return record

    def save_partial(
        self, block: int, tokens_ltnd: Array, *, skipped: Mapping[int, str] | None = None
    ) -> None:
        """Save the first n rows of a block, (L, T, n, D); does nothing on object storage.

        Raises:
            StorageError: The disk is full.
        """
        if self.commit.exclusive:
            self._partials.add(block)
            partial = PartialBlock(tokens_ltnd, skipped or {})
            save_partial(self.store, self._layout, block, partial)

    def read_partials(self, blocks: Sequence[int]) -> dict[int, PartialBlock]:
        """Return what `save_partial` has kept of these blocks, perhaps in an earlier process."""
        if not self.commit.exclusive:
            return {}
        partials = read_partials(self.store, self._layout, blocks)
        self._partials |= set(partials)
        return partials

    def committed(
        self, blocks: Sequence[int], *, record_infos: Mapping[str, FileInfo] | None = None
    ) -> dict[int, BlockRecord]:
        """Return the records of those of `blocks` that are committed.

        Record and shard of a committed block exist and agree in size.

        Args:
            blocks: Numbers of row blocks.
            record_infos: Sizes and etags of the records, if the caller has listed them.
        """
        layout, infos = self._layout, record_infos or {}
        records = self.store.read_many(layout.record(block) for block in blocks)
        shards = self.store.list_files(layout.tokens) if records else {}
        committed = {}
        for block in blocks:
            shard = shards.get(layout.shard(block))
            record_info = infos.get(layout.record(block), FileInfo(0))
            record = parse_record(
                layout, block, records.get(layout.record(block)), shard, etag=record_info.etag
            )
            if record:
                committed[block] = record
        return committed

    def record(self, block: int) -> BlockRecord | None:
        """Return the record of a block if it is committed, else None; lists nothing."""
        key = self._layout.record(block)
        shard = self.store.stat(self._layout.shard(block))
        return parse_record(self._layout, block, self.store.read_many([key]).get(key), shard)

    def _check_block(
        self, block: int, tokens_ltnd: Array, skipped: Mapping[int, str]
    ) -> tuple[int, int]:
        layout = self._layout
        if not 0 <= block < layout.blocks:
            raise OptionError(
                f"row block {block}: split {layout.split!r} has the blocks 0 to {layout.blocks - 1}"
            )
        start, stop = layout.span(block)
        shape = (*layout.shape[:2], stop - start, layout.width)
        if tokens_ltnd.shape != shape or tokens_ltnd.dtype != layout.dtype:
            raise OptionError(
                f"row block {block} of split {layout.split!r}: expected {layout.dtype} {shape} "
                "(layer, token, image, channel), "
                f"got {tokens_ltnd.dtype} {tokens_ltnd.shape}"
            )
        if outside := [r for r in skipped if not start <= r < stop]:
            raise OptionError(
                f"row block {block} of split {layout.split!r} holds rows {start} to {stop - 1}; "
                f"skipped rows {outside} are not in it"
            )
        return start, stop

    def _non_finite_error(
        self, tokens_ltnd: Array, start: int, layer: int, token: int, row: int
    ) -> NonFiniteError:
        spec = self._layout.spec
        kind = "NaN" if np.isnan(tokens_ltnd[layer, token, row]).any() else "infinite"
        if spec.codec:
            kind = "not finite"
        remedies = []
        if kind == "infinite" and spec.storage_dtype == "float16":
            remedies.append(
                "it may only overflow float16, whose largest value is 65504: try storage "
                "dtype float32"
            )
        if spec.precision != "fp32":
            remedies.append(f"the forward may overflow {spec.precision}: try precision fp32")
        if not remedies:
            remedies.append(
                "the forward gave no finite number: check the checkpoint, or leave this layer out"
            )
        return NonFiniteError(
            f"model {spec.model}, layer {spec.layers[layer]}, token {spec.tokens[token]!r}, sample "
            f"{self._ids[start + row]!r} of split {self._layout.split!r}: the token is {kind}; "
            f"{'; '.join(remedies)}"
        )


def parse_record(
    layout: SplitLayout,
    block: int,
    data: bytes | None,
    shard: FileInfo | None,
    *,
    etag: str = "",
) -> BlockRecord | None:
    """Return the record of a block if the block is committed.

    None if the record is not this split's, or the shard has not the size that it gives: then the
    block must be written again.

    Args:
        layout: Layout of the split.
        block: Number of the row block.
        data: Bytes of the record, or None if it does not exist.
        shard: Size and etag of the shard, or None if it does not exist.
        etag: Etag of the record, where known.
    """
    if data is None or shard is None:
        return None
    try:
        record = BlockRecord.of_block(data, layout, block, where=layout.record(block))
    except CacheCorruptError:
        return None
    if record.bytes != shard.size:
        return None
    return replace(record, etags=(shard.etag, etag))

"""Names, shapes and chunks on disk: the one place that knows where a file of a cache lies and how long it is.

    ROOT/<dataset>/<model>/<fingerprint, 12 hex>/
        spec.json                    everything that determined the bytes
        <split>.zarr/                a Zarr v3 group: tokens, label, id, valid, layer, token
            tokens/c.0.0.<block>.0   one row block: a shard (L, T, R, D) of inner chunks (1, 1, R, D)
        commits/<split>/00000000.json, ..., complete.json
        commits/<split>.lock         empty; held while the split is written
        partial-<split>/             what is being written; swept by the next writer

Commit records lie beside the group, not in it: zarr and xarray warn about folders of a group that are not nodes.

Shapes: L layers, T token kinds, N images, R images of a row block, D width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

import numpy as np

from layercache.cache.format.spec import CacheSpec
from layercache.cache.storage.paths import CachePath
from layercache.errors import UnknownNameError

SHARD_LIMIT = 32 * 2**20
"""A shard stays below this: above it the allocator maps and unmaps every buffer, and reads halve."""
CRC_BYTES = 4
SPEC_KEY = "spec.json"
DIMENSIONS = ("layer", "token", "image", "channel")


def block_rows(spec: CacheSpec, rows: int) -> int:
    """R: the largest power of two whose shard (L, T, R, D) stays below 32 MiB, and no larger than `rows` needs; at least 1."""
    row = len(spec.layers) * len(spec.tokens) * spec.width * np.dtype(spec.store_dtype).itemsize
    fixed = index_bytes(spec) + len(spec.layers) * len(spec.tokens) * CRC_BYTES
    needed = 1 << max(rows - 1, 0).bit_length()
    r = 1
    while 2 * r <= needed and 2 * r * row + fixed < SHARD_LIMIT:
        r *= 2
    return r


def index_bytes(spec: CacheSpec) -> int:
    """Length of a shard's index: offset and length (uint64) per inner chunk, and its crc32c."""
    return len(spec.layers) * len(spec.tokens) * 16 + CRC_BYTES


def planned_bytes(spec: CacheSpec, rows: int) -> int:
    """Bytes that the tokens of a split of `rows` images will take, uncompressed, padding of the last block included."""
    r = block_rows(spec, rows)
    chunk = r * spec.width * np.dtype(spec.store_dtype).itemsize + CRC_BYTES
    return -(-rows // r) * (len(spec.layers) * len(spec.tokens) * chunk + index_bytes(spec))


def safe_name(name: str) -> str:
    """A folder name for any model or data set name; different names give different folders ("a/b" -> "a%2Fb")."""
    quoted = quote(name, safe=" +,=@()")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def spec_bytes(spec: CacheSpec) -> bytes:
    """The file spec.json."""
    return (
        json.dumps(
            {"fingerprint": spec.fingerprint, **spec.to_json()}, indent=2, ensure_ascii=False
        )
        + "\n"
    ).encode()


def cache_folder(root: CachePath, spec: CacheSpec) -> CachePath:
    """ROOT/<dataset>/<model>/<fingerprint, 12 hex>."""
    return root / safe_name(spec.dataset.name) / safe_name(spec.model) / spec.fingerprint[:12]


@dataclass(frozen=True)
class SplitLayout:
    """Where the files of one split lie (keys relative to the cache's folder, "/" between parts) and how long they are."""

    spec: CacheSpec
    split: str
    """A key of spec.dataset.splits."""

    def __post_init__(self) -> None:
        if self.split not in self.spec.dataset.splits:
            raise UnknownNameError("split", self.split, self.spec.dataset.splits)

    @property
    def name(self) -> str:
        """The split's name, safe as a file name."""
        return safe_name(self.split)

    @property
    def group(self) -> str:
        """The Zarr group."""
        return f"{self.name}.zarr"

    @property
    def commits(self) -> str:
        """Folder of the records."""
        return f"commits/{self.name}"

    @property
    def complete(self) -> str:
        """The record whose existence says that the split is complete."""
        return f"{self.commits}/complete.json"

    @property
    def lock(self) -> str:
        """The lock file."""
        return f"commits/{self.name}.lock"

    @property
    def partial(self) -> str:
        """Folder of what is being written."""
        return f"partial-{self.name}"

    @property
    def valid(self) -> str:
        """The one chunk of the array `valid`."""
        return f"{self.group}/valid/c/0"

    def shard(self, block: int) -> str:
        """The file of row block `block`. Its key has dots: all shards of a split lie in one folder, which is one folder to sync."""
        return f"{self.group}/tokens/c.0.0.{block}.0"

    def record(self, block: int) -> str:
        """The commit record of row block `block`."""
        return f"{self.commits}/{block:08d}.json"

    @cached_property
    def rows(self) -> int:
        """N."""
        return self.spec.dataset.splits[self.split].rows

    @cached_property
    def block_rows(self) -> int:
        """R."""
        return block_rows(self.spec, self.rows)

    @cached_property
    def blocks(self) -> int:
        """Number of row blocks."""
        return -(-self.rows // self.block_rows)

    @cached_property
    def dtype(self) -> np.dtype[np.float16] | np.dtype[np.float32]:
        """Of the tokens."""
        return np.dtype(np.float16) if self.spec.store_dtype == "float16" else np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(L, T, N, D)."""
        return (len(self.spec.layers), len(self.spec.tokens), self.rows, self.spec.width)

    @property
    def shard_shape(self) -> tuple[int, int, int, int]:
        """(L, T, R, D)."""
        return (len(self.spec.layers), len(self.spec.tokens), self.block_rows, self.spec.width)

    @cached_property
    def chunks(self) -> int:
        """Inner chunks of a shard: L T, layer-major."""
        return len(self.spec.layers) * len(self.spec.tokens)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one token."""
        return self.spec.width * self.dtype.itemsize

    @cached_property
    def chunk_stride(self) -> int:
        """Bytes from one inner chunk of an uncompressed shard to the next: R tokens and their crc32c."""
        return self.block_rows * self.row_bytes + CRC_BYTES

    @cached_property
    def shard_bytes(self) -> int:
        """Length of an uncompressed shard."""
        return self.chunks * self.chunk_stride + index_bytes(self.spec)

    def span(self, block: int) -> tuple[int, int]:
        """The rows [start, stop) of a block; the last block is shorter."""
        return block * self.block_rows, min((block + 1) * self.block_rows, self.rows)

"""Names, shapes and sizes of the files of a cache.

    ROOT/<dataset>/<model>/<fingerprint, 12 hex>/
        spec.json                    everything that determined the bytes
        codec.npz                    tables of the codec, if one stores the tokens, see codecs/
        <split>.zarr/                a Zarr v3 group: tokens, id, valid, layer, token
            tokens/c.0.0.<block>.0   one row block: a shard (L, T, R, D) of inner chunks (1, 1, R,
            D); with a codec codes/c.0.0.<block>.0, (L, T, R, W)
        commits/<split>/00000000.json, ..., complete.json
        commits/<split>.lock         empty; held while the split is written
        commits/<split>.00000000.part  first rows of a block that is not full, while it is computed
        commits/<split>.stamps       time of every image's file, until the split is complete
        partial-<split>/             files being written; removed by the next writer
        origins/<digest>.json        where images and weights came from, see origin.py
        annotations/                 labels and other columns, see annotations/column.py
        probes/<id>/                 results that another stage keeps with the tokens, see
                                     result_folders.py

Commit records are next to the group, not in it: zarr and xarray warn about folders of a group that
are not nodes.

Shapes: L layers, T token kinds, N images, R images of a row block, D width, W numbers of a code.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.storage.base import is_plain_key
from layercache.cache.storage.paths import CachePath
from layercache.errors import UnknownNameError

MAX_SHARD_BYTES = 32 * 2**20
"""Maximum size of a shard: above it the allocator maps and unmaps every buffer, which halves the
speed of reading."""
MAX_NAME = 255
"""Longest name of a file on common file systems, in bytes."""
CRC_BYTES = 4
SPEC_KEY = "spec.json"
CODEC_KEY = "codec.npz"
DIMENSIONS = ("layer", "token", "image", "channel")
_BLOCK_FILE = re.compile(r"/(?:c\.0\.0\.(\d{1,15})\.0|(\d{8,15})\.json)$")


def block_rows(spec: CacheSpec, rows: int) -> int:
    """Return R, the number of rows of a block.

    It is the largest power of two whose shard (L, T, R, D) is below 32 MiB, at most what `rows`
    need, at least 1.
    """
    row_bytes = len(spec.layers) * len(spec.tokens) * spec.token_bytes
    fixed = index_bytes(spec) + len(spec.layers) * len(spec.tokens) * CRC_BYTES
    needed = 1 << max(rows - 1, 0).bit_length()
    rows_per_block = 1
    while 2 * rows_per_block <= needed and 2 * rows_per_block * row_bytes + fixed < MAX_SHARD_BYTES:
        rows_per_block *= 2
    return rows_per_block


def index_bytes(spec: CacheSpec) -> int:
    """Return the size of a shard's index.

    It holds offset and length (uint64) per inner chunk, and its own crc32c.
    """
    return len(spec.layers) * len(spec.tokens) * 16 + CRC_BYTES


def planned_bytes(spec: CacheSpec, rows: int) -> int:
    """Return the bytes that the tokens of a split of `rows` images take.

    Uncompressed, with the padding of the last block.
    """
    r = block_rows(spec, rows)
    chunk = r * spec.token_bytes + CRC_BYTES
    return -(-rows // r) * (len(spec.layers) * len(spec.tokens) * chunk + index_bytes(spec))


def safe_name(name: str) -> str:
    """Return a folder name for any model or dataset name ("a/b" -> "a%2Fb").

    Different names give different folders; what exceeds the longest name of a file system is
    replaced by a digest.
    """
    quoted = quote(name, safe=" +,=@()")
    if len(quoted) > MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        quoted = f"{quoted[: MAX_NAME - len(digest) - 1]}~{digest}"
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def spec_bytes(spec: CacheSpec) -> bytes:
    """Return the contents of spec.json."""
    return (
        json.dumps(
            {"fingerprint": spec.fingerprint, **spec.to_json()}, indent=2, ensure_ascii=False
        )
        + "\n"
    ).encode()


def cache_folder(root: CachePath, spec: CacheSpec) -> CachePath:
    """Return ROOT/<dataset>/<model>/<fingerprint, 12 hex>."""
    return root / safe_name(spec.dataset.name) / safe_name(spec.model) / spec.fingerprint[:12]


@dataclass(frozen=True)
class SplitLayout:
    """Keys of the files of one split, relative to the cache's folder, and their sizes."""

    spec: CacheSpec
    split: str
    """A key of spec.dataset.splits."""

    def __post_init__(self) -> None:
        if self.split not in self.spec.dataset.splits:
            raise UnknownNameError("split", self.split, self.spec.dataset.splits)

    @property
    def name(self) -> str:
        """Name of the split, safe as a file name."""
        return safe_name(self.split)

    @property
    def group(self) -> str:
        """Folder of the Zarr group."""
        return f"{self.name}.zarr"

    @property
    def commits(self) -> str:
        """Folder of the records."""
        return f"commits/{self.name}"

    @property
    def complete(self) -> str:
        """Record whose existence means that the split is complete."""
        return f"{self.commits}/complete.json"

    @property
    def lock(self) -> str:
        """Lock file, held while the split is written."""
        return f"commits/{self.name}.lock"

    @property
    def stamps(self) -> str:
        """Stamps of the rows' sources, kept until the split is complete: int64 (N,)."""
        return f"commits/{self.name}.stamps"

    def partial_block(self, block: int) -> str:
        """Return the file with the first rows of a block that is not committed yet."""
        return f"commits/{self.name}.{block:08d}.part"

    @property
    def partial(self) -> str:
        """Folder of files that are being written."""
        return f"partial-{self.name}"

    @property
    def valid(self) -> str:
        """The one chunk of the array `valid`."""
        return f"{self.group}/valid/c/0"

    @property
    def id(self) -> str:
        """The one chunk of the array `id`."""
        return f"{self.group}/id/c/0"

    @property
    def tokens(self) -> str:
        """Folder of the array `tokens`, or `codes`: its metadata and the shards."""
        return f"{self.group}/{self.array}"

    @property
    def array(self) -> str:
        """Name of the array of the tokens: `codes` if a codec stores them."""
        return "codes" if self.spec.codec else "tokens"

    @property
    def tokens_metadata(self) -> str:
        """Zarr metadata of the array of the tokens."""
        return f"{self.tokens}/zarr.json"

    def shard(self, block: int) -> str:
        """Return the file of a row block.

        Its name has dots, so that all shards of a split are in one folder, which is one folder to
        sync.
        """
        return f"{self.tokens}/c.0.0.{block}.0"

    def record(self, block: int) -> str:
        """Return the commit record of a row block."""
        return f"{self.commits}/{block:08d}.json"

    def block_of(self, key: str) -> int | None:
        """Return the row block whose shard or commit record this key is, or None."""
        match = _BLOCK_FILE.search(key)
        if match is None:
            return None
        block = int(match[1] or match[2])
        is_own = block < self.blocks and key in (self.shard(block), self.record(block))
        return block if is_own else None

    def is_small_file(self, key: str) -> bool:
        """Return whether a complete record may list this key: no shard, nothing outside the split.

        It may list the spec, the codec, commit records, and the files of the group that are no
        shards.
        """
        in_group = key.startswith(f"{self.group}/") and is_plain_key(key)
        is_record = self.block_of(key) is not None and key.startswith(f"{self.commits}/")
        is_codec = key == CODEC_KEY and self.spec.codec is not None
        return key == SPEC_KEY or is_codec or is_record or (in_group and self.block_of(key) is None)

    @cached_property
    def rows(self) -> int:
        """N, the number of samples."""
        return self.spec.dataset.splits[self.split].rows

    @cached_property
    def block_rows(self) -> int:
        """R, the number of rows of a block."""
        return block_rows(self.spec, self.rows)

    @cached_property
    def blocks(self) -> int:
        """Number of row blocks."""
        return -(-self.rows // self.block_rows)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored tokens."""
        return self.spec.code_dtype

    @cached_property
    def width(self) -> int:
        """D, or W with a codec: the numbers of a stored token."""
        return self.spec.code_width

    @cached_property
    def missing(self) -> float:
        """Number that stands in the place of a token that does not exist."""
        return self.spec.missing

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the tokens, (L, T, N, D)."""
        return (len(self.spec.layers), len(self.spec.tokens), self.rows, self.width)

    @property
    def shard_shape(self) -> tuple[int, int, int, int]:
        """Shape of a shard, (L, T, R, D)."""
        return (len(self.spec.layers), len(self.spec.tokens), self.block_rows, self.width)

    @cached_property
    def chunks(self) -> int:
        """Number of inner chunks of a shard: L T, layer-major."""
        return len(self.spec.layers) * len(self.spec.tokens)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one token."""
        return self.spec.token_bytes

    @cached_property
    def chunk_stride(self) -> int:
        """Bytes of an inner chunk of an uncompressed shard: R tokens and their crc32c."""
        return self.block_rows * self.row_bytes + CRC_BYTES

    @cached_property
    def shard_bytes(self) -> int:
        """Size of an uncompressed shard in bytes."""
        return self.chunks * self.chunk_stride + index_bytes(self.spec)

    def span(self, block: int) -> tuple[int, int]:
        """Return the rows [start, stop) of a block; the last block may be shorter."""
        return block * self.block_rows, min((block + 1) * self.block_rows, self.rows)

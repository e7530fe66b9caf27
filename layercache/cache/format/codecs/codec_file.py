"""codec.npz of a cache: the tables of its codec, written once before the first code.

The members of the archive are stored uncompressed, with a fixed time, so that equal tables are
equal bytes:

    codec.json        {"codec": "pq:64", "fingerprint": ..., "sha256": {table: SHA-256}}
    <table>.npy       float32, the layer first, see `table_shapes`
"""

from __future__ import annotations

import io
import json
import zipfile
from hashlib import sha256
from typing import Any

import numpy as np

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.codecs.token_codec import TokenCodec, table_shapes
from layercache.cache.format.records import REPAIR_HINT
from layercache.cache.format.typed_json import load_json
from layercache.errors import CacheCorruptError

Array = np.ndarray[Any, np.dtype[Any]]

HEADER = "codec.json"


def codec_bytes(codec: TokenCodec, spec: CacheSpec) -> bytes:
    """Return the file of a codec."""
    members = {}
    for name, table in codec.tables.items():
        member = io.BytesIO()
        np.lib.format.write_array(member, np.ascontiguousarray(table, "<f4"), version=(1, 0))
        members[name] = member.getvalue()
    header = {
        "codec": str(codec.spec),
        "fingerprint": spec.fingerprint,
        "sha256": {name: sha256(data).hexdigest() for name, data in members.items()},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(HEADER), json.dumps(header, sort_keys=True))
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data)
    return buffer.getvalue()


def parse_codec(data: bytes, spec: CacheSpec, *, where: str) -> TokenCodec:
    """Return the codec of a file.

    Args:
        data: Bytes of the file.
        spec: Spec of the cache.
        where: Path of the file, for messages.

    Raises:
        CacheCorruptError: It is not what `codec_bytes` returned for a cache of this spec.
    """
    assert spec.codec is not None
    codec = CodecSpec.parse(spec.codec)
    shapes = table_shapes(codec, layers=len(spec.layers), width=spec.width)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            header = load_json(_read(archive, HEADER))
            if (header["codec"], header["fingerprint"]) != (str(codec), spec.fingerprint):
                raise ValueError("belongs to another cache")
            tables = {
                name: _table(_read(archive, f"{name}.npy"), shape, digest=header["sha256"][name])
                for name, shape in shapes.items()
            }
        codec_file = TokenCodec(codec, tables)
        if codec_bytes(codec_file, spec) != data:
            raise ValueError("is not as it was written")
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, NotImplementedError) as e:
        raise CacheCorruptError(f"{where}: the tables of the codec: {e}; {REPAIR_HINT}") from None
    return codec_file


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


def _table(data: bytes, shape: tuple[int, ...], *, digest: str) -> Array:
    if sha256(data).hexdigest() != digest:
        raise ValueError("a table does not match its checksum")
    member = io.BytesIO(data)
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("unknown version of the array format")
    got = np.lib.format.read_array_header_1_0(member)
    if got != (shape, False, np.dtype("<f4")):
        raise ValueError(f"expected float32 {shape}, got {got[2]} {got[0]}")
    table = np.frombuffer(data, "<f4", offset=member.tell())
    if table.size != np.prod(shape) or not np.isfinite(table).all():
        raise ValueError(f"expected finite numbers {shape}")
    return table.reshape(shape)

"""Folders of the tests: their content, one in memory, and one of an older schema."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from layercache.cache import Cache, CacheSpec
from layercache.cache.format.spec import sha256_json
from layercache.cache.storage.open import open_store
from layercache.cache.writing.result import write_result

PROBE = f"probes/{sha256_json({})[:12]}"
"""Folder of the probe that `write_probe` writes."""


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Make a folder where fsync costs nothing, for tests that make many caches.

    An ordinary folder where there is no such place.
    """
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


def write_probe(cache: Cache, **files: bytes) -> None:
    """Write what the cache knows of a complete probe: a record, and files; by default a head."""
    contents = {name.replace("_", "."): data for name, data in files.items()}
    values = {"fingerprint": cache.spec.fingerprint, "spec": {}}
    write_result(
        open_store(cache.path / PROBE), values, contents or {"head.safetensors": b"weights"}
    )


def make_schema_1_cache(root: Path, spec: CacheSpec) -> Path:
    """A folder as schema 1 wrote it, with `store_dtype` in its spec; returns its path."""
    fields = spec.to_json()
    fields["schema"] = 1
    fields["store_dtype"] = fields.pop("storage_dtype")
    fingerprint = sha256_json({key: value for key, value in fields.items() if key != "model"})
    folder = root / spec.dataset.name / spec.model / fingerprint[:12]
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"fingerprint": fingerprint, **fields}, indent=2))
    return folder

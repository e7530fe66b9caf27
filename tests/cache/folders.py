"""Folders of the tests: their content, one in memory, and one of an older schema."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from layercache.cache import Cache, CacheSpec
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import BlockRecord, CompleteRecord
from layercache.cache.storage.open import open_store
from layercache.cache.writing.result_writer import write_result
from layercache.testing import make_cache

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


def make_schema_2_cache(
    root: Path, spec: CacheSpec, labels: dict[str, np.ndarray], classes: tuple[str, ...]
) -> Path:
    """A complete cache as schema 2 wrote it, with labels in its spec and groups; returns its path.

    Only the train split of `make_cache` is complete.
    """
    new = Path(str(make_cache(root, spec, skipped={3: "broken"}, labelled=False).path))
    layout = SplitLayout(spec, "train")
    fields = spec.to_json()
    fields |= {"schema": 2}
    multi_label = labels["train"].ndim == 2
    fields["dataset"] |= {"classes": list(classes), "multi_label": multi_label}
    for split in fields["dataset"]["splits"].values():
        split["labels"] = "00" * 32
    fingerprint = sha256_json({key: value for key, value in fields.items() if key != "model"})
    folder = new.with_name(fingerprint[:12])
    new.rename(folder)
    (folder / "spec.json").write_text(json.dumps({"fingerprint": fingerprint, **fields}, indent=2))
    files = {}
    for block in range(layout.blocks):
        file = folder / layout.record(block)
        record = BlockRecord.from_bytes(file.read_bytes(), where="")
        file.write_bytes(replace(record, fingerprint=fingerprint).to_bytes())
        files[layout.record(block)] = sha256(file.read_bytes()).hexdigest()
    key = f"{layout.group}/label/c/0{'/0' if multi_label else ''}"
    (folder / key).parent.mkdir(parents=True)
    (folder / key).write_bytes(labels["train"].tobytes())
    files[key] = sha256(labels["train"].tobytes()).hexdigest()
    file = folder / layout.complete
    complete = CompleteRecord.from_bytes(file.read_bytes(), where="")
    complete = replace(complete, fingerprint=fingerprint, files={**complete.files, **files})
    file.write_bytes(complete.to_bytes())
    return folder

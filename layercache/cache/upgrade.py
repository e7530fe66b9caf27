"""A cache of schema 2 as one of the current schema, without a forward.

Schema 2 had the labels in its fingerprint and in the Zarr groups. Tokens are the same files: they
are linked, or copied where the file system has no hard links, so the old folder stays whole.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from layercache.cache.annotations.label import label_column, record_label
from layercache.cache.cache import Cache, load_cache
from layercache.cache.format.cache_spec import SCHEMA, UPGRADABLE, CacheSpec, sha256_json
from layercache.cache.format.layout import SPEC_KEY, SplitLayout
from layercache.cache.format.records import BlockRecord
from layercache.cache.format.typed_json import load_json
from layercache.cache.format.zarr_metadata import decode_ids
from layercache.cache.origin_records import read_origins, record_origin
from layercache.cache.storage.local import LocalStore
from layercache.cache.writing.split_writer import SplitWriter
from layercache.errors import CacheCorruptError, CacheNotFoundError, OptionError

logger = logging.getLogger(__name__)


def upgrade_cache(path: str | Path) -> Cache:
    """Make a cache of the current schema from one of schema 2, next to it.

    Complete splits, labels and origins are taken over; incomplete splits begin again, and probes
    are trained again, since their specification changes. An upgrade that was stopped continues when
    it is called again. The old folder is left as it is.

    Args:
        path: Folder of the cache, ROOT/<dataset>/<model>/<fingerprint>.

    Returns:
        The new cache.

    Raises:
        CacheNotFoundError: The folder is no cache.
        OptionError: The cache has another schema.
        CacheCorruptError: A file is damaged.
    """
    old = Path(path).expanduser().absolute()
    source = LocalStore(old)
    try:
        fields = load_json(source.read(SPEC_KEY))
    except (FileNotFoundError, NotADirectoryError):
        raise CacheNotFoundError(f"{old} is not a cache: it has no {SPEC_KEY}") from None
    except ValueError as e:
        raise CacheCorruptError(f"{old / SPEC_KEY}: not the spec of a cache: {e}") from None
    spec, classes, multi_label = _upgrade_spec(old, fields)
    root = old.parents[2]
    labels: dict[str, np.ndarray[Any, Any]] = {}
    ids: dict[str, list[str]] = {}
    records: dict[str, dict[str, Any]] = {}
    for split in spec.dataset.splits:
        layout = SplitLayout(spec, split)
        if source.stat(layout.complete) is None:
            logger.warning("%s: split %s is not complete, and begins again", old, split)
            continue
        records[split] = load_json(source.read(layout.complete))
        ids[split] = decode_ids(_read(source, layout.id, records[split]))
        labels[split] = _read_labels(source, layout, records[split], classes, multi_label)
    if not records:
        raise OptionError(
            f"{old}: expected a complete split, got none: extract it again, and delete this folder"
        )
    for split, complete in records.items():
        layout = SplitLayout(spec, split)
        compressor = complete["compressor"]
        with SplitWriter(root, spec, split, ids=ids[split], compressor=compressor) as writer:
            target = LocalStore(Path(str(writer.path)), temporary=layout.partial)
            column = label_column(labels, classes=classes, splits=spec.dataset.splits)
            record_label(target, column)
            for block in writer.pending:
                record = _read_record(source, layout, block, fingerprint=fields["fingerprint"])
                _link(old / layout.shard(block), target.path(layout.shard(block)))
                target.put(layout.record(block), [record.to_bytes()])
                writer.adopt(block)
            writer.finish()
    for origin in read_origins(source):
        record_origin(target.root, origin)
    return load_cache(target.root)


def _upgrade_spec(old: Path, fields: Mapping[str, Any]) -> tuple[CacheSpec, tuple[str, ...], bool]:
    """Return the spec of the new cache, the class names, and whether labels are 0/1 per class."""
    try:
        schema = fields["schema"]
        intact = {k: v for k, v in fields.items() if k not in ("fingerprint", "model")}
        if schema != UPGRADABLE:
            raise OptionError(
                f"{old}: expected a cache of schema {UPGRADABLE}, got schema {schema}"
                + (": it needs no upgrade" if schema == SCHEMA else "")
            )
        if sha256_json(intact) != fields["fingerprint"]:
            raise CacheCorruptError(
                f"{old / SPEC_KEY}: does not have the fingerprint that it gives"
            )
        dataset = dict(fields["dataset"])
        classes, multi_label = tuple(dataset.pop("classes")), bool(dataset.pop("multi_label"))
        dataset["splits"] = {
            name: {key: value for key, value in split.items() if key != "labels"}
            for name, split in dataset["splits"].items()
        }
        values = {k: v for k, v in fields.items() if k != "fingerprint"}
        spec = CacheSpec.from_json({**values, "dataset": dataset, "schema": SCHEMA})
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        if isinstance(e, OptionError):
            raise
        raise CacheCorruptError(f"{old / SPEC_KEY}: not the spec of a cache: {e!r}") from None
    return spec, classes, multi_label


def _read(source: LocalStore, key: str, complete: Mapping[str, Any]) -> bytes:
    """Return a file that has the digest of the complete record."""
    try:
        data = source.read(key)
    except FileNotFoundError:
        data = b""
    if sha256(data).hexdigest() != complete["files"].get(key):
        raise CacheCorruptError(
            f"{source.path(key)}: differs from the complete record: the cache cannot be "
            "upgraded; extract it again"
        )
    return data


def _read_labels(
    source: LocalStore,
    layout: SplitLayout,
    complete: Mapping[str, Any],
    classes: tuple[str, ...],
    multi_label: bool,
) -> np.ndarray[Any, Any]:
    """Return int64 (N,), or uint8 (N, C) if multi-label."""
    data = _read(source, f"{layout.group}/label/c/0{'/0' if multi_label else ''}", complete)
    if multi_label:
        return np.frombuffer(data, np.uint8).reshape(layout.rows, len(classes))
    return np.frombuffer(data, "<i8")


def _read_record(
    source: LocalStore, layout: SplitLayout, block: int, *, fingerprint: str
) -> BlockRecord:
    """Return the record of a row block for the new cache."""
    where = str(source.path(layout.record(block)))
    record = BlockRecord.from_bytes(source.read(layout.record(block)), where=where)
    if record.fingerprint != fingerprint:
        raise CacheCorruptError(
            f"{where}: belongs to another cache: the cache cannot be upgraded; extract it again"
        )
    return replace(record, fingerprint=layout.spec.fingerprint)


def _link(source: Path, target: Path) -> None:
    """Make a file appear under another path, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:  # another file system, or one without hard links
            temporary = target.with_name(f"{target.name}.part")
            shutil.copyfile(source, temporary)
            temporary.replace(target)


def describe_upgrade(old: str | Path, new: Cache) -> str:
    """Return what was done and what is left to do."""
    return (
        f"{new.path}: upgraded to schema {SCHEMA}, no forward; check it with `layercache cache "
        f"verify {quote(str(new.path))}`, then delete {old}. Probes are trained again"
    )

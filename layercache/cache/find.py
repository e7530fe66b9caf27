"""Finding and opening caches."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from layercache.cache.format.layout import SPEC_KEY, SplitLayout, cache_folder, safe_name
from layercache.cache.format.records import REMEDY, CompleteRecord
from layercache.cache.format.spec import CacheSpec
from layercache.cache.reading.split import Split
from layercache.cache.storage.base import Store, open_store
from layercache.cache.storage.paths import CachePath, RemotePath, as_place
from layercache.cache.storage.threads import in_threads
from layercache.errors import (
    CacheAmbiguousError,
    CacheCorruptError,
    CacheIncompleteError,
    CacheNotFoundError,
    OptionError,
)

__all__ = [
    "HOME",
    "OTHER_OPTIONS",
    "Cache",
    "Split",
    "cache_folders",
    "cache_root",
    "extract_command",
    "find_caches",
    "load_cache",
    "matching_caches",
    "open_cache",
]

HOME = "LAYERCACHE_HOME"
OTHER_OPTIONS = "(with the other options it was begun with)"
"""Belongs behind `extract_command` where it continues what was begun."""
_BRIEF = 60


def cache_root(path: str | CachePath | None = None) -> CachePath:
    """The place of all caches: `path` (--cache), else $LAYERCACHE_HOME, else the user cache folder of the platform.

    A folder, or an address such as s3://bucket/prefix. Raises OptionError if that is a file, or no address.
    """
    home = os.environ.get(HOME)
    if path is None and not home:
        import platformdirs

        return Path(platformdirs.user_cache_dir("layercache"))
    root = as_place(path or home or "")
    if isinstance(root, Path) and root.is_file():
        raise OptionError(
            f"{'--cache' if path is not None else '$' + HOME}: expected the folder of all caches, {root} is a file"
        )
    return root


@dataclass(frozen=True)
class Cache:
    """One cache: the tokens of one backbone on one data set."""

    path: CachePath
    """ROOT/<dataset>/<model>/<fingerprint, 12 hex>."""
    spec: CacheSpec
    """What determined its bytes."""

    @cached_property
    def store(self) -> Store:
        """Where its bytes lie."""
        return open_store(self.path)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were begun, complete or not, in the data set's order."""
        return tuple(
            s
            for s in self.spec.dataset.splits
            if self.store.has_folder(SplitLayout(self.spec, s).group)
        )

    @property
    def begun(self) -> bool:
        """Whether anything is committed."""
        return any(key.endswith(".json") for key in self.store.entries("commits"))

    def progress(self, split: str) -> tuple[int, int]:
        """Row blocks with a commit record, and row blocks in all."""
        layout = SplitLayout(self.spec, split)
        there = self.store.entries(layout.commits)
        return sum(layout.record(b) in there for b in range(layout.blocks)), layout.blocks

    def complete(self, split: str) -> bool:
        """Whether the split has its complete record."""
        return self.store.size(SplitLayout(self.spec, split).complete) is not None

    def split(self, name: str) -> Split:
        """A complete split. Raises UnknownNameError, CacheIncompleteError (saying how to go on), CacheCorruptError."""
        layout = SplitLayout(self.spec, name)
        store = self.store
        try:
            data = store.read(layout.complete)
        except FileNotFoundError:
            done, blocks = self.progress(name)
            raise CacheIncompleteError(
                f"{self.path}: split {name!r} is incomplete: {done} of {blocks} row blocks are there. To continue, run the same extraction again: "
                f"{extract_command(self)} {OTHER_OPTIONS}"
            ) from None
        where = str(store.path(layout.complete))
        complete = CompleteRecord.from_bytes(data, where=where)
        if (complete.fingerprint, complete.split, complete.rows) != (
            self.spec.fingerprint,
            name,
            layout.rows,
        ):
            raise CacheCorruptError(
                f"{where}: belongs to another cache or split ({complete.fingerprint[:12]}, {complete.split!r}); {REMEDY}"
            )
        return Split(layout, store, complete)


def load_cache(path: CachePath) -> Cache:
    """The cache in a folder. Raises CacheNotFoundError, CacheCorruptError (its spec does not have the fingerprint that it gives)."""
    file = path / SPEC_KEY
    try:
        value = json.loads(open_store(path).read(SPEC_KEY))
        fingerprint = value.pop("fingerprint")
        spec = CacheSpec.from_json(value)
    except (FileNotFoundError, NotADirectoryError):
        raise CacheNotFoundError(f"{path} is no cache: it has no {SPEC_KEY}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CacheCorruptError(f"{file}: not a cache's spec ({e!r}); {REMEDY}") from None
    if spec.fingerprint != fingerprint:
        raise CacheCorruptError(
            f"{file}: the spec's fingerprint is {spec.fingerprint[:12]}, the file says {str(fingerprint)[:12]}; {REMEDY}"
        )
    return Cache(path, spec)


def cache_folders(
    root: CachePath, *, model: str | None = None, dataset: str | None = None
) -> list[CachePath]:
    """Where the caches below a root lie, sorted. The row blocks of none are listed: only folders, level by level."""
    if isinstance(root, Path):
        return list[CachePath](
            sorted(p.parent for p in root.glob(f"{_glob(dataset)}/{_glob(model)}/*/{SPEC_KEY}"))
        )
    return sorted(_remote_folders(root, model=model, dataset=dataset), key=str)


def _remote_folders(
    root: RemotePath, *, model: str | None, dataset: str | None
) -> list[RemotePath]:
    store = open_store(root)
    found: list[str] = ["."]
    for name in (dataset, model, None, SPEC_KEY):
        if name is not None:
            found = [f"{folder}/{safe_name(name)}".removeprefix("./") for folder in found]
            continue
        below: list[str] = []
        in_threads(
            lambda folder: below.extend(  # noqa: B023
                f"{folder}/{n}".removeprefix("./") for n in store.folders(folder)
            ),
            found,
            threads=store.requests,
        )
        found = below
    return [root / key.rpartition("/")[0] for key in store.read_many(found)]


def find_caches(
    root: CachePath, model: str | None = None, dataset: str | None = None
) -> list[Cache]:
    """All caches below a root, or those of a model or data set. Raises CacheCorruptError if a spec is not readable."""
    folders = cache_folders(root, model=model, dataset=dataset)
    found: dict[CachePath, Cache] = {}
    in_threads(
        lambda folder: found.__setitem__(folder, load_cache(folder)),
        folders,
        threads=open_store(root).requests,
    )
    return [found[folder] for folder in folders]


def matching_caches(
    root: CachePath,
    *,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
) -> list[Cache]:
    """As `find_caches`, of the fingerprints that begin so. One into which a run that failed committed nothing counts only if no other matches."""
    found = [
        c
        for c in find_caches(root, model, dataset)
        if c.spec.fingerprint.startswith(fingerprint or "")
    ]
    return ([c for c in found if c.begun] or found) if len(found) > 1 else found


def open_cache(
    path: str | CachePath | None = None,
    *,
    root: str | CachePath | None = None,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
) -> Cache:
    """The cache in a folder, or the one that matches among those below the root. `fingerprint`: its first digits.

    Raises CacheNotFoundError if none matches, CacheAmbiguousError (listing them, and what differs) if several do, CacheCorruptError.
    """
    if path is not None:
        return load_cache(as_place(path))
    base = cache_root(root)
    found = matching_caches(base, model=model, dataset=dataset, fingerprint=fingerprint)
    if len(found) == 1:
        return found[0]
    asked = (
        ", ".join(
            f"{k} {v!r}"
            for k, v in {"model": model, "dataset": dataset, "fingerprint": fingerprint}.items()
            if v
        )
        or "any model and data set"
    )
    if not found:
        there = sorted({f"{c.spec.model} on {c.spec.dataset.name}" for c in find_caches(base)})
        raise CacheNotFoundError(
            f"no cache of {asked} below {base}; there is {', '.join(there) or 'none'}. Make one with: layercache extract"
        )
    lines = "\n".join(f"  {c.path}: {_differing(c, found)}" for c in found)
    raise CacheAmbiguousError(
        f"{len(found)} caches below {base} match {asked}; choose one by its path, or by model, data set or fingerprint:\n{lines}"
    )


def extract_command(
    cache: Cache, *, model: str | None = None, layers: str | None = None, tokens: str | None = None
) -> str:
    """The command that made a cache, or one like it of another model, with other layers or tokens.

    As far as its spec tells: where the checkpoint and the images lie it does not, see OTHER_OPTIONS.
    """
    s, root = cache.spec, cache.path.parent.parent.parent
    kinds = list(dict.fromkeys(t.split("/")[0] for t in s.tokens))
    if "patch" in kinds:  # the word "all" is every patch and the class token
        kinds = [k for k in kinds if k not in ("cls", "patch")] + ["all"]
    options = {
        "--model": model or s.model,
        "--dataset": s.dataset.name,
        "--limit": s.dataset.limit,
        "--seed": s.dataset.limit_seed or None,
        "--tap": s.tap if s.tap != "norm2" else None,
        "--layers": layers
        or (",".join(map(str, s.layers)) if s.layers != tuple(range(1, s.depth + 1)) else None),
        "--tokens": tokens or ("+".join(kinds) if kinds != ["cls", "ap"] else None),
        "--precision": s.precision if s.precision != "fp32" else None,
        "--store-dtype": s.store_dtype if s.store_dtype != "float16" else None,
        "--cache": root if cache.path == cache_folder(root, s) and root != cache_root() else None,
    }
    words = [
        word
        for option, value in options.items()
        if value is not None
        for word in (option, shlex.quote(str(value)))
    ]
    return " ".join(["layercache extract", *words, *(["--projected"] if s.projected else [])])


def _glob(name: str | None) -> str:
    return "*" if name is None else safe_name(name)


def _differing(cache: Cache, among: Sequence[Cache]) -> str:
    flat = [_flatten(c.spec.to_json()) for c in among]
    mine = _flatten(cache.spec.to_json())
    keys = [k for k in mine if len({json.dumps(f.get(k), sort_keys=True) for f in flat}) > 1]
    return (
        ", ".join(f"{k} {_brief(k, mine[k])}" for k in keys if not k.startswith("dataset.splits"))
        or "the data set's samples differ"
    )


def _brief(key: str, value: Any) -> str:
    """A value of a spec in few characters."""
    if key == "weights":
        return str(value)[:12]
    if key == "tokens":
        return "+".join(dict.fromkeys(token.split("/")[0] for token in value))
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _BRIEF else text[:_BRIEF] + ".."


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v
        for name, inner in value.items()
        for k, v in _flatten(inner, f"{prefix}.{name}" if prefix else name).items()
    }

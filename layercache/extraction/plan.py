"""What an extraction will do, before it does it: the caches, what of them is missing, and whether the disk can hold it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from layercache.cache.layout import SplitLayout, cache_folder, planned_bytes
from layercache.cache.reader import cache_root, open_cache
from layercache.cache.records import BlockRecord
from layercache.cache.spec import CacheSpec, DatasetIdentity
from layercache.cache.store import LocalStore
from layercache.errors import CacheError, OptionError, StorageError, UnknownNameError
from layercache.extraction import datasets
from layercache.extraction.backbones import Backbone, load_backbone
from layercache.extraction.datasets.contract import Dataset
from layercache.extraction.options import ExtractOptions
from layercache.extraction.result import human

ASK_ABOVE = 20 << 30
"""Bytes of cache above which `extract` asks first."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One model's cache of the data set."""

    backbone: Backbone
    spec: CacheSpec
    path: Path
    """The cache's folder."""
    todo: tuple[str, ...]
    """Splits without a complete record."""
    littered: tuple[str, ...]
    """Complete splits whose writer was killed after its last commit: its temporary files and its name in the lock are still there."""

    @property
    def missing_bytes(self) -> int:
        """What is still to be written, uncompressed."""
        return sum(max(0, planned_bytes(self.spec, self.spec.dataset.splits[s].rows) - size_on_disk(self.path, self.spec, s)) for s in self.todo)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done."""

    dataset: Dataset
    """As limited."""
    splits: tuple[str, ...]
    """Asked for, in order."""
    root: Path
    """Folder of the caches."""
    device: str
    """"cpu" or "cuda"."""
    why_device: str
    """For the user."""
    batch_size: int
    targets: tuple[Target, ...]
    """One per model, in the order asked for."""

    @property
    def missing_bytes(self) -> int:
        """What is still to be written for all models, uncompressed."""
        return sum(target.missing_bytes for target in self.targets)

    def check_room(self) -> None:
        """Raises StorageError if the disk is too small for what is missing."""
        folder = next(p for p in (self.root, *self.root.parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if self.missing_bytes > free:
            raise StorageError(
                f"{self.root}: the cache needs {human(self.missing_bytes)} more and the disk has {human(free)} free: "
                "make room, choose another disk with --cache, or store less (--layers, --tokens, --limit)"
            )


def make_plan(options: ExtractOptions) -> Plan:
    """Open the data set, load the backbones, look for what is there. Raises whatever is wrong with a name, a file or an option."""
    device, why = choose_device(options.device)
    dataset = options.dataset
    if isinstance(dataset, str):
        dataset = datasets.open_dataset(dataset, root=options.data_root, download=options.download)
    for split in options.splits:
        if split not in dataset.splits:
            raise UnknownNameError(f"split of data set {dataset.name}", split, dataset.splits)
    splits = tuple(options.splits) or dataset.splits
    dataset = datasets.limit(dataset, options.limit, seed=options.seed)
    root = cache_root(options.cache)
    backbones = [_load(options, model, device) for model in options.models]
    identity = datasets.identity(dataset, options.limit, seed=options.seed)
    targets = tuple(_target(backbone, identity, root, splits) for backbone in backbones)
    if len({target.path for target in targets}) < len(targets):
        raise OptionError(f"models: {', '.join(options.models)} name one cache twice")
    batch_size = options.batch_size or (64 if device == "cpu" else 256)
    return Plan(dataset=dataset, splits=splits, root=root, device=device, why_device=why, batch_size=batch_size, targets=targets)


def choose_device(asked: str) -> tuple[str, str]:
    """("cpu" or "cuda", why). Raises OptionError for a GPU that is not there."""
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise OptionError("device cuda: torch sees no GPU here; use --device cpu (or auto)")
    if asked != "auto":
        return asked, "as asked"
    return ("cuda", torch.cuda.get_device_name()) if there else ("cpu", "no GPU found")


def size_on_disk(path: Path, spec: CacheSpec, split: str) -> int:
    """Bytes of the files of one split's Zarr group."""
    group = path / SplitLayout(spec, split).group
    return sum(file.stat().st_size for file in group.rglob("*") if file.is_file())


def _load(options: ExtractOptions, model: str, device: str) -> Backbone:
    return load_backbone(
        model,
        weights=options.weights.get(model),
        tap=options.tap,
        layers=options.layers,
        tokens=options.tokens,
        projected=options.projected,
        precision=options.precision,
        store_dtype=options.store_dtype,
        device=device,
        compile=options.compile,
        paper_compat=options.paper_compat,
    )


def _target(backbone: Backbone, identity: DatasetIdentity, root: Path, splits: Sequence[str]) -> Target:
    spec = CacheSpec(
        model=backbone.name,
        architecture=backbone.architecture,
        weights=backbone.digest,
        depth=backbone.depth,
        width=backbone.width,
        tap=backbone.tap,
        layers=backbone.layers,
        tokens=backbone.tokens,
        projected=backbone.projected,
        preprocessing=backbone.preprocessing.to_json(),
        precision=backbone.precision,
        store_dtype=backbone.store_dtype,
        dataset=identity,
    )
    path = cache_folder(root, spec)
    complete = [split for split in splits if _complete(path, spec, split)]
    return Target(
        backbone=backbone,
        spec=spec,
        path=path,
        todo=tuple(split for split in splits if split not in complete),
        littered=tuple(split for split in complete if _littered(path, SplitLayout(spec, split))),
    )


def _complete(path: Path, spec: CacheSpec, split: str) -> bool:
    """The split has its complete record, and every shard its length: a lost file is made again rather than believed in."""
    try:
        open_cache(path).split(split)
    except CacheError:
        return False  # absent, begun or damaged: the writer looks closer
    store, layout = LocalStore(path), SplitLayout(spec, split)
    return all(_whole(store, layout, block) for block in range(layout.blocks))


def _littered(path: Path, layout: SplitLayout) -> bool:
    return bool(LocalStore(path).size(layout.lock)) or (path / layout.partial).exists()


def _whole(store: LocalStore, layout: SplitLayout, block: int) -> bool:
    """The row block's file is as long as its record says."""
    key = layout.record(block)
    try:
        record = BlockRecord.from_bytes(store.read(key), where=key)
    except (CacheError, FileNotFoundError):
        return False
    return store.size(layout.shard(block)) == record.bytes

"""An opened cache: its splits, how complete they are, and the command that makes one like it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercache.cache.annotations.column import AnnotationColumn
from layercache.cache.annotations.frame import annotation_frame
from layercache.cache.annotations.index import LABEL, AnnotationIndex, read_column, read_index
from layercache.cache.arrays import TokenArrays
from layercache.cache.format.cache_spec import (
    CODEC_SCHEMA,
    SCHEMA,
    UPGRADABLE,
    CacheSpec,
    sha256_json,
)
from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import SPEC_KEY, SplitLayout, cache_folder
from layercache.cache.format.origin import Origin, dataset_name
from layercache.cache.format.records import REPAIR_HINT, CompleteRecord
from layercache.cache.format.token_names import kind_words
from layercache.cache.format.typed_json import load_json
from layercache.cache.origin_records import read_origins
from layercache.cache.reading.split import Split
from layercache.cache.storage.base import FileSource, Store
from layercache.cache.storage.open import open_source, open_store
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    CacheNotFoundError,
    CacheSchemaError,
    OptionError,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cache(TokenArrays):
    """One cache: the tokens of one backbone on one dataset."""

    path: CachePath
    """ROOT/<dataset>/<model>/<fingerprint, 12 hex>."""
    spec: CacheSpec
    """Everything that determined its bytes."""

    @cached_property
    def files(self) -> FileSource:
        """Its files, to list and to read whole; also of a cache on the Hugging Face Hub."""
        return open_source(self.path)

    @cached_property
    def store(self) -> Store:
        """Its folder or object store, to read ranges and to write.

        Raises OptionError for a cache on the Hugging Face Hub.
        """
        return open_store(self.path)

    @cached_property
    def origins(self) -> tuple[Origin, ...]:
        """Sources it was extracted from, those that still exist first; empty if not recorded."""
        return read_origins(self.files)

    @property
    def source(self) -> str | None:
        """Source of its dataset, as in "folder:PATH" or "flowers"; None if it is not recorded."""
        return next((o.dataset for o in self.origins if o.dataset is not None), None)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits whose extraction has begun, complete or not, in the dataset's order."""
        return tuple(
            split
            for split in self.spec.dataset.splits
            if self.files.has_dir(SplitLayout(self.spec, split).group)
        )

    @property
    def begun(self) -> bool:
        """True if any row block is committed."""
        return any(key.endswith(".json") for key in self.files.list_files("commits"))

    @property
    def begun_at(self) -> float:
        """Time at which spec.json was written, in seconds since 1970."""
        info = self.files.stat(SPEC_KEY)
        return info.modified if info else 0.0

    @cached_property
    def annotation_index(self) -> AnnotationIndex:
        """The versions of its annotation columns, as they were when they were first read."""
        return read_index(self.files)

    @cached_property
    def annotation_columns(self) -> Mapping[str, AnnotationColumn]:
        """Its annotations by name, the dataset's own label first; skipped samples included.

        Raises CacheCorruptError if a file is missing or damaged.
        """
        digests = self.annotation_digests
        others = {name: read_column(self.files, digests[name]) for name in digests if name != LABEL}
        return others if self.label is None else {LABEL: self.label, **others}

    @property
    def annotation_digests(self) -> Mapping[str, str]:
        """Name of every annotation -> version of its values, 12 hex digits."""
        return self.annotation_index.digests

    @cached_property
    def label(self) -> AnnotationColumn | None:
        """The annotation "label", of the dataset or of a table; None if no sample has one.

        Raises CacheCorruptError if its file is missing or damaged.
        """
        digest = self.annotation_digests.get(LABEL)
        return None if digest is None else read_column(self.files, digest)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of the label, in order; empty without a label."""
        return () if self.label is None else self.label.classes

    @property
    def multi_label(self) -> bool:
        """True if a sample may have several classes."""
        return self.label is not None and self.label.kind == "multi-label"

    @cached_property
    def annotations(self) -> pd.DataFrame:
        """Annotations of the samples of all complete splits, split by split, without skipped ones.

        The index is the sample's id, unique within a split; the column "split" is the split, and
        every other column an annotation: a Categorical with all class names in order, Int64,
        float64, or, for a multi-label dataset, a tuple of class names. Missing values are NaN,
        <NA> and None. The table is read once: open the cache again after another process has
        annotated it.
        """
        splits = [self.split(name) for name in self.splits if self.complete(name)]
        return annotation_frame(
            self.annotation_columns,
            ids={split.name: split.ids for split in splits},
            kept={split.name: split.kept_rows for split in splits},
        )

    def forget_annotations(self) -> None:
        """Drop what was read of the annotations: the next access reads them again."""
        for name in ("annotation_index", "label", "annotation_columns", "annotations"):
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to another process: the versions of annotations, not their values."""
        values = ("label", "annotation_columns", "annotations")
        return {name: value for name, value in self.__dict__.items() if name not in values}

    def progress(self, split: str) -> tuple[int, int]:
        """Return the number of committed row blocks of a split and the number of all."""
        layout = SplitLayout(self.spec, split)
        records = self.files.list_files(layout.commits)
        return sum(layout.block_of(key) is not None for key in records), layout.blocks

    def complete(self, split: str) -> bool:
        """Return whether the split has its complete record."""
        return self.files.stat(SplitLayout(self.spec, split).complete) is not None

    def split(self, name: str) -> Split:
        """Open a complete split.

        Raises:
            UnknownNameError: The dataset has no such split.
            CacheIncompleteError: The split is not complete; the message says how to continue.
            CacheCorruptError: Its complete record is damaged or another cache's.
        """
        layout = SplitLayout(self.spec, name)
        path = self.files.path(layout.complete)
        try:
            data = self.files.read(layout.complete)
        except FileNotFoundError:
            n_committed, n_blocks = self.progress(name)
            raise CacheIncompleteError(
                f"{self.path}: split {name!r} is incomplete: {n_committed} of {n_blocks} row "
                "blocks are committed. "
                f"To continue, run the same extraction again: {extract_advice(self)}"
            ) from None
        record = CompleteRecord.of_split(data, layout, where=str(path))
        if record.compressor is not None:
            try:
                Compressor(record.compressor)
            except OptionError as e:
                raise CacheCorruptError(f"{path}: {e}; {REPAIR_HINT}") from None
        return Split(layout, self.files, record, label=partial(getattr, self, "label"))


def load_cache(path: CachePath) -> Cache:
    """Open the cache in a folder or at an address.

    Raises:
        CacheNotFoundError: There is no spec.json.
        CacheSchemaError: The cache was written with another schema; the message says what to do.
        CacheCorruptError: spec.json is not a spec, or not the one whose fingerprint it gives.
    """
    file = path / SPEC_KEY
    try:
        value = load_json(open_source(path).read(SPEC_KEY))
        _check_schema(path, value)
        fingerprint = value.pop("fingerprint")
        spec = CacheSpec.from_json(value)
    except (FileNotFoundError, NotADirectoryError):
        raise CacheNotFoundError(f"{path} is not a cache: it has no {SPEC_KEY}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        reason = e if isinstance(e, ValueError) else repr(e)
        raise CacheCorruptError(
            f"{file}: not the spec of a cache: {reason}; {REPAIR_HINT}"
        ) from None
    if spec.fingerprint != fingerprint:
        raise CacheCorruptError(
            f"{file}: expected fingerprint {spec.fingerprint[:12]}, got {str(fingerprint)[:12]}; "
            f"{REPAIR_HINT}"
        )
    return Cache(path, spec)


def _check_schema(path: CachePath, value: Any) -> None:
    """Raise CacheSchemaError if spec.json is undamaged and of another schema."""
    schema = value["schema"]
    fields = {key: field for key, field in value.items() if key not in ("fingerprint", "model")}
    current = CODEC_SCHEMA if value.get("codec") else SCHEMA
    if schema == current or sha256_json(fields) != value["fingerprint"]:
        return
    if schema > current:
        remedy = "upgrade layercache"
    elif schema == UPGRADABLE and isinstance(path, Path):
        remedy = (
            f"make one of schema {SCHEMA} of it, without a forward: layercache cache upgrade "
            f"{shlex.quote(str(path))}"
        )
    else:
        origins = read_origins(open_source(path))
        source = next((o.dataset for o in origins if o.dataset), value["dataset"]["name"])
        model, dataset = shlex.quote(str(value["model"])), shlex.quote(str(source))
        remedy = (
            f"extract it again (layercache extract --model {model} --dataset {dataset}, with the "
            "other options it was made with) and delete this folder"
        )
    raise CacheSchemaError(
        f"{path}: expected a cache of schema {current}, got schema {schema}: {remedy}"
    )


def extract_command(
    cache: Cache, *, model: str | None = None, layers: str | None = None, tokens: str | None = None
) -> str:
    """Return the command that made a cache, or one with another model, other layers or tokens.

    Where the cache's origin is not recorded, the dataset has its name only.
    """
    spec, root = cache.spec, cache.path.parent.parent.parent
    if spec.imported:
        model, dataset = shlex.quote(model or spec.model), shlex.quote(spec.dataset.name)
        return f"layercache import --tokens FILE --model {model} --name {dataset}"
    origin = next((o for o in cache.origins if o.dataset is not None), Origin(dataset=None))
    kinds = kind_words(spec.tokens)
    if kinds[-2:] == ["cls", "patch"]:
        kinds[-2:] = ["all"]
    stored = ",".join(map(str, spec.layers))
    spatial: dict[str, str | None] = {}
    if spec.codec is not None and layers is None and tokens is None:
        spatial = {"--spatial": "+".join(kinds), "--spatial-layers": stored, "--store": spec.codec}
    if layers is None and not spatial and spec.layers != tuple(range(1, spec.depth + 1)):
        layers = stored
    if tokens is None and not spatial and kinds != ["cls", "ap"]:
        tokens = "+".join(kinds)
    options = {
        "--model": model or spec.model,
        "--weights": origin.weights if model is None else None,
        "--dataset": origin.dataset or spec.dataset.name,
        "--name": spec.dataset.name
        if origin.dataset and dataset_name(origin.dataset) != spec.dataset.name
        else None,
        "--data-root": origin.data_root,
        "--limit": spec.dataset.limit,
        "--seed": spec.dataset.limit_seed or None,
        "--tap": spec.tap if spec.tap != "norm2" else None,
        "--layers": layers,
        "--tokens": tokens,
        **spatial,
        **(_preprocessing_options(origin.preprocessing) if model is None else {}),
        "--background": spec.preprocessing.get("background"),
        "--precision": spec.precision if spec.precision != "fp32" else None,
        "--storage-dtype": spec.storage_dtype if spec.storage_dtype != "float16" else None,
        "--compressor": origin.compressor,
        "--on-error": origin.on_error if origin.on_error != "raise" else None,
        "--cache": root
        if cache.path == cache_folder(root, spec) and root != cache_root()
        else None,
    }
    words = [
        word
        for option, value in options.items()
        if value is not None
        for word in (option, shlex.quote(str(value)))
    ]
    flags = {"--projected": spec.projected, "--paper-compat": origin.paper_compat}
    words += [flag for flag, value in flags.items() if value]
    return " ".join(["layercache extract", *words])


def _preprocessing_options(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of the command line for what was replaced of the preprocessing."""
    return {
        f"--{name.replace('_', '-')}": ("x" if name == "input_size" else ",").join(map(str, value))
        if isinstance(value, list)
        else str(value)
        for name, value in values.items()
    }


def extract_advice(cache: Cache, *, layers: str | None = None, tokens: str | None = None) -> str:
    """Return `extract_command` for a message, with what it lacks if the origin is not recorded."""
    command = extract_command(cache, layers=layers, tokens=tokens)
    if cache.spec.imported:
        return f"{command} (the tokens are imported: give the files that hold all of them)"
    if cache.source is None:
        command += " (with the source of the dataset and the other options it was begun with)"
    return command

"""What an extraction is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from layercache.cache.format.spec import Precision, StorageDtype, Tap
from layercache.cache.storage.paths import CachePath
from layercache.engine import check_engine
from layercache.errors import OptionError, UnknownNameError
from layercache.extraction.datasets.base import Dataset

DeviceName = Literal["auto", "cpu", "cuda"]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Every option of `extract`; checked when it is made, as far as that needs neither the model nor the data."""

    models: Sequence[str]
    """Backbones: short names or timm names. Several share every decode."""
    dataset: str | Dataset
    """A data set's name, "folder:PATH", or a Dataset of your own (its samples must be picklable, unless workers=0)."""
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    """model -> checkpoint file (safetensors or torch); without one, what ships with the package or what timm downloads."""
    data_root: str | Path | None = None
    """Folder that named data sets are read from; default $LAYERCACHE_DATA, else the user's cache folder."""
    download: bool = False
    """Fetch a named data set that is not there."""
    splits: Sequence[str] = ()
    """Splits to extract, in order; empty: all of them."""
    limit: int | None = None
    """At most this many samples of every split, stratified by class; part of the cache's identity."""
    seed: int = 0
    """Seed of the draw of `limit`."""
    tap: Tap = "norm2"
    """Where a layer's tokens are read: "norm2" (the paper's), "block" or "block-norm"."""
    layers: str | Sequence[int] = "all"
    """"all", "last", "mid-last", "quarter", "1,5,9" or numbers of 1..B."""
    tokens: str | Sequence[str] = "cls+ap"
    """Kinds out of "cls", "ap", "grid:K" and "all" (every patch token)."""
    projected: bool = False
    """Store CLIP's last layer after its projection."""
    paper_compat: bool = False
    """The preprocessing of the paper's own extractor for DINOv2 and MAE."""
    precision: Precision = "fp32"
    """Arithmetic of the forward: "fp32", "bf16" or "fp16"; tokens are pooled in float32 whatever it is."""
    store_dtype: StorageDtype = "float16"
    """dtype of the stored tokens: "float16" or "float32"."""
    codec: str | None = None
    """Compression of the stored tokens: None (fastest), "zstd[:LEVEL]" or "blosc[:LEVEL]"."""
    batch_size: int | None = None
    """Images of one forward; default 256 on a GPU, 64 on a CPU. Moves tokens by rounding at most (benchmarks/LOG.md), so not part of the identity."""
    workers: int | None = None
    """Decoding processes; 0 decodes in a thread of this process; default: measured on a few samples."""
    device: DeviceName = "auto"
    """"auto" takes a GPU if there is one."""
    compile: bool = False
    """torch.compile the forward; as with `batch_size`, not part of the identity."""
    deterministic: bool = False
    """Only deterministic algorithms on a GPU; a CPU is deterministic anyhow."""
    on_error: OnError = "stop"
    """What an image that cannot be decoded does: "stop" the run, or "skip" it and list it in the cache."""
    cache: str | CachePath | None = None
    """Place of the caches, a folder or s3://BUCKET/PREFIX; default $LAYERCACHE_HOME, else the user's cache folder."""
    yes: bool = False
    """Do not ask before a large cache."""
    wait: bool = False
    """Wait for another process that writes the same split, instead of an error."""
    engine: str = "local"
    """Where the forwards run: "local", or "ray" for a Ray cluster; the bytes are the same."""
    address: str | None = None
    """Of a running Ray cluster ("auto", "HOST:PORT"); None starts one of this machine alone."""

    def __post_init__(self) -> None:
        if isinstance(self.models, str) or not self.models:
            raise OptionError(f"models: expected a list of at least one model, got {self.models!r}")
        if isinstance(self.splits, str):
            raise OptionError(f"splits: expected a list of names, got {self.splits!r}")
        for option, values in (("models", self.models), ("splits", self.splits)):
            if len(set(values)) < len(values):
                raise OptionError(f"{option}: each once, got {', '.join(values)}")
        for option, least in (("limit", 1), ("batch_size", 1), ("workers", 0), ("seed", 0)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise OptionError(f"{option}: expected at least {least}, got {value}")
        for option, known in (
            ("tap", Tap),
            ("precision", Precision),
            ("store_dtype", StorageDtype),
            ("device", DeviceName),
            ("on_error", OnError),
        ):
            if getattr(self, option) not in get_args(known):
                raise OptionError(
                    f"{option}: expected {' or '.join(get_args(known))}, got {getattr(self, option)!r}"
                )
        check_engine(self.engine, self.address)
        for model in self.weights:
            if model not in self.models:
                raise UnknownNameError("model of weights", model, self.models)


def weights_of(words: Sequence[str], models: Sequence[str]) -> dict[str, str | Path]:
    """--weights as given: FILE for the only model, or MODEL=FILE. Raises OptionError."""
    found: dict[str, str | Path] = {}
    for word in words:
        model, equals, file = word.partition("=")
        if not equals or model not in models:
            if len(models) != 1:
                raise OptionError(
                    f"weights {word!r}: with {len(models)} models, expected MODEL=FILE, e.g. {models[0]}={word}"
                )
            model, file = models[0], word
        if model in found:
            raise OptionError(f"weights: {model} has two files, {found[model]} and {file}")
        found[model] = file
    return found


def read_options(values: Mapping[str, Any]) -> ExtractOptions:
    """ExtractOptions from keywords. Raises OptionError for one that there is not, naming the nearest."""
    known = list(ExtractOptions.__dataclass_fields__)
    for name in values:
        if name not in known:
            raise UnknownNameError("option of extract", name, known)
    return ExtractOptions(**cast(dict[str, Any], values))

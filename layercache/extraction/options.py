"""Options of an extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from layercache.cache.format.origin import model_source, plain_name
from layercache.cache.format.spec import Precision, StorageDtype, Tap
from layercache.cache.storage.paths import CachePath
from layercache.engine import check_engine
from layercache.errors import OptionError, UnknownNameError
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.preprocessing import Background
from layercache.extraction.models.preprocessing_options import PreprocessingOptions

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
OnError = Literal["raise", "skip"]
CHOICES: Mapping[str, tuple[str, ...]] = {
    "tap": get_args(Tap),
    "precision": get_args(Precision),
    "storage_dtype": get_args(StorageDtype),
    "device": get_args(DeviceName),
    "on_error": get_args(OnError),
    "background": get_args(Background),
}
"""Option -> its possible values."""
MINIMA: Mapping[str, int] = {"limit": 1, "batch_size": 1, "workers": 0, "seed": 0}
"""Option -> its smallest value."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Every option of `extract`; validated on construction, except against models and dataset."""

    models: Sequence[str | Encoder]
    """Backbones: short names, timm names, addresses of timm models ("hf-hub:ORG/NAME",
    "local-dir:PATH"), an `Encoder` of your own, or FILE.py:FUNCTION of a function that returns one.
    Several share every decode."""
    dataset: str | Dataset
    """Name of a dataset, "folder:PATH", or a `Dataset` of your own (its samples must be picklable,
    unless `workers` is 0)."""
    name: str | None = None
    """Name of the dataset in caches and tables; default: its own, of a path the last part."""
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    """Model -> checkpoint file (safetensors or torch); without one, what ships with the package or
    what timm downloads."""
    data_root: str | Path | None = None
    """Folder of named datasets; default $LAYERCACHE_DATA, else the user's cache folder."""
    offline: bool = False
    """Forbid downloads of datasets and weights, as $LAYERCACHE_OFFLINE does."""
    splits: Sequence[str] = ()
    """Splits to extract, in order; empty: all of them."""
    limit: int | None = None
    """Largest number of samples of every split, stratified by class; part of the cache's
    identity."""
    seed: int = 0
    """Seed of the sampling by `limit`."""
    tap: Tap = "norm2"
    """Where a layer's tokens are read: "norm2" (as in the paper), "block", "block-norm", or inside
    the block "norm1", "attn", "fc1", "act", "mlp" (docs/taps.md)."""
    layers: str | Sequence[int] = "all"
    """"all", "last", "mid-last", "quarter", "1,5,9" or numbers of 1..B."""
    tokens: str | Sequence[str] = "cls+ap"
    """Token kinds: "cls", "ap" (mean of the patches), "reg" (mean of the registers), "std" and
    "max" (of each channel over the patches), "attn" (mean of the patches, weighted by the class
    token's attention), "grid:K" and "all" (every patch token), joined by "+"."""
    projected: bool = False
    """Store CLIP's last layer after its projection."""
    paper_compat: bool = False
    """Preprocess images for DINOv2 and MAE as the paper's own extractor does."""
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    """Parts of every model's own preprocessing to replace: the input size, the crop, the filter,
    mean and standard deviation."""
    background: Background = "drop"
    """What transparent pixels become: "drop" the alpha channel, so that the colours it hid appear,
    or composite the image on "white" or "black"."""
    precision: Precision = "fp32"
    """Arithmetic of the forward: "fp32", "bf16" or "fp16"; tokens are pooled in float32 in any
    case."""
    storage_dtype: StorageDtype = "float16"
    """dtype of the stored tokens: "float16" or "float32"."""
    compressor: str | None = None
    """Compression of the stored tokens: None (fastest), "zstd[:LEVEL]" or "blosc[:LEVEL]"."""
    batch_size: int | None = None
    """Images per forward; default 256 on a GPU, 64 on a CPU. Changes tokens by rounding at most
    (benchmarks/LOG.md), so it is not part of the identity."""
    workers: int | None = None
    """Number of decoding processes; 0 decodes in a thread of this process; default: measured on a
    few samples."""
    device: DeviceName = "auto"
    """"auto" takes a GPU if there is one: CUDA, else an Apple GPU ("mps")."""
    compile: bool = False
    """Use torch.compile for the forward; as `batch_size`, not part of the identity."""
    deterministic: bool = False
    """Use only deterministic algorithms on a GPU; a CPU is deterministic in any case."""
    on_error: OnError = "raise"
    """What to do with an image that cannot be decoded: "raise" an error, or "skip" it and list it
    in the cache. An image without a label is extracted like any other."""
    cache: str | CachePath | None = None
    """Folder of all caches or s3://BUCKET/PREFIX; default $LAYERCACHE_HOME, else the user's cache
    folder."""
    wait_for_lock: bool = False
    """Wait for another process that is writing the same split, instead of raising
    CacheBusyError."""
    engine: str = "local"
    """Where the forwards run: "local", or "ray" for a Ray cluster; the bytes are the same."""
    ray_address: str | None = None
    """Address of a running Ray cluster ("auto", "HOST:PORT"); None starts one on this machine
    alone."""

    def __post_init__(self) -> None:
        if not self.models:
            raise OptionError("models: expected at least one model, got none")
        # the absolute path of a folder, which the cache records, also on another machine
        models = [model_source(m) if isinstance(m, str) else m for m in self.models]
        object.__setattr__(self, "models", models)
        weights = {model_source(model): file for model, file in self.weights.items()}
        object.__setattr__(self, "weights", weights)
        model_names = [model_name(model) for model in self.models]
        for option, names in (("models", model_names), ("splits", self.splits)):
            if len(set(names)) < len(names):
                raise OptionError(f"{option}: expected each once, got {', '.join(names)}")
        for option, minimum in MINIMA.items():
            value = getattr(self, option)
            if value is not None and value < minimum:
                raise OptionError(f"{option}: expected at least {minimum}, got {value}")
        for option, choices in CHOICES.items():
            if getattr(self, option) not in choices:
                raise OptionError(
                    f"{option}: expected {' or '.join(choices)}, got {getattr(self, option)!r}"
                )
        if not isinstance(self.preprocessing, PreprocessingOptions):
            raise OptionError(
                "preprocessing: expected layercache.PreprocessingOptions, "
                f"got {type(self.preprocessing).__name__}"
            )
        if self.name is not None and plain_name(self.name) != self.name:
            raise OptionError(
                f"name: expected letters, digits, '.', '-' and '_', got {self.name!r}: take "
                f"{plain_name(self.name)!r}"
            )
        check_engine(self.engine, self.ray_address)
        for model in self.weights:
            if model not in model_names:
                raise UnknownNameError("model of weights", model, model_names)


def model_name(model: str | Encoder) -> str:
    """Return the name of a model's caches.

    Raises:
        OptionError: It is neither a name nor an Encoder.
    """
    if isinstance(model, Encoder):
        return model.name
    if not isinstance(model, str):
        raise OptionError(
            f"models: expected names or layercache.Encoder objects, got {type(model).__name__}"
        )
    return model


def with_lists(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `ExtractOptions` with lists where a single value was given.

    A single model or split, a layer number, and the checkpoint of the only model are accepted.

    Raises:
        OptionError: One checkpoint is given for several models.
    """
    listed = dict(options)
    for name in ("models", "splits"):
        if isinstance(listed.get(name), str | Encoder):
            listed[name] = [listed[name]]
    if isinstance(listed.get("layers"), int):
        listed["layers"] = [listed["layers"]]
    weights = listed.get("weights")
    if isinstance(weights, str | Path):
        names = [model_name(model) for model in listed.get("models", [])]
        listed["weights"] = parse_weights([str(weights)], names)
    return listed


def parse_weights(arguments: Sequence[str], models: Sequence[str]) -> dict[str, str | Path]:
    """Return model -> checkpoint file from arguments FILE, for the only model, or MODEL=FILE.

    Raises:
        OptionError: It is not clear which model a file is for, or a model has two files.
    """
    weights: dict[str, str | Path] = {}
    for argument in arguments:
        model, equals, file = argument.partition("=")
        if not equals or model not in models:
            if len(models) != 1:
                raise OptionError(
                    f"weights {argument!r}: with {len(models)} models, expected MODEL=FILE, "
                    f"e.g. {models[0]}={argument}"
                )
            model, file = models[0], argument
        if model in weights:
            raise OptionError(f"weights: {model} has two files, {weights[model]} and {file}")
        weights[model] = file
    return weights

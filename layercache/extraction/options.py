"""Options of an extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from layercache.cache.format.cache_spec import Precision, StorageDtype, Tap
from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.origin import model_source, plain_name
from layercache.cache.storage.paths import CachePath
from layercache.engine import check_engine
from layercache.errors import OptionError, UnknownNameError
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.pooling import check_storable, parse_spatial_kinds
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Background

T = TypeVar("T", bound=str | Encoder)

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
    """The options of `extract`, which describes them, with lists for single values.

    Validated on construction, except against models and dataset.
    """

    models: Sequence[str | Encoder]
    dataset: str | Dataset
    name: str | None = None
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    data_root: str | Path | None = None
    offline: bool = False
    splits: Sequence[str] = ()
    limit: int | None = None
    seed: int = 0
    tap: Tap = "norm2"
    layers: str | Sequence[int] = "all"
    tokens: str | Sequence[str] = "cls+ap"
    spatial: str | None = None
    spatial_layers: str | Sequence[int] = "last"
    store: str | None = None
    projected: bool = False
    paper_compat: bool = False
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    background: Background = "drop"
    precision: Precision = "fp32"
    storage_dtype: StorageDtype = "float16"
    compressor: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: DeviceName = "auto"
    compile: bool = False
    deterministic: bool = False
    on_error: OnError = "raise"
    cache: str | CachePath | None = None
    wait_for_lock: bool = False
    engine: str = "local"
    ray_address: str | None = None

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
        spatial_kinds = parse_spatial_kinds(self.spatial) if self.spatial is not None else ()
        if self.store is not None:
            object.__setattr__(self, "store", str(CodecSpec.parse(self.store)))
            if self.spatial is None:
                raise OptionError(
                    f"store {self.store!r} is how spatial tokens are stored: name them, too "
                    "(spatial: patch or grid:K)"
                )
            check_storable(self.store, spatial_kinds)
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


def as_list(value: T | Sequence[T]) -> Sequence[T]:
    """Return several models or splits as they are, and a single one as a list."""
    return [value] if isinstance(value, str | Encoder) else value


def weights_by_model(
    weights: str | Path | Sequence[str] | Mapping[str, str | Path] | None,
    *,
    models: Sequence[str | Encoder],
) -> Mapping[str, str | Path]:
    """Return model -> checkpoint file, also where the file of the only model is given.

    Raises:
        OptionError: One checkpoint is given for several models.
    """
    if weights is None:
        return {}
    if isinstance(weights, Mapping):
        return weights
    arguments = [str(weights)] if isinstance(weights, str | Path) else weights
    return parse_weights(arguments, [model_name(model) for model in models])


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

"""Schema of a study file as pydantic models: keys, types, ranges and other spellings of a key.

A field is named as the parameter that it becomes; `also` lists the other spellings of its key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from layercache.cache.format.cache_spec import POOLED_KINDS, Precision, StorageDtype, Tap
from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.layers_and_tokens import LAYER_WORDS
from layercache.errors import UnknownNameError
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Background
from layercache.extraction.models.registry import CropMode
from layercache.extraction.options import DeviceName, OnError
from layercache.probing.heads.spec import (
    BASELINES,
    GATES,
    HEADS,
    SPATIAL_HEADS,
    TASKS,
    WITHOUT_DROPOUT,
)
from layercache.probing.join import check_join_width, check_joinable
from layercache.probing.metrics import find_metric
from layercache.probing.token_selection import TOKEN_KIND
from layercache.probing.training.config import (
    DROPOUTS,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    HParams,
    Noise,
    TrainConfig,
    grid,
)


def _known(known: Iterable[str], *, pattern: str = "", hint: str = "") -> Callable[[str], str]:
    """Return a validator: each word of "a+b" is a known name or matches the pattern."""

    def check(text: str) -> str:
        for word in text.split("+"):
            if word not in known and not re.fullmatch(pattern, word):
                raise PydanticCustomError(
                    "unknown_name", "unknown name", {"name": word, "known": [*known], "hint": hint}
                )
        return text

    return check


def _parse_metric(name: str) -> str:
    try:
        return find_metric(name).name
    except UnknownNameError as error:
        raise ValueError(str(error)) from None


def _parse_seeds(value: Any) -> tuple[int, ...]:
    seeds = range(value) if type(value) is int else value if isinstance(value, list) else ()
    if not seeds or any(type(s) is not int or s < 0 for s in seeds) or len({*seeds}) < len(seeds):
        raise ValueError(
            "expected a number of seeds (at least 1) or a list of different whole numbers from 0, "
            f"got {value!r}"
        )
    return tuple(seeds)


def _parse_store(text: str) -> str:
    return str(CodecSpec.parse(text))


def also(*spellings: str) -> Any:
    """Return an optional field whose key has other spellings; the first one appears in errors."""
    return Field(default=None, validation_alias=AliasChoices(*spellings))


as_list = BeforeValidator(lambda value: value if isinstance(value, list) else [value])
Text = Annotated[str, StringConstraints(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
Whole = Annotated[int, Field(ge=0)]
Numbers = Annotated[list[float], Field(min_length=1), as_list]
Seeds = Annotated[tuple[int, ...], PlainValidator(_parse_seeds)]
Head = Annotated[Text, AfterValidator(_known(HEADS))]
Task = Annotated[Text, AfterValidator(_known(TASKS))]
Layers = Annotated[
    Text,
    AfterValidator(_known(LAYER_WORDS, pattern=r"\d+(,\d+)*", hint='(or numbers, as in "1,5,9")')),
]
Tokens = Annotated[
    Text,
    AfterValidator(lambda text: re.sub(r"\s*[+,]\s*", "+", text.strip())),
    AfterValidator(_known((*POOLED_KINDS, "grid:K", "patch", "all"), pattern=TOKEN_KIND.pattern)),
]
Spatial = Annotated[
    Text,
    AfterValidator(lambda text: re.sub(r"\s*[+,]\s*", "+", text.strip())),
    AfterValidator(_known(("grid:K", "patch", "all"), pattern=r"grid:[1-9]\d*")),
]
MetricName = Annotated[Text, AfterValidator(_parse_metric)]


class StudyTable(BaseModel):
    """A table of the file; an unknown key is an error, and so is "3" for 3."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def options(self, *exclude: str) -> dict[str, Any]:
        """Return the keys that the file gives, by the names of their parameters."""
        return self.model_dump(exclude_unset=True, exclude={*exclude})

    @classmethod
    def spellings(cls) -> list[str]:
        """Return the keys of the table in all spellings."""
        return [
            str(key)
            for name, field in cls.model_fields.items()
            for key in getattr(field.validation_alias, "choices", [name])
        ]


class GridTable(StudyTable):
    """[grid]: values to search; those of the paper by default."""

    lr: Numbers = [*LEARNING_RATES]
    weight_decay: Numbers = [*WEIGHT_DECAYS]
    dropout: Numbers = [*DROPOUTS]

    @model_validator(mode="after")
    def _check(self) -> GridTable:
        grid(lr=self.lr, weight_decay=self.weight_decay, dropout=self.dropout)
        return self

    def configs(self, head: str) -> tuple[HParams, ...]:
        """Return the configurations of a head; none for a baseline, which has its own."""
        if head in BASELINES:
            return ()
        dropout = (0.0,) if head in WITHOUT_DROPOUT else self.dropout
        return grid(lr=self.lr, weight_decay=self.weight_decay, dropout=dropout)


class HeadTable(GridTable):
    """[[heads]]: one column of the results, or several if a value is a list."""

    head: Annotated[list[Head], Field(min_length=1), as_list]
    target: Text | None = None
    task: Task | None = None
    select: MetricName | None = None
    layers: Annotated[list[Layers], Field(min_length=1), as_list] | None = None
    tokens: Annotated[list[Tokens], Field(min_length=1), as_list] | None = None
    spatial: Spatial | None = None
    spatial_layers: Layers | None = None
    epochs: Whole | None = None
    num_heads: Whole | None = also("heads", "num_heads")
    embedding: bool = False
    position_embedding: bool = False
    gate: Annotated[Text, AfterValidator(_known(GATES))] = "scalar"
    join: Annotated[Texts, as_list] | None = None
    """Models whose tokens the head sees, too; their caches are extracted with the study."""
    join_width: int | Literal["pad"] | None = None
    shots: Whole | None = None
    train_fraction: float | None = also("fraction", "train_fraction")

    @model_validator(mode="after")
    def _check_head(self) -> HeadTable:
        for head in self.head:
            if (head in SPATIAL_HEADS) != (self.spatial is not None):
                verb = f"a {head} head {'needs' if head in SPATIAL_HEADS else 'has no'}"
                raise ValueError(f"{verb} spatial tokens (key spatial)")
            if self.join:
                check_joinable(head)
            check_join_width(self.join_width, joined=bool(self.join))
            trained = sorted(self.model_fields_set & {*GridTable.model_fields, "epochs"})
            if head in BASELINES and trained:
                raise ValueError(
                    f"{head} is a baseline with its own configurations: "
                    f"leave out {', '.join(trained)}"
                )
        if self.epochs is not None:
            TrainConfig(epochs=self.epochs)
        return self


class NoiseTable(StudyTable):
    """Feature noise of [protocol]."""

    std: float = Noise.std
    probability: float = Noise.probability


class ProtocolTable(StudyTable):
    """[protocol]: how heads are trained."""

    epochs: Whole | None = None
    min_steps: Whole | None = None
    batch: Whole | None = also("batch", "batch_size")
    min_batches: Whole | None = None
    patience: Whole | None = None
    clip: float | None = None
    lr_end: float | None = None
    class_weights: bool | None = None
    layer_dropout: float | None = None
    kind_dropout: float | None = None
    last_layer_penalty: float | None = None
    noise: Annotated[
        NoiseTable | None, BeforeValidator(lambda value: None if value is False else value)
    ] = None

    @model_validator(mode="after")
    def _check(self) -> ProtocolTable:
        self.train_config()
        return self

    def train_config(self) -> TrainConfig:
        """Return the training configuration.

        Raises:
            OptionError: A value is out of range.
        """
        options = self.options()
        if self.noise is not None:
            options["noise"] = Noise(**options["noise"])
        return TrainConfig(**options)


def split_preprocessing(
    options: Mapping[str, Any],
) -> tuple[PreprocessingOptions, dict[str, Any]]:
    """Return the options of the preprocessing, and the other ones of `extract`.

    Raises:
        OptionError: A value is out of range.
    """
    names = {option.name for option in fields(PreprocessingOptions)}
    return (
        PreprocessingOptions(**{k: v for k, v in options.items() if k in names}),
        {k: v for k, v in options.items() if k not in names},
    )


class _ForwardKeys(StudyTable):
    batch_size: Whole | None = None
    workers: Whole | None = None


class _ModelKeys(_ForwardKeys):
    tap: Tap | None = None
    precision: Precision | None = None
    device: DeviceName | None = None
    storage_dtype: StorageDtype | None = also("storage_dtype", "store_dtype")
    store: Annotated[Text, AfterValidator(_parse_store)] | None = None
    """Codec of the spatial tokens."""
    projected: bool | None = None
    paper_compat: bool | None = None
    input_size: Any = None
    crop_pct: float | None = None
    crop_mode: CropMode | None = None
    interpolation: Text | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    background: Background | None = None
    compile: bool | None = None
    deterministic: bool | None = None

    @model_validator(mode="after")
    def _check_preprocessing(self) -> _ModelKeys:
        split_preprocessing(self.options())
        return self


class _DatasetKeys(_ForwardKeys):
    data_root: Text | None = also("root", "data_root")
    offline: bool | None = None
    download: Annotated[bool | None, Field(exclude=True)] = None
    """No effect: a missing dataset is downloaded anyhow, unless `offline` forbids it."""
    limit: Whole | None = None
    seed: Whole | None = also("limit_seed", "seed")
    on_error: Annotated[
        OnError | None, BeforeValidator(lambda word: "raise" if word == "stop" else word)
    ] = None


class ModelTable(_ModelKeys):
    """[model.NAME]: options of the extractions with one model."""

    weights: Text | None = None


class SplitsTable(StudyTable):
    """[splits]: samples that select the configurations and test the heads, for all datasets."""

    val_split: Text | None = also("val", "val_split")
    """Split that selects; "auto", or "none" for 20 % of train."""
    folds: Whole | None = None
    repeats: Whole | None = None
    group: Text | None = None
    fold_column: Text | None = None
    refit: Literal["train", "train+val"] | None = None
    test_split: Annotated[Texts, as_list] | None = also("test", "test_split")
    test_cache: Annotated[Texts, as_list] | None = None
    """Datasets of the study or of other caches, as in "imagenet_v2" or "imagenet_v2@val"."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `probe`."""
        options = self.model_dump(exclude_unset=True, include={*SplitsTable.model_fields})
        if options.get("val_split") == "none":
            options["val_split"] = None
        return options


class DatasetTable(_DatasetKeys, SplitsTable):
    """[dataset.NAME]: options of the extractions of one dataset, and its splits."""

    source: Text | None = None
    name: Text | None = None
    """Name of the dataset in folders and tables; default: that of the source."""
    annotations: Annotated[Text | None, Field(exclude=True)] = None
    """Table of annotation columns, for `target`."""


class ExtractTable(_ModelKeys, _DatasetKeys):
    """[extract]: options of all extractions."""

    layers: Layers | None = None
    compressor: Text | None = also("compressor", "codec")
    wait_for_lock: bool | None = also("wait_for_lock", "wait")
    share_decode: bool = False


class ProbeTable(StudyTable):
    """[probe]: options of `probe` that say how probes are trained, not which."""

    device: DeviceName | None = None
    precision: Literal["fp32", "bf16"] | None = None
    paper_compat: bool | None = None
    """Ties in the selection go to the first configuration of the grid."""
    search: Literal["full", "halving", "coordinate", "auto"] | None = None
    """Which configurations are trained, and how far."""
    features: Literal["auto", "resident", "stream"] | None = None
    memory_budget: Text | None = also("memory", "memory_budget")
    disk_cache: Text | None = None
    configs_per_pass: Whole | None = also("group_size", "configs_per_pass")


class ReportTable(StudyTable):
    """[report]: options of `report`."""

    per_head: bool | None = None
    details: Whole | None = None
    cka_images: Whole | None = None
    metrics: Annotated[list[MetricName], Field(min_length=1), as_list] | None = None


TABLES: Mapping[str, type[StudyTable]] = {
    "heads": HeadTable,
    "grid": GridTable,
    "protocol": ProtocolTable,
    "extract": ExtractTable,
    "model": ModelTable,
    "dataset": DatasetTable,
    "splits": SplitsTable,
    "probe": ProbeTable,
    "report": ReportTable,
}
"""Key of the file -> model of its table, of each [[heads]], or of each [model.NAME]."""

"""Reads a study file: backbones, datasets, heads and options. An unknown key is an error.

    name = "small"
    models = ["vit_nano", "clip_b16"]
    datasets = ["digits", "photos"]
    seeds = 3                            # 0, 1, 2; or a list
    # target = "age"                     # annotation column to predict; default: the label
    # select = "roc_auc"                 # metric that selects configurations (docs/metrics.md)
    engine = "ray"                       # local by default; address = "HOST:PORT" joins a cluster

    [[heads]]                            # one per column; a list makes a column of each entry
    head = "attentive"
    layers = ["last", "all"]
    tokens = "cls+ap"

    [grid]                               # default: the paper's; a head may have its own
    lr = [0.1, 0.01]

    [protocol]                           # epochs, min_steps, batch ...
    [extract]                            # all extractions: tap, precision, limit, store ...
    [model.clip_b16]                     # one model: weights, crop_pct ... (quote a name with dots)
    [dataset.digits]                     # one dataset: root, limit, source, annotations, and the
                                         # keys of [splits] for it alone
    [splits]                             # val, folds, repeats, group, fold_column, refit, test,
                                         # test_cache
    [probe]                              # device, precision, features, memory, group_size
    [report]                             # per_head, details, cka_images, metrics

Paths are relative to the folder where the command runs, as on the command line. Of [extract],
[dataset.NAME] and [model.NAME] the later one wins. `layercache.study.schema` has every key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, ValidationError

from layercache.cache.format.layers_and_tokens import parse_layers
from layercache.cache.format.token_names import requested_kinds
from layercache.engine import check_engine
from layercache.errors import LayercacheError, OptionError, UnknownNameError
from layercache.extraction.datasets.registry import DATASETS, SOURCE_FORMS
from layercache.extraction.models.pooling import check_storable, parse_spatial_kinds
from layercache.extraction.models.registry import MODELS
from layercache.probing.token_selection import check_each_once
from layercache.probing.training.config import HParams, TrainConfig
from layercache.study.schema import (
    DatasetTable,
    ExtractTable,
    GridTable,
    HeadTable,
    MetricName,
    ModelTable,
    ProbeTable,
    ProtocolTable,
    ReportTable,
    Seeds,
    SplitsTable,
    StudyTable,
    Task,
    Text,
    Texts,
    also,
)
from layercache.study.validation_errors import fault_of, raise_faults

IN_NAME = {
    "gate": "gate {}",
    "embedding": "embedding",
    "position_embedding": "position embedding",
    "join_width": "width {}",
    "shots": "{} shots",
    "train_fraction": "{} of train",
    "num_heads": "{} heads",
    "select": "by {}",
    "target": "for {}",
}
"""Option of a head -> its words in the name of the head."""


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """A head on a selection of tokens: one column of the table."""

    head: str
    """Name of the head, such as "attentive"."""
    layers: str
    """Layers: last, mid-last, quarter, all or numbers."""
    tokens: str
    """Token kinds, joined by "+"."""
    configs: tuple[HParams, ...]
    """Grid of configurations; empty for a baseline, which has its own."""
    train_config: TrainConfig
    """Training configuration."""
    options: Mapping[str, Any]
    """Other options of `probe`: target, task, select, num_heads, embedding,
    position_embedding, gate, spatial, spatial_layers, join (names of models), join_width, shots,
    train_fraction."""

    @property
    def name(self) -> str:
        """Name in messages, such as "attentive all cls+ap"."""
        options = self.options
        spatial = (
            [f"{options['spatial']}@{options.get('spatial_layers', 'last')}"]
            if "spatial" in options
            else []
        )
        joined = [f"joined to {model}" for model in options.get("join", ())]
        details = [text.format(options[k]) for k, text in IN_NAME.items() if options.get(k)]
        return " ".join([self.head, self.layers, self.tokens, *spatial, *joined, *details])

    def check_each_once(self, depth: int) -> None:
        """Check that its spatial tokens are not among its others, unless it is a fusion head.

        Args:
            depth: Number of blocks of the model.

        Raises:
            OptionError: They are.
        """
        spatial, words = self.options["spatial"], self.options.get("spatial_layers", "last")
        try:
            layers, spatial_layers = parse_layers(self.layers, depth), parse_layers(words, depth)
        except OptionError:
            return  # the model has no such layer, which the job itself reports
        check_each_once(
            self.head,
            tuple(product(layers, requested_kinds(self.tokens))),
            tuple(product(spatial_layers, requested_kinds(spatial))),
            tokens=self.tokens,
            spatial=spatial,
        )


class Study(StudyTable):
    """Content of a study file."""

    name: Text
    """Name of the study; that of the file by default."""
    models: Texts
    """Names of the backbones."""
    datasets: Texts
    """Names of the datasets in this file."""
    columns: Annotated[list[HeadTable], Field(min_length=1, validation_alias=AliasChoices("heads"))]
    """Each [[heads]]; `heads` has them one by one."""
    target: Text | None = None
    """Annotation column that every head predicts, or several ("a,b,c"), unless it has its own."""
    task: Task | None = None
    """Task of `target`."""
    select: MetricName | None = None
    """Metric that selects the configurations of every head, unless it has its own."""
    seeds: Seeds = (0,)
    """Seeds of every probe."""
    out: Annotated[Path, Field(strict=False)]
    """Folder of the report; reports/NAME by default."""
    cache: Text | None = None
    """Folder of all caches; None for the default."""
    probes_root: Text | None = also("probes", "probes_root")
    """Root of probes outside their caches; None: $LAYERCACHE_PROBES, else in their caches."""
    grid: GridTable = GridTable()
    """Configurations of every head that has none of its own."""
    protocol: ProtocolTable = ProtocolTable()
    """Training configuration."""
    extract: ExtractTable = ExtractTable()
    """Options of all extractions."""
    model: dict[str, ModelTable] = Field(default={})
    """Options of the extractions with one model."""
    dataset: dict[str, DatasetTable] = Field(default={})
    """Options of the extractions of one dataset."""
    splits: SplitsTable = SplitsTable()
    """Samples that select the configurations and test the heads."""
    probe: ProbeTable = ProbeTable()
    """Options of all probes."""
    report: ReportTable = ReportTable()
    """Options of the report."""
    engine: Text = "local"
    """Engine of extractions and probes: "local" or "ray"."""
    ray_address: Text | None = also("address", "ray_address")
    """Address of a running Ray cluster; None starts one on this machine."""

    @cached_property
    def heads(self) -> tuple[HeadPlan, ...]:
        """Heads, one per column of the results."""
        return tuple(
            self._head_plan(table, head, layers, tokens)
            for table in self.columns
            for head in table.head
            for layers in table.layers or ["last" if head == "attentive-tokens" else "all"]
            for tokens in table.tokens or ["all" if head == "attentive-tokens" else "cls+ap"]
        )

    def _head_plan(self, table: HeadTable, head: str, layers: str, tokens: str) -> HeadPlan:
        config = self.protocol.train_config()
        own = table.model_dump(include={*GridTable.model_fields}, exclude_unset=True)
        options = table.options("head", "layers", "tokens", "epochs", *GridTable.model_fields)
        if self.target is not None and table.target is None:
            options |= {"target": self.target} | ({"task": self.task} if self.task else {})
        if self.select is not None and table.select is None:
            options["select"] = self.select
        return HeadPlan(
            head=head,
            layers=layers,
            tokens=tokens,
            configs=GridTable(**self.grid.options() | own).configs(head),
            train_config=replace(config, epochs=table.epochs or config.epochs),
            options=options,
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the backbones, with those that only joined heads use."""
        joined = [model for head in self.heads for model in head.options.get("join", ())]
        return tuple(dict.fromkeys([*self.models, *joined]))

    def forbid_downloads(self) -> Study:
        """Return the study without downloads, whatever its tables say."""
        offline = {"offline": True}
        return self.model_copy(
            update={
                "extract": self.extract.model_copy(update=offline),
                "dataset": {k: v.model_copy(update=offline) for k, v in self.dataset.items()},
            }
        )

    def annotations(self, dataset: str) -> str | None:
        """Return the table of annotations of a dataset, or None."""
        return self.dataset.get(dataset, DatasetTable()).annotations

    def source(self, dataset: str) -> str:
        """Return the source of a dataset of this study, as `open_dataset` takes it."""
        return self.dataset.get(dataset, DatasetTable()).source or dataset


def read_study(path: str | Path) -> Study:
    """Return the study in a file.

    Raises:
        OptionError: The file cannot be read, or a value is wrong; the message names file and key.
        UnknownNameError: A key or name is unknown; the message names the nearest.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OptionError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read ({error})") from error
    return parse_study(text, where=str(path), name=path.stem)


def parse_study(text: str, *, where: str, name: str) -> Study:
    """Return the study in the text of a file.

    Args:
        text: TOML.
        where: Name of the file, for errors.
        name: Name of the study if the text has none.

    Raises:
        OptionError: A value is wrong.
        UnknownNameError: A key or name is unknown.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{where}: not valid TOML: {error}") from error
    raw = {"name": name} | raw
    raw = {"out": f"reports/{raw['name']}"} | raw
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise_faults([fault_of(fault, Study, where) for fault in error.errors()], where)
    raise_faults([*_unknown_names(study, where), *_wrong_spatial(study, where)], where)
    return study


def _unknown_names(study: Study, where: str) -> Iterator[LayercacheError]:
    """Yield an error for each name that is unknown or given twice."""
    try:
        check_engine(study.engine, study.ray_address)
    except LayercacheError as error:
        yield OptionError(f"{where}: {error}")
    for kind, names, known, own in (
        ("model", study.models, study.encoders, study.model),
        ("dataset", study.datasets, study.datasets, study.dataset),
    ):
        if len({*names}) < len(names):
            yield OptionError(f"{where}: {kind}s: expected each name once, got {', '.join(names)}")
        for name in own:
            if name not in known:
                yield UnknownNameError(
                    f"table in {where}",
                    f"{kind}.{name}",
                    [f"{kind}.{k}" for k in known],
                    hint=f"(it is not among {kind}s)",
                )
    columns = [head.name for head in study.heads]
    for name in {name for name in columns if columns.count(name) > 1}:
        yield OptionError(f"{where}: [[heads]]: {name!r} is in this file twice")
    for head in study.heads:
        if {*study.models} <= {*head.options.get("join", ())}:
            yield OptionError(
                f"{where}: [[heads]]: {head.name!r} is joined to every model of this study: "
                "expected one of models that is not in join, whose probe it becomes"
            )
    for model in study.encoders:
        if model not in MODELS and ":" not in model:  # an address is read by the extraction
            import timm  # takes seconds, so only for names outside our catalogue

            if not timm.is_model(model):
                yield UnknownNameError(f"model in {where}", model, [*MODELS, *timm.list_models()])
    for dataset in study.datasets:
        source = study.source(dataset)
        kind, _, place = source.partition(":")
        own_source = place and any(form.startswith(f"{kind}:") for form in SOURCE_FORMS)
        if not own_source and source not in DATASETS:
            yield UnknownNameError(
                f"dataset in {where}",
                source,
                DATASETS,
                hint=f"(or one of your own: {', '.join(SOURCE_FORMS)})",
            )


def _wrong_spatial(study: Study, where: str) -> Iterator[LayercacheError]:
    """Yield an error for spatial tokens that a codec cannot store, or that a head sees twice.

    The layers of a model outside the catalogue are not known here: the probe itself checks them.
    """
    tables = {"extract": study.extract, **{f"model.{k}": v for k, v in study.model.items()}}
    stores = {name: table.store for name, table in tables.items() if table.store}
    heads = [head for head in study.heads if "spatial" in head.options]
    if stores and not heads:
        yield OptionError(
            f"{where}: store is how spatial tokens are stored, and no head has any: name them in "
            "[[heads]] (spatial), or leave store out"
        )
    for head in heads:
        for name, store in stores.items():
            try:
                check_storable(store, parse_spatial_kinds(head.options["spatial"]))
            except OptionError as error:
                yield OptionError(f"{where}: [{name}] with head {head.name!r}: {error}")
        depths = {MODELS[model].depth for model in study.models if model in MODELS}
        for depth in sorted(depths):
            try:
                head.check_each_once(depth)
            except OptionError as error:
                yield OptionError(f"{where}: [[heads]]: {head.name!r}: {error}")
                break

"""From a study to its cells: the extractions it takes, and the probes that read them, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layercache.extraction.datasets.registry import dataset_name
from layercache.extraction.options import ExtractOptions
from layercache.study.file import HeadPlan, Study

POOLED = frozenset({"cls", "ap"})
"""Kinds that one cache holds for every layer; others are large and are extracted for the layers that a head asks for."""
RENAMED = {
    "root": "data_root",
    "limit_seed": "seed",
    "store_dtype": "storage_dtype",
    "codec": "compressor",
    "wait": "wait_for_lock",
}
"""Key of the file -> option of `extract`."""


@dataclass(frozen=True, kw_only=True)
class PlannedExtraction:
    """One backbone over one data set, with one choice of layers and tokens."""

    model: str
    """Backbone."""
    dataset: str
    """Data set, as named in the study."""
    options: ExtractOptions
    """What `extract` is asked for."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.model} on {self.dataset}: extract {self.options.tokens} of layers {self.options.layers}"

    @property
    def key(self) -> tuple[str, ...]:
        """What tells the extractions of a study apart."""
        return (self.model, self.dataset, str(self.options.layers), str(self.options.tokens))

    @property
    def cached_name(self) -> str:
        """The data set's name in the cache."""
        return dataset_name(str(self.options.dataset))


@dataclass(frozen=True, kw_only=True)
class PlannedProbe:
    """One column of one backbone on one data set: a head, every seed."""

    model: str
    """Backbone."""
    dataset: str
    """Data set, as named in the study."""
    head: HeadPlan
    """What is trained."""
    seeds: tuple[int, ...]
    """With which seeds."""
    cache: PlannedExtraction
    """Where its tokens come from."""
    beside: PlannedExtraction | None
    """Where a hybrid head's spatial tokens come from."""
    options: Mapping[str, Any]
    """Of `probe`: device, precision ..."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.model} on {self.dataset}: {self.head.name}"


PlannedJob = PlannedExtraction | PlannedProbe


def plan(study: Study) -> tuple[PlannedJob, ...]:
    """All cells, data set by data set and in each backbone by backbone; an extraction comes right before the first probe that reads it.

    Raises OptionError for options that `extract` does not take.
    """
    cells: list[PlannedJob] = []
    found: dict[tuple[str, ...], PlannedExtraction] = {}

    def need(extraction: PlannedExtraction) -> PlannedExtraction:
        if extraction.key not in found:
            found[extraction.key] = extraction
            cells.append(extraction)
        return found[extraction.key]

    pooled = {word for head in study.heads for word in head.tokens.split("+")} & POOLED
    every = "cls+ap" if "cls" in pooled else "ap"
    for dataset in study.datasets:
        for model in study.models:
            for head in study.heads:
                small = set(head.tokens.split("+")) <= POOLED
                layers, tokens = (
                    (study.extract.get("layers", "all"), every)
                    if small
                    else (head.layers, head.tokens)
                )
                cache = need(
                    extraction_of(study, model=model, dataset=dataset, layers=layers, tokens=tokens)
                )
                beside = None
                if "spatial" in head.options:
                    layers = head.options.get("spatial_layers", "last")
                    beside = need(
                        extraction_of(
                            study,
                            model=model,
                            dataset=dataset,
                            layers=layers,
                            tokens=head.options["spatial"],
                        )
                    )
                cells.append(
                    PlannedProbe(
                        model=model,
                        dataset=dataset,
                        head=head,
                        seeds=study.seeds,
                        cache=cache,
                        beside=beside,
                        options=study.probe,
                    ),
                )
    return tuple(cells)


def extraction_of(
    study: Study, *, model: str, dataset: str, layers: str, tokens: str
) -> PlannedExtraction:
    """One extraction with the options that the study gives it. Raises OptionError."""
    source = study.source(dataset)
    general = dict(study.extract)
    if ":" in source:  # carries its own place: the root for all named sets is not meant for it
        general.pop("root", None)
    merged = general | dict(study.of_dataset.get(dataset, {})) | dict(study.of_model.get(model, {}))
    merged.pop("source", None)
    weights = {model: merged.pop("weights")} if "weights" in merged else {}
    options = {RENAMED.get(key, key): value for key, value in merged.items()} | {
        "layers": layers,
        "tokens": tokens.replace("patch", "all"),
    }
    if options.get("on_error") == "stop":  # the word of earlier versions
        options["on_error"] = "raise"
    if "limit" not in options:
        options.pop("seed", None)
    return PlannedExtraction(
        model=model,
        dataset=dataset,
        options=ExtractOptions(
            models=[model], dataset=source, weights=weights, cache=study.cache, **options
        ),
    )

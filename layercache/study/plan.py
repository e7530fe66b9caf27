"""Plans the jobs of a study: its extractions and the probes that read them, in running order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layercache.cache.format.spec import POOLED_KINDS
from layercache.extraction.options import ExtractOptions
from layercache.probing.splits.test_choice import SPLIT_MARK
from layercache.study.file import HeadPlan, Study
from layercache.study.tables import SplitsTable, split_preprocessing


@dataclass(frozen=True, kw_only=True)
class PlannedExtraction:
    """One backbone over one dataset, with one choice of layers and tokens."""

    model: str
    """Backbone."""
    dataset: str
    """Data set, as named in the study."""
    options: ExtractOptions
    """Options of `extract`."""
    annotations: str | None = None
    """Table of annotation columns for the cache."""

    @property
    def name(self) -> str:
        """Name in messages."""
        options = self.options
        return (
            f"{self.model} on {self.dataset}: extract {options.tokens} of layers {options.layers}"
        )

    @property
    def key(self) -> tuple[str, ...]:
        """Identity among the extractions of a study."""
        return (self.model, self.dataset, str(self.options.layers), str(self.options.tokens))


@dataclass(frozen=True, kw_only=True)
class PlannedProbe:
    """One head on one backbone and dataset, with all seeds."""

    model: str
    """Backbone."""
    dataset: str
    """Data set, as named in the study."""
    head: HeadPlan
    """Head to train."""
    seeds: tuple[int, ...]
    """Seeds, one probe each."""
    cache: PlannedExtraction
    """Extraction that its tokens come from."""
    spatial_cache: PlannedExtraction | None
    """Extraction that the spatial tokens of a hybrid or fusion head come from."""
    splits: Mapping[str, Any]
    """Arguments of `probe` on the samples that select and test."""
    options: Mapping[str, Any]
    """Other options of `probe`, such as device and precision."""

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.model} on {self.dataset}: {self.head.name}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `probe` that say which probes to train."""
        head = self.head
        return {
            "head": head.head,
            "layers": head.layers,
            "tokens": head.tokens,
            "configs": head.configs or None,
            "train_config": head.train_config,
            "seeds": self.seeds,
            "precision": self.options.get("precision", "fp32"),
            "paper_compat": self.options.get("paper_compat", False),
            "search": self.options.get("search", "full"),
            **self.splits,
            **head.options,
        }


PlannedJob = PlannedExtraction | PlannedProbe


def plan(study: Study) -> tuple[PlannedJob, ...]:
    """Return all jobs by dataset, then backbone; an extraction precedes its first probe.

    Raises:
        OptionError: `extract` does not take an option.
    """
    jobs: list[PlannedJob] = []
    extractions: dict[tuple[str, ...], PlannedExtraction] = {}

    def require(extraction: PlannedExtraction) -> PlannedExtraction:
        if extraction.key not in extractions:
            extractions[extraction.key] = extraction
            jobs.append(extraction)
        return extractions[extraction.key]

    probe_options = study.probe.options()
    if study.probes_root:
        probe_options["probes_root"] = study.probes_root
    words = {"ap", *(word for head in study.heads for word in head.tokens.split("+"))}
    # one cache of all layers for the pooled kinds; others are large: a head's layers alone
    pooled_tokens = "+".join(kind for kind in POOLED_KINDS if kind in words)
    for dataset in study.datasets:
        for model in study.models:
            for head in study.heads:
                small = set(head.tokens.split("+")) <= {*POOLED_KINDS}
                layers, tokens = (
                    (study.extract.layers or "all", pooled_tokens)
                    if small
                    else (head.layers, head.tokens)
                )
                cache = require(
                    extraction_of(study, model=model, dataset=dataset, layers=layers, tokens=tokens)
                )
                splits = splits_of(study, dataset)
                for name in splits.get("test_cache", ()):
                    test, _, _ = name.partition(SPLIT_MARK)
                    if test in study.datasets:
                        require(
                            extraction_of(
                                study, model=model, dataset=test, layers=layers, tokens=tokens
                            )
                        )
                spatial_cache = None
                if "spatial" in head.options:
                    layers = head.options.get("spatial_layers", "last")
                    spatial_cache = require(
                        extraction_of(
                            study,
                            model=model,
                            dataset=dataset,
                            layers=layers,
                            tokens=head.options["spatial"],
                        )
                    )
                jobs.append(
                    PlannedProbe(
                        model=model,
                        dataset=dataset,
                        head=head,
                        seeds=study.seeds,
                        cache=cache,
                        spatial_cache=spatial_cache,
                        splits=with_sources(study, splits),
                        options=probe_options,
                    ),
                )
    return tuple(jobs)


def splits_of(study: Study, dataset: str) -> dict[str, Any]:
    """Return the arguments of `probe` on the samples of a dataset that select and test."""
    table = study.dataset.get(dataset)
    return study.splits.arguments() | (table.arguments() if table else {})


def with_sources(study: Study, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the sources of test datasets instead of their names."""
    if "test_cache" not in splits:
        return dict(splits)
    sources = []
    for name in splits["test_cache"]:
        test, mark, split = name.partition(SPLIT_MARK)
        source = study.source(test) if test in study.datasets else test
        sources.append(f"{source}{mark}{split}")
    return {**splits, "test_cache": sources}


def extraction_of(
    study: Study, *, model: str, dataset: str, layers: str, tokens: str
) -> PlannedExtraction:
    """Return one extraction with the options of the study.

    Raises:
        OptionError: An option has a wrong value.
    """
    source = study.source(dataset)
    # a source with its own path has no use for the root of named datasets
    merged = study.extract.options("share_decode", *(["data_root"] if ":" in source else []))
    for table in (study.dataset.get(dataset), study.model.get(model)):
        merged |= table.options("source", *SplitsTable.model_fields) if table else {}
    weights = {model: merged.pop("weights")} if "weights" in merged else {}
    merged |= {"layers": layers, "tokens": tokens.replace("patch", "all")}
    if "limit" not in merged:
        merged.pop("seed", None)
    preprocessing, others = split_preprocessing(merged)
    return PlannedExtraction(
        model=model,
        dataset=dataset,
        annotations=study.annotations(dataset),
        options=ExtractOptions(
            models=[model],
            dataset=source,
            weights=weights,
            cache=study.cache,
            preprocessing=preprocessing,
            **others,
        ),
    )

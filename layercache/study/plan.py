"""Plans the jobs of a study: its extractions and the probes that read them, in running order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeVar

from layercache.cache.format.cache_spec import POOLED_KINDS
from layercache.extraction.options import ExtractOptions
from layercache.probing.splits.test_choice import SPLIT_MARK
from layercache.study.file import HeadPlan, Study
from layercache.study.schema import SplitsTable, split_preprocessing

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PlannedExtraction:
    """One cache: of a backbone over a dataset, with one choice of layers and tokens.

    With `options.spatial` it is the second cache of this extraction, that of the spatial tokens.
    """

    model: str
    """Backbone."""
    dataset: str
    """Data set, as named in the study."""
    options: ExtractOptions
    """Options of `extract`."""
    annotations: str | None = None
    """Table of annotation columns for the cache."""

    @property
    def layers(self) -> str:
        """Layers in the cache."""
        return str(self.options.spatial_layers if self.options.spatial else self.options.layers)

    @property
    def tokens(self) -> str:
        """Token kinds in the cache, joined by "+"."""
        return str(self.options.spatial or self.options.tokens)

    @property
    def name(self) -> str:
        """Name in messages."""
        stored = f" as {self.options.store}" if self.options.store else ""
        return (
            f"{self.model} on {self.dataset}: extract {self.tokens} of layers {self.layers}{stored}"
        )

    @property
    def key(self) -> tuple[str, ...]:
        """Identity among the extractions of a study."""
        return (self.model, self.dataset, self.layers, self.tokens, self.options.store or "")

    @property
    def first_cache(self) -> PlannedExtraction | None:
        """First cache of this extraction, from the same forward; None without spatial tokens."""
        if not self.options.spatial:
            return None
        other_tokens = replace(self.options, spatial=None, spatial_layers="last", store=None)
        return replace(self, options=other_tokens)


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
    joined: tuple[PlannedExtraction, ...] = ()
    """Extractions of further backbones whose tokens the head sees, too."""
    splits: Mapping[str, Any]
    """Arguments of `probe` on the samples that select and test."""
    options: Mapping[str, Any]
    """Other options of `probe`, such as device and precision."""

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.model} on {self.dataset}: {self.head.name}"

    @property
    def extractions(self) -> tuple[PlannedExtraction, ...]:
        """All extractions that its tokens come from."""
        spatial = () if self.spatial_cache is None else (self.spatial_cache,)
        return (self.cache, *spatial, *self.joined)

    def caches(self, caches: Mapping[tuple[str, ...], T]) -> dict[str, Any]:
        """Return the arguments of `probe` that are caches, by the keys of their extractions."""
        return {
            "cache": caches[self.cache.key],
            "spatial_cache": caches[self.spatial_cache.key] if self.spatial_cache else None,
            "join": [caches[extraction.key] for extraction in self.joined],
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `probe` that say which probes to train, without the caches."""
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
            **{name: value for name, value in head.options.items() if name != "join"},
        }


PlannedJob = PlannedExtraction | PlannedProbe


def plan(study: Study) -> tuple[PlannedJob, ...]:
    """Return all jobs by dataset, then backbone; an extraction precedes its first probe.

    Spatial tokens come first: their extraction also writes the cache of the pooled tokens, with the
    same forward. A head with `join` is trained for each backbone that is not joined to it.

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

    def selection_of(head: HeadPlan) -> dict[str, str]:
        if set(head.tokens.split("+")) <= {*POOLED_KINDS}:
            return {"layers": study.extract.layers or "all", "tokens": pooled_tokens}
        return {"layers": head.layers, "tokens": head.tokens.replace("patch", "all")}

    selections = [selection_of(head) for head in study.heads]

    def heads_of(model: str) -> list[HeadPlan]:
        if model not in study.models:
            return []
        return [head for head in study.heads if model not in head.options.get("join", ())]

    def require_spatial(model: str, dataset: str) -> dict[str, PlannedExtraction]:
        """Require the spatial tokens of a model's heads; return them by the heads' names."""
        spatial_caches = {}
        for head in heads_of(model):
            if "spatial" in head.options:
                layers = head.options.get("spatial_layers", "last")
                spatial = {"spatial": head.options["spatial"], "spatial_layers": layers}
                job = extraction_of(study, model, dataset, **selection_of(head), **spatial)
                tokens = {"layers": layers, "tokens": job.tokens.replace("patch", "all")}
                if job.options.store is None and tokens in selections:
                    job = extraction_of(study, model, dataset, **tokens)
                spatial_caches[head.name] = require(job)
        return spatial_caches

    def require_other(model: str, dataset: str, selection: dict[str, str]) -> PlannedExtraction:
        require_spatial(model, dataset)
        return require(extraction_of(study, model, dataset, **selection))

    for dataset, model in product(study.datasets, study.models):
        spatial_caches = require_spatial(model, dataset)
        for head in heads_of(model):
            selection = selection_of(head)
            cache = require(extraction_of(study, model, dataset, **selection))
            joined = [
                require_other(other, dataset, selection) for other in head.options.get("join", ())
            ]
            splits = splits_of(study, dataset)
            for name in splits.get("test_cache", ()):
                test, _, _ = name.partition(SPLIT_MARK)
                if test in study.datasets:
                    require_other(model, test, selection)
            jobs.append(
                PlannedProbe(
                    model=model,
                    dataset=dataset,
                    head=head,
                    seeds=study.seeds,
                    cache=cache,
                    spatial_cache=spatial_caches.get(head.name),
                    joined=tuple(joined),
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


def extraction_of(study: Study, model: str, dataset: str, **selection: str) -> PlannedExtraction:
    """Return one extraction with the options of the study.

    Args:
        study: The study.
        model: Name of the backbone.
        dataset: Name of the dataset.
        selection: layers and tokens of `extract`; also spatial and spatial_layers for the cache of
            these tokens.

    Raises:
        OptionError: An option has a wrong value.
    """
    source = study.source(dataset)
    # a source with its own path has no use for the root of named datasets
    merged = study.extract.options("share_decode", *(["data_root"] if ":" in source else []))
    for table in (study.dataset.get(dataset), study.model.get(model)):
        merged |= table.options("source", *SplitsTable.model_fields) if table else {}
    weights = {model: merged.pop("weights")} if "weights" in merged else {}
    merged |= selection
    if "spatial" not in selection:
        merged.pop("store", None)
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

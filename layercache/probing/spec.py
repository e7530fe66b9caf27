"""One probe as data.

The digest of a specification is the probe's id, so that an existing probe is found and not trained
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layercache.cache.format.cache_spec import CacheSpec, sha256_json
from layercache.probing.heads.fusion import FUSION_VERSION
from layercache.probing.heads.spec import BASELINES, HeadSpec
from layercache.probing.metrics import PRIMARY, Metric, find_metric
from layercache.probing.results.head_checkpoint import JoinedEncoder, Provenance
from layercache.probing.splits.test_sets import TestSet
from layercache.probing.splits.validation_options import Validation
from layercache.probing.targets.target import Target, label_target
from layercache.probing.token_selection import TokenSelection
from layercache.probing.training.config import TrainConfig

SCHEMA = 4
"""Increased when a change makes a probe of the same specification come out differently."""
COORDINATE_VERSION = 3
"""Increased when a search by coordinates trains other configurations; part of the specification of
its probes (docs/search.md)."""


def probe_id(values: Mapping[str, Any]) -> str:
    """Return the id of a probe from the JSON values of its specification, 12 hex digits."""
    return sha256_json(values)[:12]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeSpec:
    """One probe: everything that determines its result."""

    tokens: TokenSelection
    """Input of the head."""
    head: str
    """Name of the head, one of HEADS."""
    head_spec: HeadSpec
    """Kind and shape of the head; for the baselines, of a linear head on the same tokens."""
    grid: tuple[Mapping[str, float], ...]
    """Configurations to select from."""
    seed: int
    """Seed of the training subset, initial parameters, batch order and noise."""
    shots: int | None
    """Training samples per class, or None for all."""
    train_fraction: float | None
    """Fraction of the training samples, or None for all."""
    train_config: TrainConfig
    """Training of the head; without effect on the baselines, as `precision`."""
    precision: str
    """Arithmetic of the products over tokens, fp32 or bf16."""
    train_split: str = "train"
    """Split that the head is trained and selected on."""
    test_split: str = "test"
    """Split that the head is tested on."""
    paper_compat: bool = False
    """Selects the first of the grid among configurations with equal validation scores."""
    target: Target | None = None
    """Target of the head; None: the dataset's own label."""
    select: str | None = None
    """Metric by which a configuration is selected; None: that of the task (`metrics.PRIMARY`)."""
    further_tests: tuple[TestSet, ...] = ()
    """Test sets besides the test split."""
    validation: Validation = field(default_factory=Validation)
    """Samples that score the configurations."""
    search: str = "full"
    """Name of the search, one of `search.strategies.SEARCHES`."""

    def to_json(self) -> dict[str, Any]:
        """Return all that determines the probe, as plain JSON."""
        baseline = self.head in BASELINES
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "sources": [
                {
                    "fingerprint": cache.spec.fingerprint,
                    "extraction": describe_extraction(cache.spec),
                    "pairs": [list(pair) for pair in pairs],
                }
                for cache, pairs in self.tokens.sources
            ],
            "head": self.head,
            "head_spec": self.head_spec.to_json(),
            "grid": [dict(hparams) for hparams in self.grid],
            "seed": self.seed,
            "shots": self.shots,
            "train_fraction": self.train_fraction,
            "train_config": None if baseline else self.train_config.to_json(),
            "precision": None if baseline else self.precision,
            "splits": [self.train_split, self.test_split],
            **self.resolved_target.to_json(),
        }
        # options that are not used are left out, so that a new one changes no existing id
        if self.head_spec.kind == "fusion":
            values["fusion_version"] = FUSION_VERSION
        if self.paper_compat:
            values["paper_compat"] = True
        if self.search != "full":
            values["search"] = self.search
        if self.search == "coordinate":
            values["search_version"] = COORDINATE_VERSION
        if self.select is not None:
            values["select"] = self.select
        if self.further_tests:
            columns = self.resolved_target.columns
            values["tests"] = [_describe_test(test, columns) for test in self.further_tests]
        if validation := self.validation.to_json():
            values["validation"] = validation
        if self.validation.digests:
            values["annotations"] = values.get("annotations", {}) | dict(self.validation.digests)
        return values

    @property
    def train_splits(self) -> tuple[str, ...]:
        """Splits whose samples the search sees: the training split, and that of validation."""
        val_split = self.validation.split
        return (self.train_split,) if val_split is None else (self.train_split, val_split)

    @property
    def needs_float64(self) -> bool:
        """True if it needs a device with float64, as closed forms and regressions do."""
        return self.head in BASELINES or self.head_spec.regression

    @property
    def id(self) -> str:
        """Digest of the specification, 12 hex digits."""
        return probe_id(self.to_json())

    @property
    def selection_metric(self) -> Metric:
        """Metric by which a configuration is selected."""
        return find_metric(self.select or PRIMARY[self.head_spec.task])

    @property
    def resolved_target(self) -> Target:
        """Target of the head."""
        return self.target or label_target(self.tokens.cache)

    @property
    def provenance(self) -> Provenance:
        """Provenance stored in the checkpoint."""
        sources = self.tokens.sources
        encoders = [JoinedEncoder.of(c.spec, n_tokens=len(pairs)) for c, pairs in sources]
        return Provenance.of(
            self.tokens.cache.spec,
            dataset=self.tokens.cache.spec.dataset.name,
            classes=self.resolved_target.classes,
            target=self.resolved_target.columns,
            pairs=self.tokens.pairs,
            fingerprints=tuple(cache.spec.fingerprint for cache, _ in sources),
            codecs=tuple(cache.spec.codec for cache, _ in sources if cache.spec.codec),
            encoders=tuple(encoders) if self.tokens.joined else None,
        )


def _describe_test(test: TestSet, columns: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"name": test.name, "split": test.split}
    if test.cache is not None:
        values["fingerprint"] = test.cache.spec.fingerprint
        values["extraction"] = describe_extraction(test.cache.spec)
        digests = test.cache.annotation_digests
        values["annotations"] = {name: digests[name] for name in columns if name in digests}
    return values


def describe_extraction(spec: CacheSpec) -> dict[str, Any]:
    """Return all that determines a stored token, with nested values as digests of 12 hex digits.

    Caches that differ only in the layers and tokens that they store have this in common.
    """
    fields = {
        name: value
        for name, value in spec.to_json().items()
        if name not in ("schema", "model", "layers", "tokens")
    }
    return {
        name: sha256_json(value)[:12] if isinstance(value, dict | list) else value
        for name, value in {**fields, "weights": spec.weights[:12]}.items()
    }

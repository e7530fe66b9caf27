"""Input of a report: caches, grouped by backbone and dataset, and their complete probes.

Nothing is computed from images here, and no backbone is run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from shlex import join, quote
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.cache.format.cache_spec import digest_ids
from layercache.cache.storage.paths import CachePath, root_option
from layercache.errors import LayercacheError
from layercache.probing.cli_options import seed_options, training_options
from layercache.probing.heads.spec import BASELINES, REGRESSION
from layercache.probing.metrics import find_metric
from layercache.probing.results.predictions import Predictions
from layercache.probing.results.probe_store import Probe
from layercache.probing.targets.target_columns import read_target
from layercache.reporting.analysis.error_analysis import is_correct
from layercache.reporting.analysis.gains import COMBINATION_COLUMNS, KIND_COLUMNS, select_kind
from layercache.reporting.analysis.paired_bootstrap import (
    PairedBootstrap,
    paired_bootstrap,
    paired_bootstrap_r2,
)
from layercache.reporting.analysis.published import BASELINE, ProbeKind
from layercache.reporting.analysis.regression import SquaredErrors, squared_errors
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.probe_selection import (
    OPTION_COLUMNS,
    LeftOut,
)

logger = logging.getLogger(__name__)

COLUMNS = [
    *COMBINATION_COLUMNS,
    *KIND_COLUMNS,
    "seed",
    *OPTION_COLUMNS,
    "accuracy",
    "metric",
    "probe",
    "variant",
]
ThumbnailLoader = Callable[[str, str], Any]
"""(source of the dataset, id of a test image) -> PIL image, or None if it is not available."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Correctness:
    """Correctness of one probe, or of the seeds of one kind, on each test image."""

    correct: NDArray[np.float64]
    """Share of the seeds that are correct, (N,)."""
    targets: NDArray[np.int64]
    """Class numbers, (N,)."""
    ids: str
    """Digest of the test images' ids."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """Caches and probes, and the table from which the sections are made."""

    combinations: Mapping[str, Combination]
    """Combinations by key."""
    probes: Mapping[str, Probe]
    """Probes by folder."""
    table: pd.DataFrame
    """One row per probe, with columns COLUMNS."""
    left_out: Sequence[LeftOut] = ()
    """Probes left out by `select_probes`."""
    other_targets: Mapping[str, int] = field(default_factory=dict)
    """Names of the targets that are not on this page, and their numbers of probes."""
    root: CachePath | None = None
    """Root of the caches if one was given, for the commands on the page."""
    probes_root: str | CachePath | None = None
    """Root of probes outside their caches if one was given, for the commands on the page."""
    load_thumbnail: ThumbnailLoader | None = None
    """Source of test images."""
    per_head: bool = False
    """Whether to draw the attention of each head, too."""
    cka_images: int = 2000
    """Number of test images for CKA at most."""
    details: int = 12
    """Number of combinations with figures of their own at most."""
    metrics: Sequence[str] = ()
    """Names of further metrics to show."""
    errors: Mapping[str, Correctness | SquaredErrors] = field(default_factory=dict, repr=False)
    """Errors of each probe on the test images, by folder, but for multi-label data."""

    @property
    def metric(self) -> str:
        """Title of the metric of all probes on the page."""
        names = {combination.target.metric for combination in self.combinations.values()}
        titles = [find_metric(name).title for name in sorted(names)]
        return " or ".join(titles) or "balanced accuracy"

    @cached_property
    def standard(self) -> pd.DataFrame:
        """Rows with all training images and the paper's number of attention heads."""
        standard: pd.DataFrame = self.table[self.table[OPTION_COLUMNS].isna().all(axis=1)]
        return standard

    @cached_property
    def detailed(self) -> list[Combination]:
        """The combinations that get figures of their own, those with most probes first."""
        counts = self.table["combination"].value_counts()
        by_count = sorted(
            self.combinations.values(), key=lambda c: (-int(counts.get(c.key, 0)), c.name)
        )
        return by_count[: self.details]

    def probe_command(
        self,
        combination: Combination | None,
        kind: ProbeKind,
        *,
        model: str | None = None,
        options: str = "",
    ) -> str:
        """Return the command that trains a kind of probe as the existing ones were trained.

        Args:
            combination: Backbone and dataset; None leaves placeholders.
            kind: Kind of probe.
            model: Another backbone than that of the combination.
            options: Further options, with a leading space.
        """
        cache, training = ["--model", "MODEL", "--dataset", "DATASET"], []
        if combination is not None:
            cache = ["--model", model or combination.model, "--dataset", combination.source]
            if model is None and self._has_namesakes(combination):
                cache += ["--fingerprint", combination.cache.path.name]
            training = combination.target.options
            training += self._training_options(combination, kind, seeds="--seeds" not in options)
        command = (
            f"layercache probe {join(cache)} --head {kind.head} --layers {kind.layers} "
            f"--tokens {kind.tokens}{options}{self.cache_option}"
        )
        return f"{command} {join(training)}" if training else command

    def _has_namesakes(self, combination: Combination) -> bool:
        """Return whether another combination has the same model and dataset names."""
        is_name = combination.source == combination.dataset
        return any(
            combination.source in ((other.source, other.dataset) if is_name else (other.source,))
            for other in self.combinations.values()
            if other.cache.path != combination.cache.path and other.model == combination.model
        )

    def _training_options(
        self, combination: Combination, kind: ProbeKind, *, seeds: bool
    ) -> list[str]:
        """Return the options of an existing probe, if possible one with the same head."""
        rows = self.standard[self.standard["combination"] == combination.key]
        rows = rows[~rows["head"].isin(BASELINES)]
        if rows.empty:
            return []
        same_head = rows[rows["head"] == kind.head]
        example = (rows if same_head.empty else same_head).iloc[0]
        alike = rows[
            (rows[[*KIND_COLUMNS, "variant"]] == example[[*KIND_COLUMNS, "variant"]]).all(axis=1)
        ]
        words = training_options(self.probes[example["probe"]].spec, head=kind.head)
        return words + (seed_options([int(seed) for seed in alike["seed"]]) if seeds else [])

    @property
    def cache_option(self) -> str:
        """The options --cache and --probes for commands, for what is not in the default root."""
        options = "" if self.root is None else root_option(self.root)
        if self.probes_root is not None:
            options += f" --probes {quote(str(self.probes_root))}"
        return options

    def probes_of(self, combination: Combination, kind: ProbeKind) -> list[Probe]:
        """Return the standard probes of one kind, sorted by seed."""
        rows = select_kind(self.standard, kind)
        rows = rows[rows["combination"] == combination.key].sort_values("seed")
        return [self.probes[folder] for folder in rows["probe"]]

    def class_names(self, combination: Combination, predictions: Predictions) -> tuple[str, ...]:
        """Return the names of the classes, or of a regression's columns, of predictions.

        Classes of a column that has been replaced or dropped since have numbers.
        """
        target, n_classes = combination.target, predictions.logits.shape[1]
        names = tuple(target.name.split(","))
        if target.task != REGRESSION:
            try:
                names = read_target(combination.cache, target.name, task=target.task).classes
            except LayercacheError:
                names = ()
        if len(names) != n_classes:
            return tuple(f"class {c}" for c in range(n_classes))
        return names

    def paired_predictions(
        self, combination: Combination, kind: ProbeKind
    ) -> tuple[Predictions, Predictions] | None:
        """Return predictions of a kind of probe and of the baseline on the same test images.

        Both have the lowest seed that they share; None if there is no such pair.
        """
        probes, baselines = (
            {int(p.spec["seed"]): p for p in self.probes_of(combination, k)}
            for k in (kind, BASELINE)
        )
        for seed in sorted(set(probes) & set(baselines)):
            a, b = probes[seed].predictions(), baselines[seed].predictions()
            if a.ids == b.ids:
                return a, b
        return None

    def test_ids(self, combination: Combination, predictions: Predictions) -> list[str] | None:
        """Return the ids of the predicted images, or None if they are not known."""
        if predictions.sample_ids is not None:
            return list(predictions.sample_ids)
        for cache in combination.caches:
            for name in cache.splits[::-1]:
                if not cache.complete(name):
                    continue
                ids = cache.split(name).ids
                if digest_ids(ids) == predictions.ids:
                    return ids
        return None

    def bootstrap(
        self, combination: Combination, kind: ProbeKind, *, over: ProbeKind = BASELINE
    ) -> PairedBootstrap | None:
        """Bootstrap the gain of one kind of probe over another over test images.

        Correctness, or the squared error of a regression, is averaged over the seeds that both
        have. None if they share none, if they were tested on different images, and for multi-label
        data.
        """
        seeds = set.intersection(
            *({int(p.spec["seed"]) for p in self.probes_of(combination, k)} for k in (kind, over))
        )
        a, b = (self._mean_errors(combination, k, seeds) for k in (kind, over))
        if a is None or b is None or a.ids != b.ids:
            return None
        if isinstance(a, SquaredErrors) and isinstance(b, SquaredErrors):
            return paired_bootstrap_r2(a, b)
        assert isinstance(a, Correctness)
        assert isinstance(b, Correctness)
        return paired_bootstrap(a.correct, b.correct, labels=a.targets)

    def _mean_errors(
        self, combination: Combination, kind: ProbeKind, seeds: Collection[int]
    ) -> Correctness | SquaredErrors | None:
        """Return the mean over seeds; None for multi-label data or different test images."""
        folders = [
            str(p.path) for p in self.probes_of(combination, kind) if p.spec["seed"] in seeds
        ]
        found = [self.errors[folder] for folder in folders if folder in self.errors]
        if not found or len(found) < len(folders) or len({one.ids for one in found}) != 1:
            return None
        first = found[0]
        if isinstance(first, SquaredErrors):
            squares = [one.errors for one in found if isinstance(one, SquaredErrors)]
            return replace(first, errors=np.mean(squares, axis=0))
        shares = [one.correct for one in found if isinstance(one, Correctness)]
        return replace(first, correct=np.mean(shares, axis=0))


def read_errors(predictions: Predictions) -> Correctness | SquaredErrors | None:
    """Return the errors of a probe, which take a small part of the memory of its logits.

    None for multi-label data.
    """
    if predictions.targets.dtype.kind == "f":
        return squared_errors([predictions])
    if predictions.targets.ndim != 1:
        return None
    correct = is_correct(predictions.logits, predictions.targets).astype(np.float64)
    return Correctness(correct=correct, targets=predictions.targets, ids=predictions.ids)

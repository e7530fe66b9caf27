"""Storage of a probe in CACHE/probes/<probe id>/.

    probe.json          specification, row of the table, validation score of every configuration,
                        size and SHA-256 of the other files
    head.safetensors    the trained head (not for a knn baseline)
    predictions.npz     logits (N, C) float32, targets, ids; for heads with attention also its mean
                        and standard deviation (H, S)
    curves.npz          learning curves (not for knn, logreg, ridge and lda)
    search.json         only while the probe is not complete: the scores so far
    training/           likewise: the states of unfinished training (training_checkpoints.py)

`probe.json` is written last: its existence means that the probe is complete. It carries its own
checksum (cache/format/result_folders.py).

Shapes: N test images, C classes, H attention heads, S tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache.cache.format.result_folders import (
    PARENT,
    RECORD,
    RETRAIN_HINT,
    FileDigest,
    ResultRecord,
    read_file,
    read_record,
    scan,
)
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.errors import (
    CacheCorruptError,
    ProbeError,
    UnknownNameError,
)
from layercache.probing.heads import HeadSpec
from layercache.probing.metrics import (
    RESAMPLES,
    Interval,
    bootstrap,
    check_metric,
    compute,
    metrics_of,
    parse_metrics,
    task_of,
)
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.head_checkpoint import Checkpoint, load_head
from layercache.probing.results.identity import Settings, read_settings
from layercache.probing.results.learning_curves import LearningCurves
from layercache.probing.results.predictions import Attention, Predictions
from layercache.probing.results.record_fields import check_row, check_spec, read_configs, read_time

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

PROBES = PARENT
PREDICTIONS_FILE = "predictions.npz"
CURVES_FILE = "curves.npz"


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """One complete probe: a head, trained with one seed on one selection of tokens, tested once."""

    path: CachePath
    """Its folder."""
    spec: Mapping[str, Any]
    """All that determined it (see `ProbeSpec.to_json`); the id is its digest."""
    row: Mapping[str, Any]
    """Its row of the results table."""
    configs: tuple[ConfigScore, ...]
    """Mean validation score of every configuration of the grid."""

    files: Mapping[str, FileDigest] = field(default_factory=dict)
    """Name -> size and SHA-256 of its files."""
    sha256: str = ""
    """Checksum of its record."""
    written_at: float = 0.0
    """When it was written, in seconds since the epoch; 0 if an older version wrote it."""

    @property
    def id(self) -> str:
        """Name of the folder."""
        return self.path.name

    @cached_property
    def settings(self) -> Settings:
        """Its spec in words, and the keys that identify its experiment."""
        return read_settings(self.spec)

    @property
    def pairs(self) -> tuple[tuple[int, str], ...]:
        """(layer, token) of each token that the head sees."""
        return tuple(
            (int(layer), str(token))
            for source in self.spec["sources"]
            for layer, token in source["pairs"]
        )

    def head(self) -> Checkpoint:
        """Load the trained head.

        Raises:
            CacheCorruptError: The file is damaged.
            ProbeNotFoundError: It is a knn baseline, which has none.
        """
        return load_head(self.path)

    @property
    def tests(self) -> tuple[str, ...]:
        """Names of its test sets: the test split, and further ones."""
        further = (str(test["name"]) for test in self.spec.get("tests", ()))
        return (str(self.spec["splits"][1]), *further)

    def predictions(self, test: str | None = None) -> Predictions:
        """Load the outputs and targets of the test images.

        Args:
            test: Name of the test set, one of `tests`; None: the test split.

        Raises:
            UnknownNameError: It has no test set of this name.
            CacheCorruptError: The file is damaged.
        """
        if test is not None and test not in self.tests:
            raise UnknownNameError(f"test set of probe {self.id}", test, self.tests)
        file = predictions_file(0 if test is None else self.tests.index(test))
        if (digest := self.files.get(file)) is None:
            raise CacheCorruptError(
                f"{self.path / RECORD}: lists no {file}: {RETRAIN_HINT.format(folder=self.path)}"
            )
        data = read_file(open_store(self.path), file, digest)
        try:
            shape = HeadSpec.from_json(self.spec["head_spec"])
            # of a fusion head, those of one branch, or of both in probes of an older version
            heads = {
                s.attention_rows for s in (shape, shape.at_share(self.row.get("spatial_share")))
            }
            return Predictions.from_bytes(
                data, classes=shape.classes, heads=heads, tokens=shape.tokens
            )
        except ValueError as e:
            raise CacheCorruptError(
                f"{self.path / file} cannot be read ({e}): {RETRAIN_HINT.format(folder=self.path)}"
            ) from e

    def curves(self) -> LearningCurves | None:
        """Load the learning curves as arrays.

        None if the head does not train by epochs, or if an older version wrote the probe.

        Raises:
            CacheCorruptError: The file is damaged.
        """
        if (digest := self.files.get(CURVES_FILE)) is None:
            return None
        data = read_file(open_store(self.path), CURVES_FILE, digest)
        try:
            return LearningCurves.from_bytes(data, configs=len(self.spec["grid"]))
        except ValueError as e:
            raise CacheCorruptError(
                f"{self.path / CURVES_FILE} cannot be read ({e}): "
                f"{RETRAIN_HINT.format(folder=self.path)}"
            ) from e

    def learning_curves(self) -> pd.DataFrame:
        """Return the learning curves of the searched configurations and of the final fit.

        Returns:
            One row per fit and epoch, with the number of the configuration, its hyperparameters,
            the fit ("search" or "final"), the epoch from 1, the mean training loss of the epoch
            (`train_loss`), and the validation score by the metric that selects (`val_score`, NaN
            where the configuration was not evaluated). Values of the search are means over its
            folds.

        Raises:
            ProbeError: It has none: its head does not train by epochs, or an older version of
                layercache wrote it.
            CacheCorruptError: The file is damaged.
        """
        if (curves := self.curves()) is None:
            raise ProbeError(
                f"probe {self.id} ({self.row['head']}) has no learning curves: heads without "
                "training by epochs have none, nor have probes of older versions, which "
                "`layercache probe --refresh` trains again"
            )
        names = ("lr", "weight_decay", "dropout")
        return curves.to_frame(self.spec["grid"], selected={name: self.row[name] for name in names})

    def metrics(
        self, names: str | Iterable[str] | None = None, *, test: str | None = None
    ) -> dict[str, float]:
        """Return test metrics by name; NaN where one is not defined (docs/metrics.md).

        Those that the probe's row does not hold are computed from the stored predictions.

        Args:
            names: Names, or "roc_auc,f1_macro"; None: all metrics of the probe's task.
            test: Name of the test set, as in `predictions`.

        Raises:
            UnknownNameError: There is no such metric or test set.
            OptionError: The probe's task has no such metric.
            CacheCorruptError: The predictions are damaged.
        """
        task = task_of(self.spec["head_spec"])
        wanted = metrics_of(task) if names is None else parse_metrics(names)
        for name in wanted:
            check_metric(name, task=task)
        end = "" if test is None or test == self.tests[0] else f"@{test}"
        stored = {name: self.row.get(f"test_{name}{end}") for name in wanted}
        missing = [name for name, value in stored.items() if value is None]
        if missing:
            predictions = self.predictions(test)
            stored |= compute(predictions.logits, predictions.targets, task=task, names=missing)
        return {name: float(value) for name, value in stored.items() if value is not None}

    def intervals(
        self,
        names: str | Iterable[str] | None = None,
        *,
        test: str | None = None,
        resamples: int = RESAMPLES,
    ) -> dict[str, Interval]:
        """Return the 95 % bootstrap interval of test metrics over test samples, see `metrics`.

        Whole groups of samples are drawn where the predictions hold groups.

        Args:
            names: As in `metrics`.
            test: Name of the test set, as in `predictions`.
            resamples: Number of draws.
        """
        predictions, task = self.predictions(test), task_of(self.spec["head_spec"])
        return bootstrap(
            predictions.logits,
            predictions.targets,
            task=task,
            names=metrics_of(task) if names is None else parse_metrics(names),
            groups=None if predictions.groups is None else np.array(predictions.groups),
            resamples=resamples,
        )

    def attention(self) -> Attention:
        """Load the mean attention over the test images.

        Raises:
            ProbeError: The head has no attention.
        """
        stored = self.predictions()
        if stored.attention_mean is None or stored.attention_std is None:
            raise ProbeError(
                f"probe {self.id} is a {self.row['head']} head, which has no attention"
            )
        return Attention(pairs=self.pairs, mean=stored.attention_mean, std=stored.attention_std)


def predictions_file(number: int) -> str:
    """Return the name of the file of a test set: the first, or a further one from 1 on."""
    return PREDICTIONS_FILE if number == 0 else f"predictions-{number}.npz"


def read_probes(folder: CachePath, *, fingerprint: str | None = None) -> list[Probe]:
    """Load the complete probes in CACHE/probes, by id.

    Probes whose record is damaged or of another schema are left out and named in a warning.

    Args:
        folder: The folder CACHE/probes.
        fingerprint: The cache's; None: probes of any cache.
    """
    found = scan(open_store(folder), fingerprint=fingerprint)
    probes = []
    for name, record in list(found.records.items()):
        try:
            probes.append(_probe(folder / name, record))
        except CacheCorruptError as e:
            found.damaged[name] = str(e)
            del found.records[name]
    found.warn()
    return probes


def read_probe(folder: CachePath, *, fingerprint: str | None = None) -> Probe | None:
    """Load the complete probe in a folder, or return None if there is none.

    Args:
        folder: CACHE/probes/<probe id>.
        fingerprint: The cache's; None: of any cache.

    Raises:
        CacheCorruptError: Its record is damaged.
        ProbeSchemaError: Another version of layercache wrote it.
    """
    record = read_record(open_store(folder), fingerprint=fingerprint)
    return None if record is None else _probe(folder, record)


def _probe(folder: CachePath, record: ResultRecord) -> Probe:
    spec, row = record.values.get("spec"), record.values.get("row")
    try:
        check_spec(spec)
        check_row(row)
        configs = read_configs(record.values.get("configs"))
        written_at = read_time(record.values.get("written_at", 0.0))
    except ValueError as e:
        raise CacheCorruptError(
            f"{folder / RECORD}: is not the record of a probe: {e}: "
            f"{RETRAIN_HINT.format(folder=folder)}"
        ) from None
    return Probe(
        path=folder,
        spec=spec or {},
        row=row or {},
        configs=configs,
        files=record.files,
        sha256=record.digest.sha256,
        written_at=written_at,
    )

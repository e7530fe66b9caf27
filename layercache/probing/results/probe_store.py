"""Storage of a probe in CACHE/probes/<probe id>/.

    probe.json          specification, row of the table, validation score of every configuration,
                        size and SHA-256 of the other files
    head.safetensors    the trained head (not for a knn baseline)
    predictions.npz     logits (N, C) float32, targets, ids; for heads with attention also its mean
                        and standard deviation (H, S)
    search.json         only while the probe is not complete: the scores so far
    training/           likewise: the states of unfinished training (saved_passes.py)

`probe.json` is written last: its existence says that the probe is complete. It carries its own
checksum (cache/format/attached.py).

Shapes: N test images, C classes, H attention heads, S tokens.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.format.attached import (
    LOCK,
    PARENT,
    RECORD,
    RETRAIN_HINT,
    AttachedRecord,
    FileDigest,
    read_file,
    read_record,
    read_state,
    scan,
)
from layercache.cache.storage.lock import file_lock
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.result import has_litter, sweep, write_result, write_state
from layercache.errors import (
    CacheBusyError,
    CacheCorruptError,
    CacheError,
    ProbeError,
    ProbeNotFoundError,
    ProbeSchemaError,
    UnknownNameError,
)
from layercache.probing.config_score import ConfigScore
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
from layercache.probing.results.checkpoint import HEAD_FILE, Checkpoint, load_head
from layercache.probing.results.identity import Settings, read_settings
from layercache.probing.results.predictions import Attention, Predictions
from layercache.probing.results.record_fields import check_row, check_spec, read_configs, read_time
from layercache.probing.results.saved_passes import SavedPasses

logger = logging.getLogger(__name__)

PROBES = PARENT
PREDICTIONS_FILE = "predictions.npz"


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
        """Its spec in words, and the keys that say what is the same experiment."""
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
        shape = self.spec["head_spec"]
        try:
            return Predictions.from_bytes(
                data, classes=shape["classes"], heads=shape["num_heads"], tokens=shape["tokens"]
            )
        except ValueError as e:
            raise CacheCorruptError(
                f"{self.path / file} cannot be read ({e}): {RETRAIN_HINT.format(folder=self.path)}"
            ) from e

    def metrics(self, names: str | Iterable[str] | None = None) -> dict[str, float]:
        """Return test metrics by name; NaN where one is not defined (docs/metrics.md).

        Those that the probe's row does not hold are computed from the stored predictions.

        Args:
            names: Names, or "roc_auc,f1_macro"; None: all metrics of the probe's task.

        Raises:
            UnknownNameError: There is no such metric.
            OptionError: The probe's task has no such metric.
            CacheCorruptError: The predictions are damaged.
        """
        task = task_of(self.spec["head_spec"])
        wanted = metrics_of(task) if names is None else parse_metrics(names)
        for name in wanted:
            check_metric(name, task=task)
        stored = {name: self.row.get(f"test_{name}") for name in wanted}
        missing = [name for name, value in stored.items() if value is None]
        if missing:
            predictions = self.predictions()
            stored |= compute(predictions.logits, predictions.targets, task=task, names=missing)
        return {name: float(value) for name, value in stored.items() if value is not None}

    def intervals(
        self, names: str | Iterable[str] | None = None, *, resamples: int = RESAMPLES
    ) -> dict[str, Interval]:
        """Return the 95 % bootstrap interval of test metrics over test samples, see `metrics`.

        Whole groups of samples are drawn where the predictions hold groups.

        Args:
            names: As in `metrics`.
            resamples: Number of draws.
        """
        predictions, task = self.predictions(), task_of(self.spec["head_spec"])
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


def _probe(folder: CachePath, record: AttachedRecord) -> Probe:
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


class ProbeFolder:
    """Writes one probe."""

    def __init__(self, path: CachePath) -> None:
        self.path = path
        """CACHE/probes/<probe id>."""
        self._store = open_store(path)

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Lock the probe against other processes, after waiting for one that holds it.

        What killed processes left in the folder is removed.

        On object storage, which has no locks, two processes may train the same probe. Each writes
        whole files, the record last, and both are the same probe.
        """
        with file_lock(self._store.path(LOCK), wait=wait):
            self._store.remove_temporary()
            yield

    def size(self) -> int:
        """Return the bytes of its files.

        Raises:
            ProbeNotFoundError: The folder holds no probe, finished or not.
        """
        files = self._store.list_files(".")
        linked = isinstance(self.path, Path) and self.path.is_symlink()
        named = self.path.parent.name == PARENT and re.fullmatch(r"[0-9a-f]{12}", self.path.name)
        if linked or not named or not files:
            raise ProbeNotFoundError(
                f"{self.path}: expected the folder of a probe, .../{PARENT}/ID, with its files; "
                "`layercache results` lists the probes with their ids"
            )
        return sum(info.size for info in files.values())

    def remove(self) -> None:
        """Delete the probe with its folder, its record first.

        Raises:
            ProbeNotFoundError: The folder holds no probe, finished or not.
            CacheBusyError: Another process is training it.
        """
        self.size()
        try:
            with self.locked(wait=False):
                self._store.delete(RECORD)
                self._store.delete_all()
        except CacheBusyError:
            raise CacheBusyError(
                f"{self.path}: another process is training this probe: wait for it to end, or "
                "stop it, and run the command again"
            ) from None

    def sweep(self) -> None:
        """Remove what killed processes left in the folder of a complete probe.

        Nothing is done to a probe that another process has locked, or that cannot be written.
        """
        if not isinstance(self.path, Path) or not has_litter(self._store):
            return
        with suppress(CacheError), file_lock(self.path / LOCK):
            SavedPasses(self.path).clear()
            sweep(self._store)

    def load_search(self, *, replaces: str | None = None) -> tuple[list[ConfigScore], float]:
        """Return what `save_search` wrote, scores and seconds; none if it is of no use.

        Args:
            replaces: Checksum of the complete probe that the new one is to replace.
        """
        try:
            state = read_state(self._store)
            if state is None or state["replaces"] != replaces:
                return [], 0.0
            return [ConfigScore(**score) for score in state["scores"]], float(state["seconds"])
        except ProbeSchemaError:
            return [], 0.0
        except (CacheCorruptError, KeyError, TypeError, ValueError) as e:
            logger.warning("the search of this probe starts again: %s", e)
            return [], 0.0

    def save_search(
        self, scores: Sequence[ConfigScore], *, seconds: float, replaces: str | None = None
    ) -> None:
        """Write the scores so far, and the seconds behind them; `replaces` as in `load_search`."""
        state = {
            "scores": [asdict(score) for score in scores],
            "seconds": seconds,
            "replaces": replaces,
        }
        write_state(self._store, _plain(state))

    def write(
        self,
        *,
        spec: Mapping[str, Any],
        row: Mapping[str, Any],
        configs: Sequence[ConfigScore],
        head: Checkpoint | None,
        predictions: Sequence[Predictions],
    ) -> str:
        """Write the probe, its record last, and delete what the search has left.

        A complete probe is replaced in one step.

        Returns:
            The checksum of its record.
        """
        record = {
            "fingerprint": spec["sources"][0]["fingerprint"],
            "spec": spec,
            "row": row,
            "configs": [asdict(config) for config in configs],
            "written_at": round(time.time(), 3),
        }
        files = {predictions_file(i): part.to_bytes() for i, part in enumerate(predictions)}
        if head is not None:
            files[HEAD_FILE] = head.to_bytes()
        digest = write_result(self._store, _plain(record), files)
        SavedPasses(self.path).clear()
        return digest


def _plain(value: Any) -> Any:
    """Return plain JSON values; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

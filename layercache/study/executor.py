"""Runs jobs by calling `extract` and `probe`, which skip what is complete."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from layercache.cache.storage.paths import CachePath
from layercache.errors import LayercacheError
from layercache.extraction.options import ExtractOptions
from layercache.probing.results.table.table import Results
from layercache.study.plan import PlannedExtraction, PlannedProbe

logger = logging.getLogger(__name__)


class JobExecutor(Protocol):
    """Runs the jobs of a study. A complete job is not run again."""

    def extract(self, job: PlannedExtraction) -> CachePath:
        """Return the complete cache of the job."""
        ...

    def train(self, job: PlannedProbe, caches: Mapping[tuple[str, ...], CachePath]) -> Results:
        """Return the probes of the job, one per seed; `caches` are those of its extractions."""
        ...


class LocalExecutor:
    """JobExecutor that calls `extract` and `probe`."""

    def __init__(
        self,
        *,
        confirm: bool = True,
        progress: bool = True,
        shared_decode: Sequence[PlannedExtraction] = (),
        engine: str = "local",
        ray_address: str | None = None,
    ) -> None:
        """Keep the options of every job.

        Args:
            confirm: Ask before a large cache.
            progress: Show progress bars if stderr is a terminal.
            shared_decode: Extractions that may run together with others of the same dataset and
                options, so that each image is decoded once for all their models.
            engine: Where jobs run, one after another; on a cluster each job uses all nodes.
            ray_address: Address of a running Ray cluster.
        """
        self._engine, self._ray_address = engine, ray_address
        self._confirm, self._progress, self._shared_decode = confirm, progress, shared_decode
        self._caches: dict[tuple[str, ...], CachePath] = {}
        self._separate: set[tuple[str, ...]] = set()
        self._annotated: set[tuple[str, ...]] = set()

    def extract(self, job: PlannedExtraction) -> CachePath:
        """Extract what is missing; return the complete cache."""
        if job.key not in self._caches:
            group = self._group(job)
            if len(group) < 2 or not self._extract_group(group):
                self._caches |= self._extract([job])
        if job.key not in self._annotated:
            _annotate(self._caches[job.key], job.annotations)
            self._annotated.add(job.key)
        return self._caches[job.key]

    def train(self, job: PlannedProbe, caches: Mapping[tuple[str, ...], CachePath]) -> Results:
        """Train what is missing; return the probes, one per seed."""
        from layercache.probing.api import probe

        return probe(
            **job.caches(caches),
            progress=self._progress,
            engine=self._engine,
            ray_address=self._ray_address,
            **{**job.options, **job.arguments},
        )

    def _group(self, job: PlannedExtraction) -> list[PlannedExtraction]:
        """Return the jobs to extract with this one, including itself."""
        wanted = _without_model(job.options)
        mates = [
            mate
            for mate in self._shared_decode
            if mate.key not in self._caches | dict.fromkeys(self._separate)
            and _without_model(mate.options) == wanted
        ]
        return mates if job in mates else [job]  # a complete one is not among the missing

    def _extract_group(self, group: Sequence[PlannedExtraction]) -> bool:
        try:
            self._caches |= self._extract(group)
        except Exception as error:  # one model may be the cause: alone, the others can succeed
            self._separate |= {mate.key for mate in group}
            logger.info(
                f"{group[0].dataset}: extracting {len(group)} models together failed "
                f"({reason(error)}); extracting them one by one"
            )
            return False
        return True

    def _extract(self, jobs: Sequence[PlannedExtraction]) -> dict[tuple[str, ...], CachePath]:
        from layercache.extraction.api import extract

        weights = {model: file for job in jobs for model, file in job.options.weights.items()}
        options: dict[str, Any] = vars(
            replace(
                jobs[0].options,
                models=[job.model for job in jobs],
                weights=weights,
                engine=self._engine,
                ray_address=self._ray_address,
            )
        )
        extractions = extract(confirm=self._confirm, progress=self._progress, **options)
        written = [cache for job in jobs for cache in (job.first_cache, job) if cache is not None]
        return {
            cache.key: extraction.path
            for cache, extraction in zip(written, extractions, strict=True)
        }


def _annotate(cache: CachePath, table: str | None) -> None:
    """Add the columns of a table to a cache, also if they are there: the table may have changed."""
    if table is None:
        return
    from layercache.cache.annotate import annotate

    for change in annotate(cache, table, partial=True):
        logger.info("%s: %s", cache, change.summary())


def reason(error: Exception) -> str:
    """Return an error in one line; one that layercache did not raise is marked as unexpected."""
    text = (str(error).strip() or "no reason given").splitlines()[0]
    return (
        text
        if isinstance(error, LayercacheError | OSError)
        else f"unexpected {type(error).__name__}: {text}"
    )


def _without_model(options: ExtractOptions) -> ExtractOptions:
    return replace(options, models=["any"], weights={})

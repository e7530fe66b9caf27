"""Runs a study: what is missing, one cell after the other, past the ones that fail, and the report at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layercache.cache.cache import Cache
from layercache.cache.storage.paths import CachePath
from layercache.engine import open_engine
from layercache.errors import MissingExtraError
from layercache.extraction.datasets.registry import dataset_name
from layercache.probing.metrics import selection_metric
from layercache.probing.results.table import Results
from layercache.study.costs import cost
from layercache.study.executor import JobExecutor, LocalExecutor, reason
from layercache.study.file import Study
from layercache.study.plan import PlannedExtraction, PlannedJob, plan
from layercache.study.progress import Bar
from layercache.study.status import find_cache, find_probes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A cell that came to nothing."""

    cell: str
    """Its name."""
    reason: str
    """The fault in one line."""
    waiting: int = 0
    """Probes that were not tried because of it."""

    def __str__(self) -> str:
        """For people."""
        waiting = f" ({self.waiting} probes of it not tried)" if self.waiting else ""
        return f"{self.cell}{waiting}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a run of a study came to."""

    cells: int
    """Extractions and probes of the study; a probe with all its seeds is one."""
    done: int
    """Of them complete now."""
    failures: tuple[Failure, ...]
    """The others, and why; a fault of the report is the last."""
    caches: tuple[CachePath, ...]
    """The study's caches that are complete."""
    results: Results
    """All its probes."""
    page: Path | None
    """The report's page; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A cell before a run."""

    cell: PlannedJob
    """Which."""
    there: bool
    """Complete already, by the records on disk."""
    seconds: float
    """What it would take, roughly; 0 if it is there."""


def study_status(study: Study) -> tuple[Status, ...]:
    """Every cell, what of it is there, and how long the rest will take, roughly. Loads no backbone and opens no data set."""
    caches: dict[tuple[str, ...], Cache | None] = {}
    found = []
    for cell in plan(study):
        if isinstance(cell, PlannedExtraction):
            there = (caches.setdefault(cell.key, find_cache(cell))) is not None
        else:
            cache = caches[cell.cache.key]
            beside = caches[cell.beside.key] if cell.beside else None
            waits = cache is None or (cell.beside is not None and beside is None)
            there = (
                not waits
                and cache is not None
                and len(find_probes(cell, cache, beside)) == len(cell.seeds)
            )
        found.append(Status(cell=cell, there=there, seconds=0.0 if there else cost(cell)))
    return tuple(found)


def run_study(
    study: Study,
    *,
    yes: bool = False,
    progress: bool = True,
    work: JobExecutor | None = None,
    report: bool = True,
) -> StudyResult:
    """Run what is missing of a study, then write its report; a cell that fails is told at the end and holds up no other.

    yes: do not ask before a large cache. progress: one bar over all cells, if stderr is a terminal.
    work: what is done for a cell. Raises what `plan` raises, and KeyboardInterrupt with a text that says what is kept.
    """
    statuses = study_status(study)
    caches: dict[tuple[str, ...], CachePath] = {}
    failures: dict[str, Failure] = {}
    probes: list[Any] = []
    done = 0
    missing = any(not status.there for status in statuses)
    session = open_engine(
        study.engine if missing else "local", ray_address=study.address if missing else None
    )  # found again by every cell
    with session, Bar(total=sum(status.seconds for status in statuses), show=progress) as bar:
        together = (
            [
                status.cell
                for status in statuses
                if isinstance(status.cell, PlannedExtraction) and not status.there
            ]
            if study.share_decode
            else []
        )
        doing = work or LocalExecutor(
            yes=yes,
            progress=bar.shown,
            together=together,
            engine=study.engine,
            address=study.address,
        )
        for number, status in enumerate(statuses, 1):
            cell = status.cell
            bar.describe(f"{number}/{len(statuses)} {cell.name}")
            blocked = _blocked(cell, caches)
            if blocked is not None:
                failures[blocked.name] = replace(
                    failures[blocked.name], waiting=failures[blocked.name].waiting + 1
                )
            else:
                try:
                    probes += _one(cell, doing, caches, there=status.there)
                    done += 1
                except KeyboardInterrupt as stop:
                    inside = f" ({stop})" if str(stop) else ""
                    raise KeyboardInterrupt(
                        f"{done} of {len(statuses)} cells are complete and kept{inside}; the same command goes on from there"
                    ) from None
                except (
                    Exception
                ) as error:  # whatever it is, the other cells can do without this one
                    failures[cell.name] = Failure(cell=cell.name, reason=reason(error))
                    logger.error("FAILED %s", failures[cell.name])
            bar.advance(status.seconds)
    paths = tuple(caches.values())
    page, fault = _report(study) if report and probes else (None, None)
    faults = [*failures.values(), *([fault] if fault else [])]
    return StudyResult(
        cells=len(statuses),
        done=done,
        failures=tuple(faults),
        caches=paths,
        results=Results(probes),
        page=page,
    )


def _blocked(
    cell: PlannedJob, caches: Mapping[tuple[str, ...], CachePath]
) -> PlannedExtraction | None:
    """The failed extraction that a probe waits for."""
    if isinstance(cell, PlannedExtraction):
        return None
    return next(
        (
            source
            for source in (cell.cache, cell.beside)
            if source is not None and source.key not in caches
        ),
        None,
    )


def _one(
    cell: PlannedJob,
    work: JobExecutor,
    caches: dict[tuple[str, ...], CachePath],
    *,
    there: bool,
) -> Sequence[Any]:
    """Does one cell; returns its probes."""
    if isinstance(cell, PlannedExtraction):
        caches[cell.key] = work.extract(cell)
        return ()
    found = list(
        work.train(cell, caches[cell.cache.key], caches[cell.beside.key] if cell.beside else None)
    )
    if not there:
        metric = (
            f"test_{selection_metric(multi_label=found[0].row['test_balanced_accuracy'] is None)}"
        )
        logger.info(
            f"{cell.name}: {' '.join(f'{100 * probe.row[metric]:.2f}' for probe in found)} %"
        )
    return found


def _report(study: Study) -> tuple[Path | None, Failure | None]:
    """(page, None), or (None, fault); without the extra neither."""
    from layercache.extraction.image_lookup import ImageLookup
    from layercache.reporting import report

    sources = [study.source(dataset) for dataset in study.datasets]
    try:
        made = report(
            study.out,
            root=study.cache,
            model=study.models,
            dataset=[dataset_name(source) for source in sources],
            load_thumbnail=ImageLookup(sources=sources, root=study.extract.get("root")),
            **study.report,
        )
    except MissingExtraError as error:
        logger.info(
            f"no report: {error}; then run the same command again, it will only write the report"
        )
        return None, None
    except Exception as error:  # the probes are kept, whatever is wrong with the page
        return None, Failure(cell="report", reason=reason(error))
    return made.page, None

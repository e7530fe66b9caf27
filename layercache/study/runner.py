"""Runs the missing jobs of a study in turn, continues past failures, and writes the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layercache._interruption import Interrupted, interrupt_signal, sigterm_as_interrupt
from layercache._units import join_words
from layercache.cache.cache import Cache
from layercache.cache.storage.paths import CachePath
from layercache.engine import open_engine
from layercache.errors import MissingExtraError
from layercache.probing.metrics import selection_metric_of
from layercache.probing.results.table.formatting import format_score
from layercache.probing.results.table.gain import score_of
from layercache.probing.results.table.table import Results
from layercache.study.completed_jobs import find_cache, find_probes
from layercache.study.costs import cost
from layercache.study.executor import JobExecutor, LocalExecutor, reason
from layercache.study.file import Study
from layercache.study.plan import PlannedExtraction, PlannedJob, plan
from layercache.study.progress import Bar
from layercache.study.result import Failure, Status, StudyResult

logger = logging.getLogger(__name__)


def study_status(study: Study) -> tuple[Status, ...]:
    """Return the status of every job, without loading a backbone or opening a dataset."""
    caches: dict[tuple[str, ...], Cache] = {}
    forwards: dict[tuple[str, ...], PlannedExtraction] = {}  # by the first cache that it writes
    statuses = []
    for job in plan(study):
        same_forward = None
        if isinstance(job, PlannedExtraction):
            cache = find_cache(job)
            complete = cache is not None
            if cache is not None:
                caches[job.key] = cache
            else:
                same_forward = forwards.get(job.key)
                if job.first_cache is not None:
                    forwards.setdefault(job.first_cache.key, job)
        else:
            complete = _blocked(job, caches) is None and (
                len(find_probes(job, caches)) == len(job.seeds)
            )
        seconds = 0.0 if complete or same_forward else cost(job)
        statuses.append(
            Status(job=job, complete=complete, seconds=seconds, same_forward=same_forward)
        )
    return tuple(statuses)


def run_study(
    study: Study,
    *,
    confirm: bool = True,
    progress: bool = True,
    executor: JobExecutor | None = None,
    report: bool = True,
) -> StudyResult:
    """Run the missing jobs of a study and write its report; a failed job does not stop the others.

    Args:
        study: The study.
        confirm: Ask before a large cache.
        progress: Show one bar over all jobs, if stderr is a terminal.
        executor: Runs the jobs; a LocalExecutor by default.
        report: Write the report.

    Raises:
        OptionError: `extract` does not take an option of the study.
        Interrupted: Ctrl-C or SIGTERM; the text says what is kept.
    """
    statuses = study_status(study)
    caches: dict[tuple[str, ...], CachePath] = {}
    failures: dict[str, Failure] = {}
    probes: list[Any] = []
    jobs: dict[CachePath, str] = {}
    done = 0
    missing = any(not status.complete for status in statuses)
    session = open_engine(
        study.engine if missing else "local", ray_address=study.ray_address if missing else None
    )  # reused by every job
    with (
        sigterm_as_interrupt(),
        session,
        Bar(total=sum(status.seconds for status in statuses), show=progress) as bar,
    ):
        shared_decode = (
            [
                status.job
                for status in statuses
                if isinstance(status.job, PlannedExtraction) and not status.complete
            ]
            if study.extract.share_decode
            else []
        )
        executor = executor or LocalExecutor(
            confirm=confirm,
            progress=bar.shown,
            shared_decode=shared_decode,
            engine=study.engine,
            ray_address=study.ray_address,
        )
        for number, status in enumerate(statuses, 1):
            job = status.job
            bar.describe(f"{number}/{len(statuses)} {job.name}")
            blocked = _blocked(job, caches)
            if blocked is not None:
                failures[blocked.name] = replace(
                    failures[blocked.name], waiting=failures[blocked.name].waiting + 1
                )
            else:
                try:
                    trained = _run_job(job, executor, caches, complete=status.complete)
                    if repeated := {jobs[p.path] for p in trained if p.path in jobs}:
                        logger.info(
                            f"{job.name}: the same probes as {join_words(sorted(repeated))}, "
                            "counted once"
                        )
                    jobs |= {probe.path: job.name for probe in trained}
                    probes += trained
                    done += 1
                except KeyboardInterrupt as stop:
                    inside = f" ({stop})" if str(stop) else ""
                    raise Interrupted(
                        f"{done} of {len(statuses)} jobs are complete and kept{inside}; "
                        "the same command continues",
                        signum=interrupt_signal(stop),
                    ) from None
                except Exception as error:  # the other jobs do not depend on this one
                    failures[job.name] = Failure(job=job.name, reason=reason(error))
                    logger.error("FAILED %s", failures[job.name])
            bar.advance(status.seconds)
    paths = tuple(caches.values())
    results = Results(probes)
    page, failure = _report(study, results) if report and probes else (None, None)
    all_failures = [*failures.values(), *([failure] if failure else [])]
    return StudyResult(
        jobs=len(statuses),
        done=done,
        failures=tuple(all_failures),
        caches=paths,
        results=results,
        page=page,
    )


def _blocked(job: PlannedJob, caches: Mapping[tuple[str, ...], Any]) -> PlannedExtraction | None:
    """Return the first extraction that a probe depends on and that has no cache, or None."""
    extractions = () if isinstance(job, PlannedExtraction) else job.extractions
    return next((source for source in extractions if source.key not in caches), None)


def _run_job(
    job: PlannedJob,
    executor: JobExecutor,
    caches: dict[tuple[str, ...], CachePath],
    *,
    complete: bool,
) -> Sequence[Any]:
    """Run one job; return its probes."""
    if isinstance(job, PlannedExtraction):
        caches[job.key] = executor.extract(job)
        return ()
    probes = list(executor.train(job, caches))
    if not complete:
        metric = selection_metric_of(probes[0].spec)
        scores = " ".join(format_score(metric, score_of(probe)) for probe in probes)
        logger.info(f"{job.name}: {metric.title} {scores}{' %' if metric.percent else ''}")
    return probes


def _report(study: Study, results: Results) -> tuple[Path | None, Failure | None]:
    """Write the report on the study's own probes, whatever else lies below the root.

    Returns its page or its failure, or neither if an extra is missing.
    """
    from layercache.extraction.image_lookup import ImageLookup
    from layercache.reporting import report

    sources = [study.source(dataset) for dataset in study.datasets]
    try:
        written = report(
            study.out,
            root=study.cache,
            model=study.models,
            dataset=sources,
            load_thumbnail=ImageLookup(sources=sources, root=study.extract.data_root),
            probes=tuple(results),
            probes_root=study.probes_root,
            **study.report.options(),
        )
    except MissingExtraError as error:
        logger.info(
            f"no report: {error}; then run the same command again: it will only write the report"
        )
        return None, None
    except Exception as error:  # the probes are kept whatever the page lacks
        return None, Failure(job="report", reason=reason(error))
    return written.page, None

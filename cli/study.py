"""`layercache study`: the grid of a paper from one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.shared import Offline, ProbesRoot

if TYPE_CHECKING:
    from layercache.study import Status, StudyResult

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.toml", help="Backbones, datasets and heads; studies/ has examples."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder of the report.", show_default="the file's, else reports/NAME"
    ),
]
Cache = Annotated[
    str | None,
    typer.Option(help="Folder of all caches.", show_default="the file's, else $LAYERCACHE_HOME"),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="List the jobs and which are complete; run nothing."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large cache.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write the report at the end.")]
Engine = Annotated[
    str | None,
    typer.Option(
        help="Where jobs run: local | ray (a Ray cluster; the same results).",
        show_default="the file's, else local",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join: auto | HOST:PORT.",
        show_default="the file's, else one of this machine alone",
    ),
]


def study(
    file: File,
    *,
    out: Out = None,
    cache: Cache = None,
    probes: ProbesRoot = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    offline: Offline = False,
    report: Report = True,
    engine: Engine = None,
    address: Address = None,
) -> None:
    """Run the grid of a paper from one file.

    Extracts and trains what is missing and writes the report. If a job fails, the others still run;
    failures are listed at the end (exit code 1). Stop it at any time: the same command continues.
    """
    from layercache.engine import check_engine
    from layercache.study import read_study, run_study, study_status
    from layercache_cli._log import hide_probe_log

    plan = read_study(file)
    given = {
        "out": out,
        "cache": cache,
        "probes_root": probes,
        "engine": engine,
        "ray_address": address,
    }
    plan = plan.model_copy(update={key: value for key, value in given.items() if value})
    if offline:
        plan = plan.forbid_downloads()
    check_engine(plan.engine, plan.ray_address)
    if dry_run:
        _print_statuses(study_status(plan))
        return
    with hide_probe_log():
        result = run_study(plan, confirm=not yes, report=report)
    _print_result(result)
    if result.failures:
        raise typer.Exit(1)


def _print_statuses(statuses: tuple[Status, ...]) -> None:
    for status in statuses:
        note = ""
        if status.same_forward is not None:
            job = status.same_forward
            note = f" (in the forward pass of {job.tokens} of layers {job.layers})"
        echo(f"{'complete' if status.complete else 'missing '}  {status.job.name}{note}")
    complete = sum(status.complete for status in statuses)
    missing = len(statuses) - complete
    echo(f"{len(statuses)} jobs, {complete} complete, {missing} missing")


def _print_result(result: StudyResult) -> None:
    if len(result.results):
        echo_lines(f"\n{result.results.to_text()}")
    echo_lines(f"\n{result.done} of {result.jobs} jobs are complete")
    if result.page is not None:
        echo(f"report: {result.page}")
    if result.failures:
        echo_lines(f"\n{len(result.failures)} failed:", err=True)
        for failure in result.failures:
            echo(f"  {failure}", err=True)
        echo(
            "Run the same command again once they are fixed; complete jobs are not run again.",
            err=True,
        )

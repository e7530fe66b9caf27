"""`layercache study`: the grid of a paper from one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from layercache.study import Status, StudyResult

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.toml", help="Backbones, data sets and heads; studies/ has examples."
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
    typer.Option("--dry-run", "-n", help="List the cells and what of them is there; do nothing."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large cache.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write the report at the end.")]
Engine = Annotated[
    str | None,
    typer.Option(
        help="Where cells run: local | ray (a Ray cluster; the same results).",
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
    dry_run: DryRun = False,
    yes: Yes = False,
    report: Report = True,
    engine: Engine = None,
    address: Address = None,
) -> None:
    """Run the grid of a paper from one file.

    Extracts and trains what is missing, goes on past a cell that fails, says at the end which did and why (exit code 1), and writes the report.
    Stop it whenever you like: the same command continues where it was.
    """
    from dataclasses import replace

    from layercache.cache.storage.paths import as_cache_path
    from layercache.engine import check_engine
    from layercache.study import read_study, run_study, study_status
    from layercache_cli._log import hide_probe_log

    plan = read_study(file)
    place = as_cache_path(cache) if cache else plan.cache
    plan = replace(
        plan,
        out=out or plan.out,
        cache=place,
        engine=engine or plan.engine,
        address=address or plan.address,
    )
    check_engine(plan.engine, plan.address)
    if dry_run:
        _list(study_status(plan))
        return
    with hide_probe_log():
        outcome = run_study(plan, yes=yes, report=report)
    _tell(outcome)
    if outcome.failures:
        raise typer.Exit(1)


def _list(statuses: tuple[Status, ...]) -> None:
    for status in statuses:
        typer.echo(f"{'there  ' if status.there else 'missing'}  {status.cell.name}")
    there = sum(status.there for status in statuses)
    typer.echo(f"{len(statuses)} cells, {there} there, {len(statuses) - there} missing")


def _tell(outcome: StudyResult) -> None:
    if len(outcome.results):
        typer.echo(f"\n{outcome.results.to_text()}")
    typer.echo(f"\n{outcome.done} of {outcome.cells} cells are complete")
    if outcome.page is not None:
        typer.echo(f"report: {outcome.page}")
    if outcome.failures:
        typer.echo(f"\n{len(outcome.failures)} failed:", err=True)
        for failure in outcome.failures:
            typer.echo(f"  {failure}", err=True)
        typer.echo(
            "Run the same command again when they are mended; what is complete is not done twice.",
            err=True,
        )

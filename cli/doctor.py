"""`layercache doctor`: what a bug report should say."""

from __future__ import annotations

from typing import Annotated

import typer

from layercache_cli._terminal import echo
from layercache_cli.options.shared import Root

Device = Annotated[str, typer.Option(help="Device of the self-test: auto, cpu, cuda, cuda:N, mps.")]
SelfTest = Annotated[
    bool, typer.Option(help="Extract and probe 300 bundled images, offline, within a minute.")
]
MARKS = {"ok": "ok", "absent": "-", "problem": "PROBLEM"}
BUG_REPORT = (
    "For a bug report: this output, the command with its output and --debug, and where a cache or "
    "probe is concerned its spec.json or probe.json."
)


def doctor(*, cache: Root = None, device: Device = "auto", self_test: SelfTest = True) -> None:
    """Show versions, devices, extras and the cache root, and test that everything works.

    Nothing is downloaded. Exit code 1 if there is a problem.
    """
    from layercache.doctor import examine

    n_problems = 0
    for finding in examine(cache=cache, device=device, self_test=self_test):
        n_problems += finding.status == "problem"
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        echo(f"{MARKS[finding.status]:8}{finding.topic}: {finding.text}{remedy}")
    echo()
    echo(BUG_REPORT)
    if n_problems:
        raise typer.Exit(1)

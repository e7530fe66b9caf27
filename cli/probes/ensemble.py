"""`layercache ensemble`: late fusion of trained probes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.probe import Device, MemoryBudget
from layercache_cli.options.shared import ProbesRoot, Root

Probes = Annotated[
    list[str],
    typer.Argument(
        metavar="PROBE...",
        help="Ids of at least two probes or the beginnings of them (see layercache results), or "
        "their folders.",
    ),
]
Select = Annotated[
    str | None,
    typer.Option(
        help="Metric that compares the pool with its members on held-out samples.",
        show_default="the one that selected the members",
    ),
]
Refresh = Annotated[
    bool, typer.Option("--refresh", help="Fit the ensemble again if it exists already.")
]


def ensemble(
    members: Probes,
    *,
    select: Select = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = None,
    refresh: Refresh = False,
    cache: Root = None,
    probes: ProbesRoot = None,
) -> None:
    """Pool the logits of trained probes, with weights fitted on samples that they held out.

    The probes predict the same target of the same images; backbones, tokens, heads and seeds may
    differ. Each is trained once more on the folds of its search. The result is a probe of its own,
    and the best member alone where the pool scores less on the held-out samples.
    """
    from layercache.probing.ensemble.api import ensemble as run

    results = run(
        members,
        select=select,
        root=cache,
        probes_root=probes,
        device=device,
        memory_budget=memory_budget,
        refresh=refresh,
        progress=sys.stderr.isatty(),
    )
    echo()
    echo_lines(results.to_text())
    probe = results.probes[-1]
    echo()
    echo(f"ensemble {probe.id}: {probe.row['config']}")
    echo(f"stored in {probe.path}")

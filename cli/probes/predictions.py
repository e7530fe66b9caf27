"""`layercache predictions`: what a probe predicted on the test images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.shared import ProbeId, ProbesRoot, Root

Metrics = Annotated[
    str | None,
    typer.Option(
        help="Metrics to print, as in roc_auc,f1_macro (docs/metrics.md).", show_default="all"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Write id, target, prediction and probabilities of each test image to a file that "
        "ends in .csv or .parquet.",
        show_default=False,
    ),
]


Split = Annotated[
    str | None,
    typer.Option(
        help="With --out: predict on this split of the cache, which may have no labels.",
        show_default="the test split, as stored",
    ),
]


Test = Annotated[
    str | None,
    typer.Option(
        help="Test set of the probe, if it was tested on several.", show_default="the first"
    ),
]


def predictions(
    probe: ProbeId,
    *,
    split: Split = None,
    out: Out = None,
    metrics: Metrics = None,
    test: Test = None,
    cache: Root = None,
    probes: ProbesRoot = None,
) -> None:
    """Print the test metrics of a probe, or write its prediction for each test image.

    Everything comes from the predictions that are stored with the probe, or with --split from the
    cached tokens.
    """
    from layercache.errors import OptionError
    from layercache.probing.results.lookup import describe_probe, load_probe
    from layercache.probing.results.table.formatting import format_scores
    from layercache.probing.results.table.prediction_table import write_predictions

    found = load_probe(probe, root=cache, probes_root=probes)
    if split is not None:
        from layercache.probing.results.split_predictions import predict_split
        from layercache.probing.results.table.formatting import write_table

        if out is None or metrics is not None or test is not None:
            raise OptionError("--split needs --out FILE, and goes without --metrics and --test")
        table = predict_split(found, split, root=cache)
        write_table(table, out)
        echo(f"written to {out} ({len(table)} rows)")
        return
    echo(describe_probe(found.path))
    if out is None or metrics is not None:
        echo()
        values, intervals = (
            found.metrics(metrics, test=test),
            found.intervals(metrics, test=test),
        )
        echo_lines(format_scores(values, intervals))
    if out is not None:
        echo(f"written to {out} ({write_predictions(found, out, test=test)} rows)")

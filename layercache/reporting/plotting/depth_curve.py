"""Plot of a scan: the score of every layer, token kind and head, and of subsets as levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layercache.errors import OptionError
from layercache.probing.metrics import find_metric
from layercache.reporting.plotting.curves import lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from layercache.probing.scan.result import ScanResult


def depth_curve(result: ScanResult, *, head: str | None = None) -> Figure:
    """Draw the scores of single tokens by layer, and those of subsets as levels.

    Args:
        result: The scan; its test scores, with their 95 % intervals, if it has any.
        head: ridge, lda or knn. Default: the head that is best by the validation score.

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: The scan has no such head.
    """
    heads = list(dict.fromkeys(result.table["head"]))
    head = head or str(result.ranking()["head"].iloc[0])
    if head not in heads:
        raise OptionError(f"head: expected one of {', '.join(heads)}, got {head!r}")
    metric = find_metric(result.metric)
    factor = 100 if metric.percent else 1
    column = f"{'test' if result.tested else 'val'}_{result.metric}"
    rows = result.table[result.table["head"] == head]
    kinds = list(dict.fromkeys(rows[rows["n_tokens"] == 1]["tokens"]))
    curves = {kind: result.curve(head, kind) for kind in kinds}
    deviation = None
    if result.tested:
        deviation = {
            kind: factor * (curve["test_ci95_high"] - curve["test_ci95_low"]).to_numpy() / 2
            for kind, curve in curves.items()
        }
    subsets = rows[rows["n_tokens"] > 1]
    levels = {
        f"{layers}, {kinds}": factor * value
        for layers, kinds, value in zip(
            subsets["layers"], subsets["tokens"], subsets[column], strict=True
        )
    }
    first = curves[kinds[0]]
    unit = ", %" if metric.percent else ""
    return lines(
        first["layer"].tolist(),
        series={kind: factor * np.asarray(curve[column]) for kind, curve in curves.items()},
        xlabel="layer",
        ylabel=f"{metric.title}{unit}",
        title=f"{head} on every layer of {result.title}",
        deviation=deviation,
        levels=levels,
    )

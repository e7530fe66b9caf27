"""From one row per probe to gains over the last layer's CLS of the same source (backbone and images): per model, and as means over models.

Everything here works on the observations of `layercache.reporting.observations`; accuracies are shares (0..1), gains percentage points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from layercache.reporting.published import BACKBONES, BASELINE, CELLS, Cell, published_gain
from layercache.reporting.statistics import benjamini_hochberg, wilcoxon_greater

KEYS = ["dataset", "model", "source"]
CELL = ["head", "layers", "tokens"]


def accuracies(observations: pd.DataFrame) -> pd.DataFrame:
    """One row per source and cell: mean and standard deviation over seeds (NaN for one seed), and how many there were."""
    grouped = observations.groupby([*KEYS, *CELL], sort=False)["accuracy"]
    table: pd.DataFrame = pd.DataFrame(
        {"accuracy": grouped.mean(), "seed_std": grouped.std(), "seeds": grouped.size()}
    ).reset_index()
    return table


def gains(observations: pd.DataFrame, *, baseline: Cell = BASELINE) -> pd.DataFrame:
    """One row per source and cell beside the baseline, where the source has one: `accuracy`, `baseline` (shares), `gain` and `paper` (points)."""
    table = accuracies(observations)
    is_base = np.logical_and.reduce([table[name] == getattr(baseline, name) for name in CELL])
    base = table[is_base].set_index(KEYS)["accuracy"].rename("baseline")
    found: pd.DataFrame = table[~is_base].join(base, on=KEYS, how="inner").reset_index(drop=True)
    found["gain"] = 100 * (found["accuracy"] - found["baseline"])
    found["paper"] = [
        published_gain(
            str(r.dataset),
            cell=Cell(head=str(r.head), layers=str(r.layers), tokens=str(r.tokens)),
            model=str(r.model),
        )
        for r in found.itertuples(index=False)
    ]
    return found.astype({"paper": float})


def mean_gains(per_model: pd.DataFrame) -> pd.DataFrame:
    """One row per data set and cell: mean gain over models, its standard deviation, the models' number, and the published mean over nine.

    A model of which there are several sources of a data set counts once, by their mean.
    """
    by_model = (
        per_model.groupby(["dataset", *CELL, "model"], sort=False)[["gain", "accuracy", "baseline"]]
        .mean()
        .reset_index()
    )
    rows = []
    for (dataset, head, layers, tokens), group in by_model.groupby(["dataset", *CELL], sort=False):
        rows.append(
            {
                "dataset": dataset,
                "head": head,
                "layers": layers,
                "tokens": tokens,
                "models": len(group),
                "of_the_papers_nine": int(group["model"].isin(BACKBONES).sum()),
                "baseline": group["baseline"].mean(),
                "accuracy": group["accuracy"].mean(),
                "gain": group["gain"].mean(),
                "gain_std": group["gain"].std() if len(group) > 1 else np.nan,
                "paper": published_gain(
                    str(dataset), cell=Cell(head=str(head), layers=str(layers), tokens=str(tokens))
                ),
            }
        )
    columns = [
        "dataset",
        *CELL,
        "models",
        "of_the_papers_nine",
        "baseline",
        "accuracy",
        "gain",
        "gain_std",
        "paper",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"paper": float})


def over_models(per_model: pd.DataFrame) -> pd.DataFrame:
    """One-sided Wilcoxon signed-rank test per data set and cell that gains lie above 0 over models, with Benjamini-Hochberg over all tests made.

    Data sets with fewer than two models are left out: over one model there is nothing to rank.
    """
    by_model = (
        per_model.groupby(["dataset", *CELL, "model"], sort=False)["gain"].mean().reset_index()
    )
    rows = []
    for (dataset, head, layers, tokens), group in by_model.groupby(["dataset", *CELL], sort=False):
        if len(group) < 2:
            continue
        test = wilcoxon_greater(group["gain"].to_numpy())
        rows.append(
            {
                "dataset": dataset,
                "head": head,
                "layers": layers,
                "tokens": tokens,
                "models": test.n,
                "median_gain": group["gain"].median(),
                "p": test.p,
                "smallest_p_possible": test.smallest_p,
            }
        )
    table = pd.DataFrame(
        rows, columns=["dataset", *CELL, "models", "median_gain", "p", "smallest_p_possible"]
    )
    table["p_adjusted"] = benjamini_hochberg(table["p"].to_numpy(dtype=float))
    return table


def cell_order(table: pd.DataFrame) -> list[Cell]:
    """The cells of a table: the paper's first, in its order, then the others by name."""
    found = {
        Cell(head=str(r.head), layers=str(r.layers), tokens=str(r.tokens))
        for r in table[CELL].drop_duplicates().itertuples(index=False)
    }
    return [c for c in CELLS if c in found] + sorted(found - set(CELLS))


def pick(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of one cell."""
    return table[np.logical_and.reduce([table[name] == getattr(cell, name) for name in CELL])]


def grid(
    table: pd.DataFrame, column: str, *, datasets: Sequence[str], cells: Sequence[Cell]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(data sets, cells) of one column; NaN where there is no row."""
    values = np.full((len(datasets), len(cells)), np.nan)
    for j, cell in enumerate(cells):
        rows = pick(table, cell).set_index("dataset")[column]
        for i, dataset in enumerate(datasets):
            if dataset in rows.index:
                values[i, j] = rows[dataset]
    return values

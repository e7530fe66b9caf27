"""Gains over the baseline on the same backbone and dataset: per model, and as means over models.

The functions work on `ReportData.table`, which has one row per probe. Accuracies are fractions
(0..1), gains percentage points. The baseline is a linear probe on the last layer's CLS.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.reporting.analysis.published import (
    BASELINE,
    PAPER_BACKBONES,
    PAPER_KINDS,
    ProbeKind,
    published_gain,
)
from layercache.reporting.analysis.significance import benjamini_hochberg, wilcoxon_greater

KIND_COLUMNS = ["head", "layers", "tokens"]
DATASET_COLUMNS = ["dataset", "dataset_name", "dataset_digest"]
"""Label, which is distinct in a report; name given to `extract`; digest of the identity."""
MODEL_COLUMNS = ["model", "weights_digest"]
"""Label, which is distinct in a report; digest of the weights."""
COMBINATION_COLUMNS = [*DATASET_COLUMNS, *MODEL_COLUMNS, "combination"]


def mean_accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: one row per combination and kind of probe.

    Returns:
        Columns accuracy (mean), seed_std (standard deviation, NaN for one seed) and n_seeds.
    """
    grouped = table.groupby([*COMBINATION_COLUMNS, *KIND_COLUMNS], sort=False)["accuracy"]
    return grouped.agg(accuracy="mean", seed_std="std", n_seeds="size").reset_index()


def gains_over_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """Compute gains: one row per combination that has the baseline and per other kind of probe.

    A probe is compared with the baseline of the same seed, as in the results table; seeds that only
    one of them has do not count.

    Returns:
        Columns accuracy and baseline (fractions), gain and paper_gain (points).
    """
    is_baseline = _is_kind(table, BASELINE)
    same_seed = [*COMBINATION_COLUMNS, "seed"]
    baselines = table[is_baseline].rename(columns={"accuracy": "baseline"})
    paired = table[~is_baseline].merge(baselines[[*same_seed, "baseline"]], on=same_seed)
    gains = (
        paired.groupby([*COMBINATION_COLUMNS, *KIND_COLUMNS], sort=False)
        .agg(
            accuracy=("accuracy", "mean"),
            seed_std=("accuracy", "std"),
            n_seeds=("accuracy", "size"),
            baseline=("baseline", "mean"),
        )
        .reset_index()
    )
    gains["gain"] = 100 * (gains["accuracy"] - gains["baseline"])
    gains["paper_gain"] = [
        published_gain(str(dataset), kind=kind, model=str(model))
        for dataset, model, kind in zip(
            gains["dataset_name"], gains["model"], row_kinds(gains), strict=True
        )
    ]
    return gains.astype({"paper_gain": float})


def mean_gains(gains: pd.DataFrame) -> pd.DataFrame:
    """Average gains over models: one row per dataset and kind of probe.

    A model with several combinations on one dataset counts once, by their mean.

    Returns:
        Columns n_models, n_paper_backbones, baseline, accuracy, gain (means), gain_std (NaN for one
        model), paper_gain, the published mean over nine backbones, and
        paper_gain_same_backbones, that over these backbones if all are published.
    """
    by_model = _average_by_model(gains)
    by_model["paper_backbone"] = by_model["model"].isin(PAPER_BACKBONES)
    means = (
        by_model.groupby([*DATASET_COLUMNS, *KIND_COLUMNS], sort=False)
        .agg(
            n_models=("model", "size"),
            n_paper_backbones=("paper_backbone", "sum"),
            baseline=("baseline", "mean"),
            accuracy=("accuracy", "mean"),
            gain=("gain", "mean"),
            gain_std=("gain", "std"),
            n_published=("paper_gain", "count"),
            paper_gain_same_backbones=("paper_gain", "mean"),
        )
        .reset_index()
    )
    is_partly_published = means.pop("n_published") < means["n_models"]
    means.loc[is_partly_published, "paper_gain_same_backbones"] = np.nan
    means["paper_gain"] = [
        published_gain(str(dataset), kind=kind)
        for dataset, kind in zip(means["dataset_name"], row_kinds(means), strict=True)
    ]
    return means.astype({"paper_gain": float})


def wilcoxon_over_models(gains: pd.DataFrame) -> pd.DataFrame:
    """Test for each dataset and kind of probe whether gains are above 0 over models.

    One-sided Wilcoxon signed-rank tests with Benjamini-Hochberg adjustment over all of them.
    Datasets with fewer than two models are left out, as there is nothing to rank.

    Returns:
        Columns n_models, median_gain, p, smallest_p_possible and p_adjusted.
    """
    rows = []
    columns = [*DATASET_COLUMNS, *KIND_COLUMNS]
    for key, group in _average_by_model(gains).groupby(columns, sort=False):
        if len(group) < 2:
            continue
        test = wilcoxon_greater(group["gain"].to_numpy())
        rows.append((*key, test.n, group["gain"].median(), test.p, test.smallest_p))
    columns += ["n_models", "median_gain", "p", "smallest_p_possible"]
    tests = pd.DataFrame(rows, columns=columns)
    tests["p_adjusted"] = benjamini_hochberg(tests["p"].to_numpy(dtype=float))
    return tests


def row_kinds(table: pd.DataFrame) -> list[ProbeKind]:
    """Return the kind of probe of each row."""
    rows = table[KIND_COLUMNS].itertuples(index=False)
    return [ProbeKind(head=str(r.head), layers=str(r.layers), tokens=str(r.tokens)) for r in rows]


def ordered_kinds(table: pd.DataFrame) -> list[ProbeKind]:
    """Return the kinds of probe in a table: the paper's in its order, then the others by name."""
    kinds = set(row_kinds(table))
    return [kind for kind in PAPER_KINDS if kind in kinds] + sorted(kinds - set(PAPER_KINDS))


def select_kind(table: pd.DataFrame, kind: ProbeKind) -> pd.DataFrame:
    """Return the rows of one kind of probe."""
    return table[_is_kind(table, kind)]


def to_matrix(
    table: pd.DataFrame, column: str, *, datasets: Sequence[str], kinds: Sequence[ProbeKind]
) -> NDArray[np.float64]:
    """Return one column as a matrix (datasets, kinds), with NaN for missing rows."""
    matrix = [
        select_kind(table, kind).set_index("dataset")[column].reindex(list(datasets))
        for kind in kinds
    ]
    return np.stack([values.to_numpy(dtype=np.float64) for values in matrix], axis=1)


def _is_kind(table: pd.DataFrame, kind: ProbeKind) -> pd.Series[bool]:
    matches: pd.Series[bool] = np.logical_and.reduce(
        [table[name] == getattr(kind, name) for name in KIND_COLUMNS]
    )
    return matches


def _average_by_model(gains: pd.DataFrame) -> pd.DataFrame:
    grouped = gains.groupby([*DATASET_COLUMNS, *KIND_COLUMNS, *MODEL_COLUMNS], sort=False)
    return grouped[["gain", "accuracy", "baseline", "paper_gain"]].mean().reset_index()

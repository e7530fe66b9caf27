"""Every probe that the paper has, too: its test accuracy next to the published one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layercache._units import pluralize
from layercache.reporting.analysis.gains import KIND_COLUMNS, mean_accuracies, row_kinds
from layercache.reporting.analysis.published import PAPER, PAPER_KINDS, published_accuracy
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.formatting import format_points
from layercache.reporting.page import Section, Table, Text

TITLE = "Next to the published accuracies"
METRIC = "balanced_accuracy"
"""Metric of the published table."""
DIFFERENT_EXTRACTION = (
    "The published tokens differ in two details: DINOv2's images were resized bilinearly, and the "
    "last layer of CLIP was taken after its projection."
)


def published_section(data: ReportData) -> Section | None:
    """Compare the probes with those of the same backbone, dataset and kind in the paper.

    None without any: other backbones, datasets and kinds have no published accuracy.
    """
    frame = published_table(data)
    if frame.empty:
        return None
    view = frame[["dataset", "model"]].assign(probe=[str(kind) for kind in row_kinds(frame)])
    shown = ["accuracy", "paper_accuracy", "difference"]
    view = view.join(frame[shown + (["n_seeds"] if (frame["n_seeds"] > 1).any() else [])])
    caption = (
        "Balanced accuracy on the test images in percent (mean over seeds), that of the same "
        f"backbone, dataset and kind of probe in the appendix of {PAPER}, and the difference in "
        f"points. {DIFFERENT_EXTRACTION}"
    )
    table = Table(name="published", frame=frame, view=view, caption=caption)
    return Section(title=TITLE, blocks=[Text(text=_summary(frame)), table])


def published_table(data: ReportData) -> pd.DataFrame:
    """Return one row per backbone, dataset and kind of probe whose accuracy is published.

    Returns:
        Columns dataset, model, the kind, n_seeds, and in percent accuracy, seed_std,
        paper_accuracy and difference.
    """
    own = mean_accuracies(data.standard[data.standard["metric"] == METRIC])
    kinds = row_kinds(own)
    own["paper_accuracy"] = [
        published_accuracy(str(dataset), kind=kind, model=str(model))
        for dataset, model, kind in zip(own["dataset_name"], own["model"], kinds, strict=True)
    ]
    own["order"] = [PAPER_KINDS.index(k) if k in PAPER_KINDS else len(PAPER_KINDS) for k in kinds]
    own = own.astype({"paper_accuracy": float}).dropna(subset="paper_accuracy")
    own[["accuracy", "seed_std"]] *= 100
    own["difference"] = own["accuracy"] - own["paper_accuracy"]
    own = own.sort_values(["dataset", "model", "order"], kind="stable", ignore_index=True)
    columns = ["dataset", "model", *KIND_COLUMNS, "accuracy", "seed_std", "n_seeds"]
    return own[[*columns, "paper_accuracy", "difference"]]


def _summary(frame: pd.DataFrame) -> str:
    """Return the mean difference in words, and the largest one."""
    differences = frame["difference"].to_numpy()
    text = (
        f"The accuracy of {pluralize(len(frame), 'kind')} of probe on a backbone and dataset is "
        f"published; these probes differ from it by {format_points(float(differences.mean()))} "
        "points"
    )
    if len(frame) == 1:
        return f"{text}."
    largest = int(np.abs(differences).argmax())
    where = f"{frame['model'].iloc[largest]} on {frame['dataset'].iloc[largest]}"
    return (
        f"{text} on average, at most by {format_points(float(differences[largest]))} "
        f"({where}, {row_kinds(frame)[largest]})."
    )

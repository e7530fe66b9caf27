"""Weights of heads that the paper does not have: scalar mix, efficient probing and fusion.

Shapes: H attention heads, S input tokens of the head, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache._units import join_words, pluralize
from layercache.probing.heads.spec import LAYERS, SPATIAL, HeadSpec
from layercache.probing.results.probe_store import Probe
from layercache.reporting.analysis.attention_weights import arrange_attention
from layercache.reporting.analysis.gains import ordered_kinds
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.display_names import slugify
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.page import Block, FigureBlock, Section, Table
from layercache.reporting.plotting.attention_heatmap import attention_heatmap

TITLE = "Weights of other heads"
HEADS = ("scalar-mix", "efficient", "fusion")
BRANCH_WORDS = {LAYERS: "over the layers", SPATIAL: "over spatial tokens"}
CAPTIONS = {
    "scalar-mix": "Learned weights in percent: mean over the kinds of token and seeds.",
    "efficient": "Attention in percent: mean over queries, test images and seeds.",
    "fusion": (
        "Attention in percent: mean over test images and seeds, and over the attention heads of "
        "each branch, which counts as much as the gate gives it."
    ),
}


def weight_section(data: ReportData) -> Section | None:
    """Draw the weights of each such head on each combination, and the gates of fusion heads.

    None without a probe of these heads.
    """
    figures, gates = list[Block](), list[dict[str, Any]]()
    for combination in data.detailed:
        rows = data.standard[data.standard["combination"] == combination.key]
        for kind in ordered_kinds(rows):
            if kind.head not in HEADS:
                continue
            probes = data.probes_of(combination, kind)
            figures.append(_figure(combination, str(kind), probes))
            gates += [
                _gate_row(combination, str(kind), probe)
                for probe in probes
                if kind.head == "fusion"
            ]
    if not figures:
        return None
    blocks = figures
    if gates:
        caption = (
            "Share of the spatial branch in the logits of fusion heads in percent: mean over "
            "classes and test images, the classes with the least and the most, and the standard "
            "deviation over images. chosen: the share chosen on validation samples, from which a "
            "learned gate moves; 0 and 100 are one branch alone."
        )
        frame = pd.DataFrame(gates)
        blocks = [*figures, Table(name="gates", frame=frame, caption=caption, decimals=1)]
    return Section(title=TITLE, blocks=blocks)


def token_weights(probe: Probe) -> NDArray[np.float64]:
    """Return the mean weight of each token over images and attention heads, (S,); sums to 1.

    The heads of the two branches of a fusion head count as much as its gate gives each branch. A
    branch that the head does not consist of has weight 0.
    """
    mean_hs = probe.attention().mean.astype(np.float64)
    gate = probe.predictions().gate_mean
    if gate is None or len(mean_hs) < HeadSpec.from_json(probe.spec["head_spec"]).attention_rows:
        return np.asarray(mean_hs.mean(0))
    share, n_layers = float(gate.mean()), int(probe.row["num_heads"])
    return np.asarray((1 - share) * mean_hs[:n_layers].mean(0) + share * mean_hs[n_layers:].mean(0))


def _figure(combination: Combination, kind: str, probes: list[Probe]) -> FigureBlock:
    weights_s = np.mean([token_weights(probe) for probe in probes], axis=0)
    branches = Counter(branch for probe in probes if (branch := _shape(probe).branch))
    positions = _used_positions(_shape(probes[0]), branches, n_probes=len(probes))
    mean_1s = weights_s[None, positions]
    pairs = probes[0].pairs[positions]
    attention = arrange_attention(mean_1s, np.zeros_like(mean_1s), pairs=pairs)
    figure = attention_heatmap(
        attention.mean_lt,
        layers=attention.layers,
        tokens=attention.tokens,
        title=f"Weights: {kind}",
        subtitle=combination.name,
    )
    name = f"weights-{combination.slug}-{slugify(kind)}"
    caption = CAPTIONS[str(probes[0].row["head"])]
    if branches:
        words = [f"{n} {BRANCH_WORDS[branch]}" for branch, n in branches.items()]
        caption += (
            f" Validation chose one branch alone for {branches.total()} of "
            f"{pluralize(len(probes), 'head')} ({join_words(words)}); the other branch has no "
            "weight there, and none of its attention is shown."
        )
    return FigureBlock(name=name, figure=figure, caption=caption)


def _shape(probe: Probe) -> HeadSpec:
    """Return the shape of a probe's head, which of a fusion head says if it is one branch."""
    searched = HeadSpec.from_json(probe.spec["head_spec"])
    return searched.at_share(probe.row.get("spatial_share"))


def _used_positions(shape: HeadSpec, branches: Mapping[str, int], *, n_probes: int) -> slice:
    """Return the positions of the tokens that any of the heads attends to.

    Args:
        shape: Shape of one of the heads.
        branches: Number of heads that consist of this branch alone.
        n_probes: Number of heads.
    """
    for branch in (LAYERS, SPATIAL):
        if branches.get(branch) == n_probes:
            return shape.branch_tokens(branch)
    return slice(None)


def _gate_row(combination: Combination, kind: str, probe: Probe) -> dict[str, Any]:
    stored = probe.predictions()
    mean, std = stored.gate_mean, stored.gate_std
    share = probe.row.get("spatial_share")
    return {
        "combination": combination.name,
        "head": kind,
        "gate": probe.row.get("gate"),
        "seed": probe.row["seed"],
        "chosen": None if share is None else 100 * share,
        "mean": None if mean is None else 100 * float(mean.mean()),
        "lowest_class": None if mean is None else 100 * float(mean.min()),
        "highest_class": None if mean is None else 100 * float(mean.max()),
        "std_over_images": None if std is None else 100 * float(std.mean()),
    }

"""Similarity of the layers (CKA), and whether dissimilar layers are worth adding.

Shapes: P pairs (layer, token kind), n images, D width.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.cache import Cache, Split
from layercache.cache.cache import extract_command
from layercache.reporting.analysis.gains import gains_over_baseline, select_kind
from layercache.reporting.analysis.published import FUSION
from layercache.reporting.analysis.similarity import linear_cka
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.page import Block, CommandHint, FigureBlock, Section, Table, Text
from layercache.reporting.plotting.curves import scatter
from layercache.reporting.plotting.heatmap_cells import token_label
from layercache.reporting.plotting.similarity_heatmap import similarity_heatmap
from layercache.reporting.sections.single_layers import SINGLE_TOKENS, single_layer_accuracies

TITLE = "Similarity of the layers"
MIN_POINTS = 3
"""Number of points from which a scatter plot is drawn."""

Pairs = tuple[tuple[int, str], ...]


def similarity_section(data: ReportData) -> Section:
    """Draw CKA between all layers, and CKA to the last layer against gain."""
    intro = (
        "Linear CKA compares two sets of tokens of the same images: it is 1 if one is a rotated "
        "and scaled copy of the other, and 0 in expectation if they are independent (unbiased "
        f"estimator, tokens as stored, at most {data.cka_images} test images spread evenly)."
    )
    blocks: list[Block] = [Text(text=intro)]
    mean_cka_to_last: dict[str, float] = {}
    for combination in data.detailed:
        split = _test_split(combination.cache)
        if split is None or split.rows < 4:
            text = (
                f"{combination.name}: the test split is not complete in the cache. To complete it:"
            )
            commands = [extract_command(combination.cache)]
            blocks.append(CommandHint(text=text, commands=commands))
            continue
        tokens = [token for token in SINGLE_TOKENS if token in split.spec.tokens]
        pairs = tuple((layer, token) for layer in split.spec.layers for token in tokens)
        if len(pairs) < 2:
            text = (
                f"{combination.name}: the cache stores fewer than two CLS or AP tokens, so there "
                "is nothing to compare."
            )
            blocks.append(CommandHint(text=text))
            continue
        tokens_pnd = read_evenly(split, pairs, max_rows=data.cka_images)
        cka = linear_cka(tokens_pnd)
        last = _last_pair(pairs)
        mean_cka_to_last[combination.key] = float(np.nanmean(np.delete(cka[last], last)))
        blocks += _heatmap(combination, cka, pairs, n_images=tokens_pnd.shape[1])
        blocks += _accuracy_by_similarity(data, combination, cka, pairs)
    blocks += _gain_by_similarity(data, mean_cka_to_last)
    return Section(title=TITLE, blocks=blocks)


def read_evenly(split: Split, pairs: Pairs, *, max_rows: int) -> NDArray[np.float32]:
    """Read the tokens (P, n, D) of at most `max_rows` rows spread evenly over the split.

    Blocks are read one by one, so a large split needs little memory.
    """
    n_rows = min(max_rows, split.rows)
    rows = np.unique(np.linspace(0, split.rows - 1, n_rows).round().astype(np.int64))
    tokens_pnd = np.empty((len(pairs), len(rows), split.spec.width), np.float32)
    for start, stop in split.blocks:
        inside = (rows >= start) & (rows < stop)
        if inside.any():
            block = split.read(pairs, rows=(start, stop))
            tokens_pnd[:, inside] = block[:, rows[inside] - start]
    return tokens_pnd


def _test_split(cache: Cache) -> Split | None:
    return cache.split("test") if "test" in cache.splits and cache.complete("test") else None


def _last_pair(pairs: Pairs) -> int:
    """Return the index of the last layer's CLS, or of the last layer's first token without one."""
    last_layer = max(layer for layer, _ in pairs)
    if (last_layer, "cls") in pairs:
        return pairs.index((last_layer, "cls"))
    return next(i for i, (layer, _) in enumerate(pairs) if layer == last_layer)


def _heatmap(
    combination: Combination, cka: NDArray[np.float64], pairs: Pairs, *, n_images: int
) -> list[Block]:
    figure = similarity_heatmap(
        cka,
        pairs=pairs,
        title="Similarity of the layers",
        subtitle=f"{combination.name}, {n_images} test images",
    )
    caption = (
        "Linear CKA between all layers, CLS and AP. Bright blocks are runs of similar layers; dark "
        "bands separate stages of the backbone."
    )
    labels = [f"{token_label(token)} {layer}" for layer, token in pairs]
    frame = pd.DataFrame(cka, columns=labels)
    frame.insert(0, "token", labels)
    name = f"cka-{combination.slug}"
    table_caption = f"{combination.name}: linear CKA on {n_images} test images."
    return [
        FigureBlock(name=name, figure=figure, caption=caption),
        Table(name=name, frame=frame, caption=table_caption, max_rows=0),
    ]


def _accuracy_by_similarity(
    data: ReportData, combination: Combination, cka: NDArray[np.float64], pairs: Pairs
) -> list[Block]:
    """Plot single-layer accuracy, relative to the last CLS, against CKA to it."""
    curves = single_layer_accuracies(data, combination)
    last = _last_pair(pairs)
    baseline = curves["cls"][-1]
    series = {}
    for token, accuracies in curves.items():
        points = [
            (cka[last, i], 100 * (accuracies[layer - 1] - baseline), str(layer))
            for i, (layer, t) in enumerate(pairs)
            if t == token and i != last
        ]
        points = [(x, y, label) for x, y, label in points if np.isfinite(x) and np.isfinite(y)]
        if points:
            x, y, labels = zip(*points, strict=True)
            series[token_label(token)] = (x, y, labels)
    if sum(len(x) for x, _, _ in series.values()) < MIN_POINTS:
        return []
    figure = scatter(
        series,
        xlabel="linear CKA to the last layer's CLS",
        ylabel="single-layer probe minus last CLS, points",
        title=f"Similarity to the last layer and accuracy: {combination.name}",
    )
    caption = (
        "Each point is one layer, numbered: similarity of its token to the last layer's CLS, and "
        "accuracy of a linear probe on this token alone, relative to the last CLS."
    )
    return [FigureBlock(name=f"cka-worth-{combination.slug}", figure=figure, caption=caption)]


def _gain_by_similarity(data: ReportData, mean_cka_to_last: dict[str, float]) -> list[Block]:
    """Plot the fusion gain against the mean CKA to the last layer, over all combinations."""
    gains = select_kind(gains_over_baseline(data.standard), FUSION).set_index("combination")["gain"]
    rows = [
        (data.combinations[key], cka, float(gains[key]))
        for key, cka in mean_cka_to_last.items()
        if key in gains.index and np.isfinite(cka)
    ]
    if len(rows) < MIN_POINTS:
        return []
    series = {}
    for model in dict.fromkeys(combination.model_label for combination, _, _ in rows):
        points = [(x, y, c.dataset_label) for c, x, y in rows if c.model_label == model]
        x, y, labels = zip(*points, strict=True)
        series[model] = (x, y, labels)
    figure = scatter(
        series,
        xlabel="mean linear CKA of the other tokens to the last layer's CLS",
        ylabel="gain of fusion, points",
        title="Similarity of the layers and gain",
    )
    caption = (
        "Each point is a backbone on a dataset. The less similar the other layers are to the last "
        "(left), the more fusion can add (up)."
    )
    frame = pd.DataFrame(
        [(combination.name, cka, gain) for combination, cka, gain in rows],
        columns=["backbone and dataset", "mean_cka", "gain"],
    )
    return [
        FigureBlock(name="cka-gain", figure=figure, caption=caption),
        Table(name="cka-gain", frame=frame, caption="The numbers of the figure."),
    ]

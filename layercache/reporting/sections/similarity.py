"""How alike the layers are, and whether unlike layers are worth adding."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.cache import Cache, Split
from layercache.cache.find import extract_command
from layercache.reporting.data import ReportData, Source
from layercache.reporting.gains import gains, pick
from layercache.reporting.page import Block, CommandHint, FigureBlock, Section, Table, Text
from layercache.reporting.plotting.curves import scatter
from layercache.reporting.plotting.heatmaps import similarity_map, token_label
from layercache.reporting.published import FUSION
from layercache.reporting.sections.depth import SINGLE_TOKENS, single_layers
from layercache.reporting.similarity import linear_cka

Pairs = tuple[tuple[int, str], ...]


def similarity_section(material: ReportData) -> Section:
    """CKA maps from the caches' test tokens, and CKA to the last layer against gain."""
    blocks: list[Block] = [
        Text(
            text="Linear CKA compares two sets of tokens of the same images: 1 when one is a rotated and scaled copy of the other, 0 in expectation "
            f"when they have nothing in common (unbiased estimator, tokens as stored, at most {material.cka_images} test images spread evenly)."
        )
    ]
    to_last: dict[str, float] = {}
    for source in material.detailed:
        split = test_split(source.cache)
        if split is None or split.rows < 4:
            blocks.append(
                CommandHint(
                    text=f"{source.name}: the test split is not complete in the cache. This completes it:",
                    commands=[extract_command(source.cache)],
                )
            )
            continue
        pairs = tuple(
            (layer, t)
            for layer in split.spec.layers
            for t in SINGLE_TOKENS
            if t in split.spec.tokens
        )
        if len(pairs) < 2:
            blocks.append(
                CommandHint(
                    text=f"{source.name}: the cache stores fewer than two CLS or AP tokens, so there is nothing to compare."
                )
            )
            continue
        tokens = read_spread(split, pairs, most=material.cka_images)
        cka = linear_cka(tokens)
        blocks += _one_source(material, source, cka, pairs, images=tokens.shape[1])
        last = pairs.index(_reference(pairs))
        to_last[source.key] = float(np.nanmean(np.delete(cka[last], last)))
    blocks += _across(material, to_last)
    return Section(title="How alike the layers are", blocks=blocks)


def test_split(cache: Cache) -> Split | None:
    """The complete test split of a cache, or None."""
    return cache.split("test") if "test" in cache.splits and cache.complete("test") else None


def read_spread(split: Split, pairs: Pairs, *, most: int) -> NDArray[np.float32]:
    """Tokens (P, n, D) of at most `most` rows spread evenly over the split, read block by block so that a large split needs little memory."""
    rows = np.unique(np.linspace(0, split.rows - 1, min(most, split.rows)).round().astype(np.int64))
    out = np.empty((len(pairs), len(rows), split.spec.width), np.float32)
    for start, stop in split.blocks:
        here = (rows >= start) & (rows < stop)
        if here.any():
            out[:, here] = split.read(pairs, rows=(start, stop))[:, rows[here] - start]
    return out


def _reference(pairs: Pairs) -> tuple[int, str]:
    """The last layer's CLS, or without one its first token."""
    last = max(layer for layer, _ in pairs)
    return (last, "cls") if (last, "cls") in pairs else next(p for p in pairs if p[0] == last)


def _one_source(
    material: ReportData, source: Source, cka: NDArray[np.float64], pairs: Pairs, *, images: int
) -> list[Block]:
    names = [f"{token_label(t)} {layer}" for layer, t in pairs]
    figure = similarity_map(
        cka,
        pairs=pairs,
        title="How alike the layers are",
        subtitle=f"{source.name}, {images} test images",
    )
    caption = "Linear CKA between all layers, CLS and AP. Bright blocks are runs of layers that say the same; dark bands separate stages of the backbone."
    frame = pd.DataFrame(cka, columns=names)
    frame.insert(0, "token", names)
    blocks: list[Block] = [
        FigureBlock(name=f"cka-{source.stem}", figure=figure, caption=caption),
        Table(
            name=f"cka-{source.stem}",
            frame=frame,
            caption=f"{source.name}: linear CKA on {images} test images.",
            max_rows=0,
            decimals=4,
        ),
    ]
    curves = single_layers(material, source)
    last = pairs.index(_reference(pairs))
    base = curves["cls"][-1]
    groups = {}
    for token, values in curves.items():
        found = [
            (cka[last, i], 100 * (values[layer - 1] - base), str(layer))
            for i, (layer, t) in enumerate(pairs)
            if t == token and i != last
        ]
        found = [f for f in found if np.isfinite(f[0]) and np.isfinite(f[1])]
        if found:
            x, y, labels = zip(*found, strict=True)
            groups[token_label(token)] = (x, y, labels)
    if sum(len(g[0]) for g in groups.values()) >= 3:
        figure = scatter(
            groups,
            xlabel="linear CKA to the last layer's CLS",
            ylabel="single-layer probe against last CLS, points",
            title=f"Likeness to the last layer, and worth: {source.name}",
        )
        caption = "Each point is one layer, numbered: how alike its token is to the last layer's CLS, and how a linear probe on it alone compares."
        blocks.append(FigureBlock(name=f"cka-worth-{source.stem}", figure=figure, caption=caption))
    return blocks


def _across(material: ReportData, to_last: dict[str, float]) -> list[Block]:
    """Over all pairs of backbone and data: mean CKA to the last layer against the fusion gain."""
    fusion = pick(gains(material.main), FUSION).set_index("source")["gain"]
    both = [key for key in to_last if key in fusion.index and np.isfinite(to_last[key])]
    if len(both) < 3:
        return []
    groups = {}
    for model in dict.fromkeys(material.sources[key].model for key in both):
        mine = [key for key in both if material.sources[key].model == model]
        groups[model] = (
            [to_last[k] for k in mine],
            [float(fusion[k]) for k in mine],
            [material.sources[k].dataset for k in mine],
        )
    figure = scatter(
        groups,
        xlabel="mean linear CKA of the other tokens to the last layer's CLS",
        ylabel="gain of fusion, points",
        title="Likeness of layers against gain",
    )
    caption = "Each point is a backbone on a data set. If lower layers say something else than the last (left), there is more for fusion to add (up)."
    frame = pd.DataFrame(
        {
            "backbone and data": [material.sources[k].name for k in both],
            "mean_cka": [to_last[k] for k in both],
            "gain": [float(fusion[k]) for k in both],
        }
    )
    return [
        FigureBlock(name="cka-gain", figure=figure, caption=caption),
        Table(name="cka-gain", frame=frame, caption="The same as numbers."),
    ]

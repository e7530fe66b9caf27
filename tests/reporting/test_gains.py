from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layercache.reporting.gains import accuracies, cell_order, gains, grid, mean_gains, over_models
from layercache.reporting.published import BASELINE, CELLS, FUSION, Cell

QUARTER = Cell(head="attentive", layers="quarter", tokens="cls+ap")


def observe(dataset, model, cell, accuracy, *, seed=0, source=None):
    return {
        "dataset": dataset,
        "model": model,
        "source": source or f"{dataset}/{model}",
        "head": cell.head,
        "layers": cell.layers,
        "tokens": cell.tokens,
        "seed": seed,
        "accuracy": accuracy,
    }


@pytest.fixture
def table():
    rows = [
        observe("flowers", "clip_b16", BASELINE, 0.9),
        observe("flowers", "clip_b16", FUSION, 0.94),
        observe("flowers", "clip_b16", FUSION, 0.96, seed=1),
    ]
    rows += [
        observe("flowers", "vit_nano", BASELINE, 0.5),
        observe("flowers", "vit_nano", FUSION, 0.7),
        observe("flowers", "vit_nano", QUARTER, 0.6),
    ]
    rows += [observe("digits", "vit_nano", FUSION, 0.99)]  # no baseline: no gain
    return pd.DataFrame(rows)


def test_seeds_are_averaged_before_anything_is_compared(table):
    found = (
        accuracies(table)
        .set_index(["model", "head", "layers", "dataset"])
        .loc[("clip_b16", "attentive", "all", "flowers")]
    )
    assert (found.accuracy, found.seeds) == (pytest.approx(0.95), 2)
    assert found.seed_std == pytest.approx(np.std([0.94, 0.96], ddof=1))


def test_gain_is_against_the_same_source_and_beside_it_the_papers(table):
    found = gains(table)
    assert len(found) == 3
    by = {(r.model, r.layers): r for r in found.itertuples()}
    assert by["clip_b16", "all"].gain == pytest.approx(5)
    assert by["clip_b16", "all"].paper == pytest.approx(1.47)
    assert by["vit_nano", "all"].gain == pytest.approx(20)
    assert np.isnan(by["vit_nano", "all"].paper)
    assert by["vit_nano", "quarter"].baseline == 0.5


def test_mean_over_models_beside_the_papers_mean(table):
    found = {(r.head, r.layers): r for r in mean_gains(gains(table)).itertuples()}
    fusion = found["attentive", "all"]
    assert (fusion.models, fusion.of_the_papers_nine) == (2, 1)
    assert fusion.gain == pytest.approx(12.5)
    assert fusion.gain_std == pytest.approx(np.std([5, 20], ddof=1))
    assert fusion.paper == 0.46
    assert np.isnan(found["attentive", "quarter"].paper)


def test_two_sources_of_one_model_count_once():
    rows = [
        observe("d", "m", c, a, source=k)
        for k, (b, f) in {"x": (0.5, 0.6), "y": (0.5, 0.8)}.items()
        for c, a in ((BASELINE, b), (FUSION, f))
    ]
    rows += [observe("d", "n", BASELINE, 0.5), observe("d", "n", FUSION, 0.5)]
    found = mean_gains(gains(pd.DataFrame(rows))).iloc[0]
    assert (found["models"], found["gain"]) == (2, pytest.approx(10))


def test_over_models_is_wilcoxon_with_control():
    rows = []
    rng = np.random.default_rng(0)
    for model in range(9):
        for dataset, shift in (("up", 0.1), ("flat", 0.0)):
            rows += [
                observe(dataset, str(model), BASELINE, 0.5),
                observe(dataset, str(model), FUSION, 0.5 + shift + 0.02 * rng.normal()),
            ]
    found = over_models(gains(pd.DataFrame(rows))).set_index("dataset")
    assert found.loc["up", "p"] == 2**-9
    assert found.loc["up", "p_adjusted"] == pytest.approx(2 * 2**-9)
    assert found.loc["flat", "p_adjusted"] > 0.05
    assert over_models(gains(pd.DataFrame(rows[:2]))).empty


def test_order_of_cells_is_the_papers(table):
    assert cell_order(table) == [BASELINE, FUSION, QUARTER]
    assert cell_order(table)[0] == CELLS[0]


def test_grid_leaves_holes(table):
    found = grid(
        mean_gains(gains(table)), "gain", datasets=["digits", "flowers"], cells=[FUSION, QUARTER]
    )
    assert np.isnan(found[0]).all()
    assert found[1] == pytest.approx([12.5, 10])

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layercache.reporting.analysis.gains import (
    gains_over_baseline,
    mean_accuracies,
    mean_gains,
    ordered_kinds,
    to_matrix,
    wilcoxon_over_models,
)
from layercache.reporting.analysis.published import BASELINE, FUSION, PAPER_KINDS, ProbeKind

QUARTER = ProbeKind(head="attentive", layers="quarter", tokens="cls+ap")


def make_row(dataset, model, kind, accuracy, *, seed=0, combination=None):
    return {
        "dataset": dataset,
        "dataset_name": dataset,
        "dataset_digest": f"digest of {dataset}",
        "model": model,
        "weights_digest": f"digest of {model}",
        "combination": combination or f"{dataset}/{model}",
        "head": kind.head,
        "layers": kind.layers,
        "tokens": kind.tokens,
        "seed": seed,
        "accuracy": accuracy,
    }


@pytest.fixture
def table():
    rows = [
        make_row("flowers", "clip_b16", BASELINE, 0.89),
        make_row("flowers", "clip_b16", BASELINE, 0.91, seed=1),
        make_row("flowers", "clip_b16", FUSION, 0.94),
        make_row("flowers", "clip_b16", FUSION, 0.96, seed=1),
    ]
    rows += [
        make_row("flowers", "vit_nano", BASELINE, 0.5),
        make_row("flowers", "vit_nano", FUSION, 0.7),
        make_row("flowers", "vit_nano", QUARTER, 0.6),
    ]
    rows += [make_row("digits", "vit_nano", FUSION, 0.99)]  # no baseline, so no gain
    return pd.DataFrame(rows)


def test_mean_accuracies_average_over_seeds(table):
    result = (
        mean_accuracies(table)
        .set_index(["model", "head", "layers", "dataset"])
        .loc[("clip_b16", "attentive", "all", "flowers")]
    )
    assert (result.accuracy, result.n_seeds) == (pytest.approx(0.95), 2)
    assert result.seed_std == pytest.approx(np.std([0.94, 0.96], ddof=1))


def test_gains_are_over_the_same_combination_next_to_the_published_ones(table):
    result = gains_over_baseline(table)
    assert len(result) == 3
    by = {(r.model, r.layers): r for r in result.itertuples()}
    assert by["clip_b16", "all"].gain == pytest.approx(5)
    assert by["clip_b16", "all"].paper_gain == pytest.approx(1.47)
    assert by["vit_nano", "all"].gain == pytest.approx(20)
    assert np.isnan(by["vit_nano", "all"].paper_gain)
    assert by["vit_nano", "quarter"].baseline == 0.5


def test_gains_are_of_the_seeds_that_both_have(table):
    unpaired = table[(table["layers"] != "last") | (table["seed"] == 0)]
    result = gains_over_baseline(unpaired).set_index(["model", "layers"])
    fusion = result.loc[("clip_b16", "all")]
    assert (fusion["accuracy"], fusion["baseline"], fusion["n_seeds"]) == (0.94, 0.89, 1)
    assert fusion["gain"] == pytest.approx(5)
    no_seed_in_common = table[(table["layers"] != "last") ^ (table["seed"] == 1)]
    assert set(gains_over_baseline(no_seed_in_common)["model"]) == set()


def test_mean_gains_and_tests_keep_datasets_and_weights_of_one_name_apart():
    rows = []
    for digest, gain in (("5 classes", 0.1), ("12 classes", 0.3)):
        for weights in ("w1", "w2"):
            for kind, accuracy in ((BASELINE, 0.5), (FUSION, 0.5 + gain)):
                row = make_row("labels.csv", "vit", kind, accuracy, combination=digest + weights)
                rows.append({**row, "dataset_digest": digest, "weights_digest": weights})
    gains = gains_over_baseline(pd.DataFrame(rows))
    means = mean_gains(gains).set_index("dataset_digest")
    assert means["gain"].to_dict() == pytest.approx({"5 classes": 10, "12 classes": 30})
    assert set(means["n_models"]) == {2}
    tests = wilcoxon_over_models(gains).set_index("dataset_digest")
    assert tests["n_models"].to_dict() == {"5 classes": 2, "12 classes": 2}


def test_mean_gains_are_next_to_the_published_mean(table):
    result = {(r.head, r.layers): r for r in mean_gains(gains_over_baseline(table)).itertuples()}
    fusion = result["attentive", "all"]
    assert (fusion.n_models, fusion.n_paper_backbones) == (2, 1)
    assert fusion.gain == pytest.approx(12.5)
    assert fusion.gain_std == pytest.approx(np.std([5, 20], ddof=1))
    assert fusion.paper_gain == 0.46
    assert np.isnan(result["attentive", "quarter"].paper_gain)


def test_mean_gains_of_published_backbones_are_next_to_the_mean_over_the_same(table):
    fusion = mean_gains(gains_over_baseline(table)).set_index("layers").loc["all"]
    assert np.isnan(fusion["paper_gain_same_backbones"])  # vit_nano is not published
    rows = [
        make_row("flowers", model, kind, 0.9)
        for model in ("clip_b16", "dinov2_b14")
        for kind in (BASELINE, FUSION)
    ]
    (mean,) = mean_gains(gains_over_baseline(pd.DataFrame(rows))).itertuples()
    assert mean.paper_gain_same_backbones == pytest.approx((1.47 + 0.05) / 2)
    assert mean.paper_gain == 0.46


def test_mean_gains_with_two_combinations_of_a_model_count_it_once():
    rows = [
        make_row("d", "m", c, a, combination=k)
        for k, (b, f) in {"x": (0.5, 0.6), "y": (0.5, 0.8)}.items()
        for c, a in ((BASELINE, b), (FUSION, f))
    ]
    rows += [make_row("d", "n", BASELINE, 0.5), make_row("d", "n", FUSION, 0.5)]
    result = mean_gains(gains_over_baseline(pd.DataFrame(rows))).iloc[0]
    assert (result["n_models"], result["gain"]) == (2, pytest.approx(10))


def test_wilcoxon_over_models_is_adjusted_for_all_tests():
    rows = []
    rng = np.random.default_rng(0)
    for model in range(9):
        for dataset, shift in (("up", 0.1), ("flat", 0.0)):
            rows += [
                make_row(dataset, str(model), BASELINE, 0.5),
                make_row(dataset, str(model), FUSION, 0.5 + shift + 0.02 * rng.normal()),
            ]
    result = wilcoxon_over_models(gains_over_baseline(pd.DataFrame(rows))).set_index("dataset")
    assert result.loc["up", "p"] == 2**-9
    assert result.loc["up", "p_adjusted"] == pytest.approx(2 * 2**-9)
    assert result.loc["flat", "p_adjusted"] > 0.05
    assert wilcoxon_over_models(gains_over_baseline(pd.DataFrame(rows[:2]))).empty


def test_ordered_kinds_follow_the_paper(table):
    assert ordered_kinds(table) == [BASELINE, FUSION, QUARTER]
    assert ordered_kinds(table)[0] == PAPER_KINDS[0]


def test_to_matrix_without_a_row_is_nan(table):
    result = to_matrix(
        mean_gains(gains_over_baseline(table)),
        "gain",
        datasets=["digits", "flowers"],
        kinds=[FUSION, QUARTER],
    )
    assert np.isnan(result[0]).all()
    assert result[1] == pytest.approx([12.5, 10])

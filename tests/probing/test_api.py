from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from layercache.cache.format import layout
from layercache.errors import (
    HeadMismatchError,
    OptionError,
    UnknownNameError,
)
from layercache.probing.api import probe
from layercache.probing.heads.spec import GATES
from layercache.probing.metrics import to_probabilities
from layercache.probing.training.config import HParams, TrainConfig
from tests.probing.quick import ONE_CONFIG

CHANCE = 1 / 3
CLASSES = 3


def scores(results: Any, name: str = "test_balanced_accuracy") -> list[float]:
    return results.table[name].tolist()


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_probe_of_a_signal_in_an_inner_layer_finds_it_with_all_layers_only(
    planted: Callable[..., Any], head: str
) -> None:
    results = probe(planted(layer=2), head=head, layers=["last", "all", "2"], **ONE_CONFIG)
    last, all_layers, inner = scores(results)
    assert abs(last - CHANCE) < 0.15
    assert all_layers > 0.8
    assert inner > 0.8
    assert results.table["layers"].tolist() == ["last", "all", "2"]
    assert results.table["n_tokens"].tolist() == [2, 8, 2]


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_probe_of_shuffled_labels_scores_at_chance(planted: Callable[..., Any], head: str) -> None:
    (score,) = scores(probe(planted(shuffled=True, test_rows=300), head=head, **ONE_CONFIG))
    assert abs(score - CHANCE) < 0.12


def test_probe_of_the_wrong_token_kind_scores_at_chance(planted: Callable[..., Any]) -> None:
    right, wrong = scores(probe(planted(kind=0), head="linear", tokens=["cls", "ap"], **ONE_CONFIG))
    assert right > 0.8
    assert abs(wrong - CHANCE) < 0.15


def test_probe_selects_the_best_configuration_and_of_a_tie_the_larger_weight_decay(
    planted: Callable[..., Any],
) -> None:
    cache = planted(classes=5, rows=300, strength=0.8)
    results = probe(cache, head="linear", **{**ONE_CONFIG, "lr": [1e-6, 0.05]})
    (trained,) = results
    low, high = (config.val_metrics["balanced_accuracy"] for config in trained.configs)
    assert high > low
    assert trained.row["lr"] == 0.05
    assert trained.row["val_balanced_accuracy"] == high
    options = {**ONE_CONFIG, "weight_decay": [1e-5, 1e-6, 1e-4], "layers": "2", "tokens": "cls"}
    easy = planted(strength=9.0, model="easy")
    (tied,) = probe(easy, head="linear", **options)
    assert {config.val_metrics["balanced_accuracy"] for config in tied.configs} == {1.0}
    assert tied.row["weight_decay"] == 1e-4
    (first,) = probe(easy, head="linear", paper_compat=True, **options)
    assert first.row["weight_decay"] == 1e-5
    assert first.id != tied.id


@pytest.mark.parametrize(
    ("head", "strength"),
    [("linear", 0.9), ("scalar-mix", 0.9), ("efficient", 1.5), ("fusion", 1.5)],
)
def test_probe_of_tokens_beyond_memory_scores_as_that_of_resident_ones_within_seed_noise(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, head: str, strength: float
) -> None:
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 2**14)
    kinds = ("cls", "ap", "patch/0", "patch/1")
    cache = planted(rows=400, test_rows=400, strength=strength, kinds=kinds)
    options = {"head": head, "spatial": "patch", "seeds": 3, **ONE_CONFIG}
    resident = scores(probe(cache, **options))
    streamed = probe(cache, memory_budget="30kB", refresh=True, **options)
    assert set(streamed.table["features"]) == {"stream"}
    spread = np.std(resident, ddof=1) + np.std(scores(streamed), ddof=1)
    assert 0.5 < np.mean(resident) < 0.97, "neither chance nor the ceiling"
    assert abs(np.mean(resident) - np.mean(scores(streamed))) < max(3 * spread / 2, 0.02)


def test_probe_with_seeds_shots_and_fractions_returns_a_row_each(
    planted: Callable[..., Any],
) -> None:
    cache = planted()
    table = probe(cache, head="linear", seeds=[3, 5], shots=[1, 3, 5], **ONE_CONFIG).table
    assert table[["seed", "shots"]].drop_duplicates().shape[0] == 6
    assert table["train_rows"].tolist() == [3, 3, 9, 9, 15, 15]
    assert table["n_folds"].tolist() == [0, 0, 3, 3, 1, 1]
    assert table.loc[table["shots"] == 1, "val_balanced_accuracy"].isna().all()
    part = probe(cache, head="linear", train_fraction=0.25, **ONE_CONFIG).table
    assert part["train_rows"].tolist() == [60]
    full = scores(probe(cache, head="linear", **ONE_CONFIG))[0]
    assert table.loc[table["shots"] == 1, "test_balanced_accuracy"].mean() < full


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (2, ["2"]),
        ([1, 2], ["1,2"]),
        (["last", 2], ["last", "2"]),
        ([[1], [2], [1, 2]], ["1", "2", "1,2"]),
    ],
)
def test_probe_takes_layers_as_words_numbers_and_lists_of_numbers(
    planted: Callable[..., Any], layers: Any, expected: list[str]
) -> None:
    table = probe(planted(), head="knn", layers=layers).table
    assert table["layers"].tolist() == expected


def test_probe_of_one_shot_takes_the_middle_of_the_grid(planted: Callable[..., Any]) -> None:
    (trained,) = probe(
        planted(),
        head="linear",
        shots=1,
        **{**ONE_CONFIG, "lr": [0.1, 0.01, 0.001], "weight_decay": [1e-6, 1e-3, 1.0]},
    )
    assert (trained.row["lr"], trained.row["weight_decay"]) == (0.01, 1e-3)


def test_probe_with_early_stopping_repeats_the_epochs_of_the_search(
    planted: Callable[..., Any],
) -> None:
    (trained,) = probe(
        planted(strength=9.0),
        head="linear",
        **{
            **ONE_CONFIG,
            "train_config": TrainConfig(epochs=30, min_steps=0, min_batches=3, patience=2),
        },
    )
    assert trained.row["epochs"] == trained.configs[0].epochs < 30


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_probe_selected_by_another_metric_reports_it(
    planted: Callable[..., Any], head: str
) -> None:
    from sklearn.metrics import log_loss, roc_auc_score

    cache = planted(rows=200)
    options = {**ONE_CONFIG, "lr": [0.03, 0.001], "layers": "all"}
    (usual,) = probe(cache, head=head, **options)
    (by_auc,) = probe(cache, head=head, select="auroc", **options)
    (again,) = probe(cache, head=head, select="balanced_accuracy", **options)
    assert again.id == usual.id != by_auc.id
    stored = by_auc.predictions()
    p = to_probabilities(stored.logits, task="classification")
    expected = roc_auc_score(stored.targets, p, multi_class="ovr")
    assert by_auc.row["test_roc_auc"] == pytest.approx(expected, abs=1e-6)
    assert by_auc.row["test_ci95_low"] <= expected <= by_auc.row["test_ci95_high"]
    best = max(by_auc.configs, key=lambda config: config.val_metrics["roc_auc"])
    assert by_auc.row["val_roc_auc"] == best.val_metrics["roc_auc"]
    assert usual.metrics("log_loss") == {
        "log_loss": pytest.approx(
            log_loss(
                stored.targets, to_probabilities(usual.predictions().logits, task="classification")
            )
        )
    }
    assert usual.metrics("roc_auc")["roc_auc"] > 0.5
    low, high = usual.intervals("roc_auc")["roc_auc"]
    assert low <= usual.metrics("roc_auc")["roc_auc"] <= high


def test_select_by_a_metric_of_another_task_is_an_error(planted: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="select: r2 is not a metric of classification"):
        probe(planted(), head="linear", select="r2", **ONE_CONFIG)


def test_logits_for_selection_are_kept_for_as_many_configurations_as_fit(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**ONE_CONFIG, "lr": [0.03, 0.01, 0.001], "layers": "last", "select": "roc_auc"}
    (together,) = probe(planted(), head="linear", **options)
    monkeypatch.setattr("layercache.probing.training.validation_metrics.MAX_OUTPUT_BYTES", 1)
    (one_by_one,) = probe(planted(), head="linear", refresh=True, **options)
    assert [c.val_metrics for c in one_by_one.configs] == [c.val_metrics for c in together.configs]


def test_probe_of_multi_label_targets_reports_mean_average_precision(
    planted: Callable[..., Any],
) -> None:
    from sklearn.metrics import average_precision_score

    cache = planted(multi_label=True, rows=300, layer=4)
    (trained,) = probe(cache, head="linear", layers="last", **ONE_CONFIG)
    stored = trained.predictions()
    assert trained.row["test_mean_average_precision"] == pytest.approx(
        average_precision_score(stored.targets, stored.logits, average="macro")
    )
    assert trained.row["test_mean_average_precision"] > 0.75
    assert trained.row["test_balanced_accuracy"] is None
    assert (
        trained.row["test_ci95_low"]
        < trained.row["test_mean_average_precision"]
        < trained.row["test_ci95_high"]
    )
    (chance,) = probe(cache, head="linear", layers="1", **ONE_CONFIG)
    assert chance.row["test_mean_average_precision"] < 0.6


def test_probe_of_attentive_tokens_and_hybrid_heads_finds_a_signal_in_patches(
    planted: Callable[..., Any],
) -> None:
    kinds = ("cls", "ap", "patch/0", "patch/1", "patch/2", "patch/3")
    cache = planted(kinds=kinds, kind=4, layer=4)
    pooled, all_tokens, hybrid, embedded = (
        *probe(cache, head="attentive", **ONE_CONFIG),
        *probe(cache, head="attentive-tokens", **ONE_CONFIG),
        *probe(cache, head="hybrid", num_heads=4, spatial="patch", **ONE_CONFIG),
        *probe(cache, head="hybrid", num_heads=4, spatial="patch", embedding=True, **ONE_CONFIG),
    )
    assert (
        all_tokens.row["layers"],
        all_tokens.row["tokens"],
        all_tokens.row["n_tokens"],
        all_tokens.row["num_heads"],
    ) == ("last", "all", 5, 8)
    assert (hybrid.row["layers"], hybrid.row["spatial"], hybrid.row["n_tokens"]) == (
        "all",
        "patch@last",
        12,
    )
    assert embedded.head().spec.embedding_ids is not None
    assert abs(pooled.row["test_balanced_accuracy"] - CHANCE) < 0.15
    for trained in (all_tokens, hybrid, embedded):
        assert trained.row["test_balanced_accuracy"] > 0.6


@pytest.mark.parametrize("gate", GATES)
def test_probe_of_a_fusion_head_finds_a_signal_in_either_branch(
    planted: Callable[..., Any], gate: str
) -> None:
    kinds = ("cls", "ap", "patch/0", "patch/1", "patch/2", "patch/3")
    for kind, features, spatial, n in ((4, "resident", "patch", 12), (1, "stream", "all", 13)):
        cache = planted(kinds=kinds, kind=kind, layer=4, dataset=f"made_up_{kind}")
        (fused,) = probe(
            cache, head="fusion", spatial=spatial, gate=gate, features=features, **ONE_CONFIG
        )
        assert fused.row["test_balanced_accuracy"] > 0.6
        assert fused.row["gate"] == gate
        assert (fused.row["spatial"], fused.row["n_tokens"]) == (f"{spatial}@last", n)
        head = fused.head()
        assert len(set(head.pairs)) == 12  # all: the CLS token of the last layer in both branches
        share = head.hparams["spatial_share"]
        assert share == fused.row["spatial_share"]
        assert (share >= 0.5) == (kind == 4)
        assert head.spec.branch == {0.0: "layers", 1.0: "spatial"}.get(share, "")
        if not head.spec.branch:
            assert head.state_dict["spatial_share"].item() == share
        assert fused.attention().mean.shape == (8 if head.spec.branch else 8 + 8, n)
        x = torch.from_numpy(cache.split("test").read(head.pairs)).transpose(0, 1)
        np.testing.assert_allclose(
            head.predict(x), fused.predictions().logits, rtol=1e-4, atol=1e-4
        )
    (chance,) = probe(
        planted(kinds=kinds, kind=4, layer=4, shuffled=True, dataset="shuffled"),
        head="fusion",
        spatial="patch",
        gate=gate,
        **ONE_CONFIG,
    )
    assert abs(chance.row["test_balanced_accuracy"] - CHANCE) < 0.2


def test_probe_of_scalar_mix_and_efficient_heads_finds_the_layer(
    planted: Callable[..., Any],
) -> None:
    cache = planted(layer=2, kind=0)
    mixed, efficient = probe(cache, head=["scalar-mix", "efficient"], **ONE_CONFIG)
    assert mixed.row["test_balanced_accuracy"] > 0.6
    assert efficient.row["test_balanced_accuracy"] > 0.6
    assert mixed.row["n_params"] == 8 + 2 + CLASSES * (2 * 8 + 1)
    weights = mixed.attention()
    assert weights.mean.shape == (2, 8)
    best = weights.pairs[int(weights.mean[0].argmax())]
    assert best == (2, "cls")
    assert weights.std.max() < 1e-3


def test_position_embedding_gives_each_spatial_token_an_embedding(
    planted: Callable[..., Any],
) -> None:
    kinds = ("cls", "ap", "patch/0", "patch/1", "patch/2")
    cache = planted(kinds=kinds, kind=4, layer=4)
    options = {"spatial": "patch", "num_heads": 4, **ONE_CONFIG}
    for head, embedded, n_kinds in (("hybrid", 8 + 3, 9), ("fusion", 3, 1)):
        (by_kind,) = probe(cache, head=head, embedding=True, **options)
        (by_position,) = probe(cache, head=head, position_embedding=True, **options)
        name = "embedding" if head == "hybrid" else "spatial.embedding"
        assert len(by_kind.head().state_dict[name]) == n_kinds
        assert len(by_position.head().state_dict[name]) == embedded


def test_probe_of_a_hybrid_head_takes_spatial_tokens_of_another_cache_of_the_same_weights(
    planted: Callable[..., Any],
) -> None:
    one = planted(kind=0, strength=0.0)
    two = planted(kinds=("grid:1/0",), kind=0, layer=4)
    (trained,) = probe(
        one, head="hybrid", num_heads=4, spatial="grid:1", spatial_cache=two, **ONE_CONFIG
    )
    assert trained.row["test_balanced_accuracy"] > 0.7
    assert trained.head().provenance.fingerprints == (one.spec.fingerprint, two.spec.fingerprint)
    with pytest.raises(HeadMismatchError, match="expected a cache of the same weights"):
        probe(
            one,
            head="hybrid",
            spatial="grid:1",
            spatial_cache=planted(kinds=("grid:1/0",), weights="cd" * 32),
            **ONE_CONFIG,
        )
    with pytest.raises(OptionError, match="needs spatial tokens: give spatial"):
        probe(one, head="hybrid", **ONE_CONFIG)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"head": "atentive"}, UnknownNameError, "unknown head 'atentive': did you mean attentive"),
        ({"layers": "lst"}, UnknownNameError, "unknown layer choice 'lst'"),
        ({"tokens": "clz"}, UnknownNameError, "unknown token kind 'clz'"),
        ({"layers": "9"}, OptionError, "numbers from 1 to 4"),
        ({"lr": 0.0}, OptionError, "finite number > 0"),
        ({"memory_budget": "lots"}, OptionError, "a size such as 8GB"),
        ({"device": "tpu9"}, OptionError, "expected auto, cpu, cuda, cuda:N or mps"),
        ({"features": "ram"}, OptionError, "auto, resident or stream"),
        ({"colour": "red"}, TypeError, "unexpected keyword argument 'colour'"),
        ({"configs": [HParams(lr=0.1, weight_decay=0.0)]}, OptionError, "not both"),
        ({"test_split": "tset"}, UnknownNameError, "unknown split 'tset'"),
    ],
)
def test_probe_with_a_wrong_option_names_it(
    planted: Callable[..., Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        probe(planted(), **{"head": "linear", **ONE_CONFIG, **options})


def test_probe_of_baselines_agrees_with_scikit_learn(planted: Callable[..., Any]) -> None:
    cache = planted(rows=200)
    knn, logreg = probe(cache, head=["knn", "logreg"], layers="2", tokens="cls", device="cpu")
    assert knn.row["config"].startswith("k=")
    assert knn.row["n_params"] == 0
    assert logreg.row["config"].startswith("C=")
    assert logreg.row["n_params"] == 8 * 3 + 3
    for trained in (knn, logreg):
        assert trained.row["test_balanced_accuracy"] > 0.8
    split = {name: cache.split(name) for name in ("train", "test")}
    x = {name: s.read(((2, "cls"),))[0].astype(np.float64) for name, s in split.items()}
    x = {name: v / np.linalg.norm(v, axis=1, keepdims=True) for name, v in x.items()}
    c = float(logreg.row["config"].removeprefix("C="))
    alone = LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(
        x["train"], split["train"].labels
    )
    agree = (alone.predict(x["test"]) == logreg.predictions().logits.argmax(1)).mean()
    assert agree > 0.98

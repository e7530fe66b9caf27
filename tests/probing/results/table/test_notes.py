from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from layercache.probing.results.config_score import ConfigScore, config_columns, join_pair
from layercache.probing.results.table.notes import at_edge, describe_selection, selected_config
from tests.probing.results.made import made

KNN = {"head": "knn", "lr": None, "weight_decay": None, "dropout": None}


def scored(name: str, scores: dict[float, float | None], **fixed: float) -> list[ConfigScore]:
    """Return the validation scores of a grid over one hyperparameter."""
    return [
        ConfigScore(
            hparams={**fixed, name: value},
            fold=None,
            val_metrics=None if score is None else {"balanced_accuracy": score},
            diverged=score is None,
        )
        for value, score in scores.items()
    ]


@pytest.mark.parametrize(
    ("name", "scores", "edge"),
    [
        ("lr", {0.1: 0.9, 0.01: 0.8, 0.001: 0.7}, True),
        ("lr", {0.1: 0.7, 0.01: 0.8, 0.001: 0.9}, True),
        ("lr", {0.1: 0.7, 0.01: 0.9, 0.001: 0.7}, False),
        ("lr", {0.1: 0.9, 0.01: 0.9, 0.001: 0.7}, False),  # as good as an inner one
        ("lr", {0.1: None, 0.01: 0.9, 0.001: 0.7}, False),  # the higher one diverges
        ("lr", {0.1: 0.9}, False),  # nothing was searched
        ("weight_decay", {1.0: 0.9, 0.1: 0.8}, True),
        ("weight_decay", {0.0: 0.9, 0.1: 0.8}, False),  # no decay is lower than none
        ("dropout", {0.0: 0.9, 0.3: 0.8}, False),
        ("dropout", {0.0: 0.8, 0.3: 0.9}, True),
    ],
)
def test_at_edge_of_a_selected_value(
    name: str, scores: dict[float, float | None], edge: bool
) -> None:
    rest = {n: v for n, v in {"lr": 0.1, "weight_decay": 1e-4, "dropout": 0.0}.items() if n != name}
    best = max(scores, key=lambda value: scores[value] or 0.0)
    probe = made(configs=scored(name, scores, **rest), **{**rest, name: best})
    assert at_edge(probe) == ([(name, best)] if edge else [])


@pytest.mark.parametrize(
    ("share", "edges"),
    [(0.0, [("lr", 0.1)]), (0.5, [("lr", 0.1), ("spatial_lr", 0.001)]), (1.0, [("lr", 0.001)])],
)
def test_at_edge_of_a_fusion_head_is_that_of_the_branches_it_has(
    share: float, edges: list[tuple[str, float]]
) -> None:
    rest = {"weight_decay": 1e-4, "dropout": 0.0}
    scores = {0.1: (0.9, 0.6), 0.01: (0.8, 0.7), 0.001: (0.7, 0.8)}
    configs = [
        ConfigScore(
            hparams={"lr": lr, **rest},
            fold=None,
            val_metrics={
                "balanced_accuracy": (layers + spatial) / 2,
                "layers_balanced_accuracy": layers,
                "spatial_balanced_accuracy": spatial,
            },
        )
        for lr, (layers, spatial) in scores.items()
    ]
    pair = replace(
        configs[0],
        hparams=join_pair({"lr": 0.1, **rest}, {"lr": 0.001, **rest}),
    )
    columns = config_columns(pair.hparams, share=share)
    probe = made(configs=[*configs, pair], spatial_share=share, **columns)
    assert selected_config(probe) == pair
    expected = [(name.removeprefix("spatial_"), v) for name, v in edges] if share == 1 else edges
    assert at_edge(probe) == expected


@pytest.mark.parametrize(("best", "edge"), [(1, False), (5, False), (50, True)])
def test_at_edge_of_the_neighbors_of_knn(best: int, edge: bool) -> None:
    scores: dict[float, float | None] = {k: 0.9 if k == best else 0.5 for k in (1, 5, 50)}
    probe = made(config=f"k={best}", configs=scored("k", scores), **KNN)
    assert bool(at_edge(probe)) is edge


@pytest.mark.parametrize(("best", "edge"), [(0.02, True), (0.2, False), (None, False)])
def test_at_edge_of_the_temperature_of_knn_whose_limit_are_equal_votes(
    best: float | None, edge: bool
) -> None:
    grid = [{"k": 5.0}, {"k": 5.0, "temperature": 0.02}, {"k": 5.0, "temperature": 0.2}]
    configs = [
        ConfigScore(
            hparams=hparams,
            fold=None,
            val_metrics={"balanced_accuracy": 0.9 if hparams.get("temperature") == best else 0.5},
        )
        for hparams in grid
    ]
    config = "k=5" if best is None else f"k=5, temperature={best:g}"
    assert bool(at_edge(made(config=config, configs=configs, **KNN))) is edge


@pytest.mark.parametrize(("best", "edge"), [(0.01, True), (0.5, False), (1.0, False)])
def test_at_edge_of_the_shrinkage_which_ends_at_one(best: float, edge: bool) -> None:
    scores: dict[float, float | None] = {x: 0.9 if x == best else 0.5 for x in (0.01, 0.5, 1.0)}
    probe = made(config=f"shrinkage={best:g}", configs=scored("shrinkage", scores), **KNN)
    assert bool(at_edge(probe)) is edge


def test_at_edge_without_validation_scores_is_empty() -> None:
    configs = [ConfigScore(hparams={"k": k}, fold=None, val_metrics={}) for k in (1, 5)]
    assert at_edge(made(config="k=5", configs=configs, shots=1, **KNN)) == []


def test_describe_selection_counts_edges_and_failed_convergence() -> None:
    scores: dict[float, float | None] = {0.1: 0.9, 0.01: 0.8}
    fixed = {"weight_decay": 1e-4, "dropout": 0.0}
    edges = [made(str(i), seed=i, configs=scored("lr", scores, **fixed)) for i in range(2)]
    logreg: dict[str, Any] = {**KNN, "head": "logreg", "config": "C=10000"}
    assert describe_selection([*edges, made("8", converged=False, **logreg)]) == [
        "selected at the edge of the grid, a wider one may score higher: lr 0.1 (2 probes)",
        "logistic regression stopped before it converged: C=10000 (1 probe)",
    ]
    assert describe_selection([made("9", converged=True, **logreg), made("10")]) == []

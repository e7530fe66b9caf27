"""Searches of a cache by halving and by coordinates, against what they must select."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from layercache.errors import UnknownNameError
from layercache.probing.api import probe
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.plan import plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.results.config_score import is_pair, split_pair
from layercache.probing.results.table.notes import selected_config
from layercache.probing.results.table.table import Results
from layercache.probing.search.strategies import RUNGS
from layercache.probing.splits.train_subset import sample_subset
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit
from tests.logs import logged

CONFIG = TrainConfig(epochs=18, min_steps=0, min_batches=3)
STOPS = (2, 6)
GRID: dict[str, Any] = {
    "lr": [0.1, 0.01, 0.001],
    "weight_decay": [1e-6, 1e-2, 1.0],
    "dropout": [0.0, 0.3],
    "layers": "last",
    "train_config": CONFIG,
}


HEADS: list[dict[str, Any]] = [
    {},
    {"head": "scalar-mix", "dropout": None},
    {"head": "efficient"},
    {"head": "fusion", "spatial": "grid:2"},
]


@pytest.fixture
def cache(planted: Callable[..., Any]) -> Any:
    kinds = ("cls", "ap", *(f"grid:2/{i}" for i in range(4)))
    return planted(classes=5, rows=300, strength=0.8, layer=4, kinds=kinds)


def validation_curves(cache: Any, **options: Any) -> list[tuple[tuple[float, ...], dict[int, Any]]]:
    """Return each configuration with its validation metrics by epoch, all trained to the end."""
    (spec,) = plan_probes(cache, ProbeRequest(**GRID | options))
    subset = sample_subset(spec, cache.split("train"))
    loader = DatasetLoader(device=torch.device("cpu"), mode="auto", memory_budget=None)
    fold = subset.fold(0)
    heads = fit(
        loader.train(spec.tokens, "train", rows=subset.rows),
        head=spec.head_spec,
        configs=[HParams.from_dict(hparams) for hparams in spec.grid],
        train=torch.from_numpy(fold.train),
        val=torch.from_numpy(fold.val),
        seed=0,
        train_config=CONFIG,
        val_epochs=STOPS,
    )
    return [(tuple(head.hparams.values()), dict(head.val_curve)) for head in heads]


def best(configs: list[Any], epoch: int, *, branch: str = "") -> list[Any]:
    def rank(config: Any) -> tuple[float, ...]:
        metrics = config[1][epoch]
        loss = float(f"{metrics[f'{branch}log_loss']:.2e}")
        return -round(metrics[f"{branch}balanced_accuracy"], 12), loss, -config[0][1]

    return sorted(configs, key=rank)


def branches_of(head: dict[str, Any]) -> tuple[str, ...]:
    """Return the beginnings of the names of the metrics that rank the configurations."""
    return ("layers_", "spatial_") if head.get("head") == "fusion" else ("",)


def check_selected(result: Any, configs: list[Any], head: dict[str, Any]) -> None:
    """Check that each branch has the best of these configurations, other heads the best one."""
    selected = selected_config(result)
    assert selected is not None
    layers, spatial = split_pair(selected.hparams)
    got = [tuple(values.values()) for values in (layers, spatial or layers)]
    branches = branches_of(head)
    assert got[: len(branches)] == [best(configs, 18, branch=b)[0][0] for b in branches]
    if not spatial and len(branches) == 1:
        score = best(configs, 18)[0][1][18]["balanced_accuracy"]
        assert result.row["val_balanced_accuracy"] == pytest.approx(score)


@pytest.mark.parametrize("head", HEADS)
def test_halving_trains_those_on_that_a_full_training_ranks_best_at_every_rung(
    cache: Any, head: dict[str, Any]
) -> None:
    racing = validation_curves(cache, **head)
    stopped: dict[tuple[float, ...], int | None] = {}
    for epoch, rung in zip(STOPS, RUNGS, strict=True):
        stopped |= {hparams: epoch for hparams, _ in racing}
        ranked = zip(*(best(racing, epoch, branch=b) for b in branches_of(head)), strict=True)
        in_turn = {hparams: curve for place in ranked for hparams, curve in place}
        racing = list(in_turn.items())[: max(1, round(rung.kept * len(racing)))]
    stopped |= {hparams: None for hparams, _ in racing}
    n_configs = 9 if "dropout" in head else 18
    for per_pass in (None, 4) if not head else (4,):
        (result,) = probe(
            cache, search="halving", configs_per_pass=per_pass, refresh=True, **GRID | head
        )
        of_grid = [c for c in result.configs if not is_pair(c.hparams)]
        assert {tuple(c.hparams.values()): c.stop_epoch for c in of_grid} == stopped
        assert len(racing) < len(stopped) == n_configs
        check_selected(result, racing, head)
        assert result.row["n_configs"] == n_configs


@pytest.mark.parametrize("head", HEADS)
def test_coordinate_selects_the_best_of_what_it_trained(cache: Any, head: dict[str, Any]) -> None:
    curves = dict(validation_curves(cache, **head))
    (result,) = probe(cache, search="coordinate", **GRID | head)
    of_grid = [c for c in result.configs if not is_pair(c.hparams)]
    trained = [tuple(c.hparams.values()) for c in of_grid]
    at_middle = [(h, curves[h]) for h in curves if h[1] == 1e-2]
    assert len(at_middle) == (3 if "dropout" in head else 6)
    firsts = [best(at_middle, 18, branch=branch)[0][0] for branch in branches_of(head)]
    expected = {
        h
        for h in curves
        if h[1] == 1e-2 or any((h[0], h[2]) == (lr, dropout) for lr, _, dropout in firsts)
    }
    assert set(trained) == expected
    assert len(trained) in (len(at_middle) + 2, len(at_middle) + 2 * len(firsts))
    check_selected(result, [(h, curves[h]) for h in trained], head)


def test_two_searches_are_two_probes_that_the_table_tells_apart(cache: Any) -> None:
    with logged() as lines:
        results = [probe(cache, search=search, **GRID) for search in ("full", "halving", "full")]  # type: ignore[arg-type]
    (full,), (halving,), (again,) = results
    assert full.id == again.id != halving.id
    assert sum("already exists" in line for line in lines) == 1
    both = Results([full, halving], caches=[cache])
    assert both.table["search"].tolist() == ["full", "halving"]
    assert both.table["experiment"].nunique() == 2
    assert any("search" in line.split() for line in both.to_text().splitlines()[:5])
    assert "search halving" in results[1].to_text()
    assert "search" not in results[0].to_text()


def test_searches_by_folds_regression_and_streaming(planted: Callable[..., Any]) -> None:
    cache = planted(classes=3, rows=240, strength=1.5, layer=4)
    (folded,) = probe(cache, search="halving", folds=3, **GRID)
    assert {c.stop_epoch for c in folded.configs} == {2, 6, None}
    assert folded.row["test_balanced_accuracy"] > 0.6
    (streamed,) = probe(cache, search="halving", features="stream", **GRID)
    assert streamed.row["test_balanced_accuracy"] > 0.6
    (one_shot,) = probe(cache, search="halving", shots=1, **GRID)
    assert one_shot.row["lr"] == 0.01


def test_search_is_without_effect_on_heads_without_epochs_and_unknown_ones_are_refused(
    cache: Any,
) -> None:
    with logged() as lines:
        (result,) = probe(cache, head="knn", search="halving", layers="last")
    assert "search" not in result.spec
    assert any("search halving has no effect" in line for line in lines)
    with pytest.raises(UnknownNameError, match="halving"):
        probe(cache, search="hyperband")  # type: ignore[arg-type]

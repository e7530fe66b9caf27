from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from layercache.probing.heads import HeadSpec
from layercache.probing.metrics import Metric, find_metric
from layercache.probing.results.config_score import (
    ConfigScore,
    config_key,
    join_pair,
    split_pair,
    training_key,
)
from layercache.probing.search.best_config import rank_final, summarize
from layercache.probing.search.strategies import (
    RUNGS,
    WEAK_DECAY,
    Stage,
    count_fits,
    current_stage,
)
from layercache.probing.training.config import HParams, TrainConfig, grid, paper_grid
from layercache.probing.training.fit import fit
from layercache.testing import make_separable_tokens

PAPER = tuple(hparams.to_dict() for hparams in paper_grid("attentive"))
DISTINCT = tuple(h for h in PAPER if not (h["lr"] == 1e-3 and h["weight_decay"] == 1e-5))
EPOCHS = 90


@dataclass
class Search:
    search: str
    grid: Sequence[Mapping[str, float]] = PAPER
    head: str = "attentive"
    paper_compat: bool = False
    selection_metric: Metric = field(default_factory=lambda: find_metric("balanced_accuracy"))


Score = Callable[[Mapping[str, float], int], float]
Metrics = Callable[[Mapping[str, float], int], Mapping[str, float]]


def run(search: Search, score: Score, *, epochs: int = EPOCHS, n_folds: int = 1) -> list[Stage]:
    """Return the stages of a search whose scores are given by hyperparameters and epoch."""

    def metrics(h: Mapping[str, float], epoch: int) -> Mapping[str, float]:
        return {"balanced_accuracy": score(h, epoch)}

    return run_scored(search, metrics, epochs=epochs, n_folds=n_folds)[0]


def run_scored(
    search: Search, metrics: Metrics, *, epochs: int = EPOCHS, n_folds: int = 1
) -> tuple[list[Stage], list[ConfigScore]]:
    """Return the stages and scores of a search whose metrics are given."""
    scores: list[ConfigScore] = []
    stages: list[Stage] = []
    while True:
        stage = current_stage(search, scores, n_folds=n_folds, epochs=epochs)
        if stages and stage == stages[-1]:
            return stages, scores
        known = {(s.key, s.stop_epoch) for s in scores}
        stages.append(stage)
        for fold in range(n_folds):
            scores += [
                ConfigScore(
                    hparams=h,
                    fold=fold,
                    val_metrics=metrics(h, stage.stop_epoch or epochs),
                    stop_epoch=stage.stop_epoch,
                )
                for h in stage.configs
                if (config_key(h), stage.stop_epoch) not in known
            ]


def bowl(h: Mapping[str, float], epoch: int) -> float:
    return 1 - abs(h["lr"] - 0.01) - abs(h["dropout"] - 0.1) - abs(h["weight_decay"] - 0.01) / 10


def test_full_search_is_one_stage_and_trains_what_is_the_same_training_once() -> None:
    (stage,) = run(Search("full"), bowl)
    assert stage.stop_epoch is None
    # 1e-6 and 1e-5 at learning rate 1e-3 are the same training, for each of three dropout rates
    assert stage.configs == DISTINCT
    assert len(stage.configs) == 60
    assert run(Search("halving"), bowl)[0].configs == stage.configs
    assert {training_key(h) for h in PAPER} == {training_key(h) for h in stage.configs}


def test_every_configuration_of_the_full_search_has_the_scores_of_its_training() -> None:
    kind = Search("full")
    _, scores = run_scored(kind, lambda h, epoch: {"balanced_accuracy": bowl(h, epoch)})
    configs = summarize(kind, scores)
    assert [c.hparams for c in configs] == list(PAPER)
    value = {
        (c.hparams["lr"], c.hparams["dropout"], c.hparams["weight_decay"]): c.val_metrics
        for c in configs
    }
    for dropout in (0.0, 0.1, 0.3):
        assert value[1e-3, dropout, 1e-6] == value[1e-3, dropout, 1e-5]
        assert value[1e-2, dropout, 1e-6] != value[1e-2, dropout, 1e-5]


def test_halving_keeps_the_best_of_every_rung_and_finds_the_best() -> None:
    stages = run(Search("halving"), bowl)
    assert [stage.stop_epoch for stage in stages] == [10, 30, None]
    sizes = [len(stage.configs) for stage in stages]
    for size, smaller, rung in zip(sizes, sizes[1:], RUNGS, strict=False):
        assert smaller == max(1, round(rung.kept * size))
    best = sorted(stages[0].configs, key=lambda h: -bowl(h, 0))
    assert {config_key(h) for h in stages[-1].configs} == {config_key(h) for h in best[: sizes[-1]]}
    assert [h for h in PAPER if h in stages[1].configs] == list(stages[1].configs), "grid order"


@pytest.mark.parametrize(
    ("search", "fits"),
    [
        ("full", 60),
        ("coordinate", 9 + 3),  # at learning rate 1e-3 the decays up to 1e-3 are weak
        ("halving", 60 * 10 / 90 + 12 * 20 / 90 + 4 * 60 / 90),
    ],
)
def test_count_fits_is_the_work_of_the_stages(search: str, fits: float) -> None:
    stages = run(Search(search), lambda h, epoch: -h["lr"])
    trained: dict[object, float] = {}
    for stage in stages:
        trained |= {config_key(h): (stage.stop_epoch or EPOCHS) / EPOCHS for h in stage.configs}
    assert sum(trained.values()) == pytest.approx(fits)
    assert abs(count_fits(search, PAPER, epochs=EPOCHS) - fits) < 2.1, "pairs may differ"


def test_halving_drops_a_configuration_that_is_only_late_to_shine() -> None:
    late = {"lr": 0.001, "weight_decay": 1.0, "dropout": 0.3}

    def score(h: Mapping[str, float], epoch: int) -> float:
        return 2.0 if h == late and epoch == EPOCHS else bowl(h, epoch)

    assert late not in run(Search("halving"), score)[-1].configs
    assert late in run(Search("full"), score)[-1].configs


@pytest.mark.parametrize(("epochs", "stops"), [(1, [None]), (4, [1, None]), (2, [1, None])])
def test_halving_of_few_epochs_has_fewer_rungs(epochs: int, stops: list[int | None]) -> None:
    assert [s.stop_epoch for s in run(Search("halving"), bowl, epochs=epochs)] == stops


def test_halving_goes_by_the_mean_over_folds() -> None:
    search = Search(
        "halving", grid=tuple({"lr": lr, "weight_decay": 0.0} for lr in (1.0, 2.0, 3.0))
    )
    stage = current_stage(search, [], n_folds=2, epochs=EPOCHS)
    values = {1.0: (0.9, 0.1), 2.0: (0.6, 0.6), 3.0: (0.1, 0.9)}
    scores = [
        ConfigScore(
            hparams=h,
            fold=fold,
            val_metrics={"balanced_accuracy": values[h["lr"]][fold]},
            stop_epoch=stage.stop_epoch,
        )
        for fold in (0, 1)
        for h in stage.configs
    ]
    assert current_stage(search, scores[:-1], n_folds=2, epochs=EPOCHS) == stage, "one is missing"
    after = current_stage(search, scores, n_folds=2, epochs=EPOCHS)
    assert [h["lr"] for h in after.configs] == [2.0]


def test_coordinate_searches_the_decay_of_the_best_pair_only() -> None:
    first, last = run(Search("coordinate"), bowl)
    assert {h["weight_decay"] for h in first.configs} == {1e-3}
    assert len(first.configs) == 9
    assert set(map(config_key, first.configs)) < set(map(config_key, last.configs))
    further = [h for h in last.configs if h not in first.configs]
    assert {(h["lr"], h["dropout"]) for h in further} == {(0.01, 0.1)}
    assert max(last.configs, key=lambda h: bowl(h, 0)) == {
        "lr": 0.01,
        "weight_decay": 0.01,
        "dropout": 0.1,
    }


@pytest.mark.parametrize(
    ("lr", "decays"),
    [
        (0.1, [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]),
        (0.01, [1e-4, 1e-3, 1e-2, 0.1, 1.0]),
        (0.001, [1e-3, 1e-2, 0.1, 1.0]),  # the middle one is tried already
    ],
)
def test_coordinate_tries_one_of_the_weight_decays_without_much_effect(
    lr: float, decays: list[float]
) -> None:
    last = run(Search("coordinate"), lambda h, epoch: float(h["lr"] == lr and not h["dropout"]))[-1]
    tried = [h["weight_decay"] for h in last.configs if (h["lr"], h["dropout"]) == (lr, 0.0)]
    assert sorted(tried) == decays
    steps = torch.arange(1000) / 1000
    weak = max(d for d in (1e-6, 1e-5, 1e-4, 1e-3) if lr * d <= WEAK_DECAY)
    shrinkage = (1 - lr * weak * (1 + torch.cos(torch.pi * steps.double())) / 2).prod()
    assert 1 - shrinkage < 1e-3


def test_coordinate_of_a_grid_without_decays_is_the_full_search() -> None:
    points = tuple({"lr": lr, "weight_decay": 0.1, "dropout": 0.0} for lr in (0.1, 0.2))
    (stage,) = run(Search("coordinate", grid=points), bowl)
    assert stage.configs == points


@pytest.mark.parametrize("search", ["full", "halving", "coordinate"])
def test_search_of_which_all_configurations_diverged_ends(search: str) -> None:
    scores: list[ConfigScore] = []
    for _ in range(5):
        stage = current_stage(Search(search), scores, n_folds=1, epochs=EPOCHS)
        scores += [
            ConfigScore(
                hparams=h, fold=0, val_metrics=None, diverged=True, stop_epoch=stage.stop_epoch
            )
            for h in stage.configs
        ]
    assert len(scores) <= 5 * 63
    assert current_stage(Search(search), scores, n_folds=1, epochs=EPOCHS) == stage


def test_configurations_of_one_training_key_are_trained_to_the_same_bits() -> None:
    dataset = make_separable_tokens(strength=0.3)
    configs = grid(lr=(1e-3,), weight_decay=(1e-6, 1e-5, 1e-3))
    for kind, shape in (
        ("attentive", {"tokens": 4, "width": 16}),
        ("linear", {"tokens": 4, "width": 16}),
    ):
        heads = fit(
            dataset,
            head=HeadSpec(kind=kind, classes=3, **shape),
            configs=configs,
            train=torch.arange(200),
            val=torch.arange(200, 300),
            seed=3,
            train_config=TrainConfig(epochs=6, min_steps=0, batch=50),
        )
        keys = [training_key(config.to_dict()) for config in configs]
        assert keys[0] == keys[1] != keys[2]
        for name, value in heads[0].state_dict.items():
            assert torch.equal(value, heads[1].state_dict[name]), name
        weight = "classifier.weight"
        assert not torch.equal(heads[0].state_dict[weight], heads[2].state_dict[weight])


@pytest.mark.parametrize(
    ("lr", "decay", "same"), [(1e-3, 1e-5, True), (1e-3, 1e-4, False), (1e-1, 1e-6, False)]
)
def test_training_key_ignores_a_decay_that_float32_rounds_away(
    lr: float, decay: float, same: bool
) -> None:
    factor = 1 - torch.tensor(lr) * torch.tensor(decay)
    assert (factor == 1).item() is same
    one, other = ({"lr": lr, "weight_decay": d, "dropout": 0.1} for d in (decay, 0.0))
    assert (training_key(one) == training_key(other)) is same
    assert HParams(**one) != HParams(**other)


def by_branch(h: Mapping[str, float]) -> dict[str, float]:
    """Scores of which each branch is best with other hyperparameters, and the mean as a third."""
    layers = bowl(h, 0)
    spatial = 1 - abs(h["lr"] - 0.1) - abs(h["dropout"] - 0.3) - abs(h["weight_decay"] - 1) / 10
    return {
        "balanced_accuracy": (layers + spatial) / 2,
        "layers_balanced_accuracy": layers,
        "spatial_balanced_accuracy": spatial,
    }


@pytest.mark.parametrize("search", ["full", "halving", "coordinate"])
def test_search_of_a_fusion_head_ends_with_the_pair_of_the_best_of_each_branch(
    search: str,
) -> None:
    kind = Search(search, head="fusion")
    stages, scores = run_scored(kind, lambda h, epoch: by_branch(split_pair(h)[0]))
    layers = {"lr": 0.01, "weight_decay": 0.01, "dropout": 0.1}
    spatial = {"lr": 0.1, "weight_decay": 1.0, "dropout": 0.3}
    assert stages[-1].configs[-1] == join_pair(layers, spatial)
    assert stages[-1].configs[:-1] == stages[-2].configs
    assert rank_final(kind, summarize(kind, scores))[0].hparams == join_pair(layers, spatial)
    if search != "halving":  # its rungs are not counted twice here
        n_fits = len(stages[-1].configs) - 1
        assert count_fits(search, PAPER, epochs=EPOCHS, head="fusion") == pytest.approx(
            n_fits, abs=2.1
        )


def test_search_of_a_fusion_head_whose_branches_agree_has_no_pair() -> None:
    kind = Search("full", head="fusion")
    scores = [
        ConfigScore(
            hparams=h,
            fold=0,
            val_metrics={
                "balanced_accuracy": -h["lr"],  # the whole head prefers another one
                "layers_balanced_accuracy": bowl(h, 0),
                "spatial_balanced_accuracy": 2 * bowl(h, 0),
            },
        )
        for h in PAPER
    ]
    assert current_stage(kind, scores, n_folds=1, epochs=EPOCHS).configs == DISTINCT
    best = max(PAPER, key=lambda h: bowl(h, 0))
    assert rank_final(kind, summarize(kind, scores))[0].hparams == best


def test_fusion_head_whose_pair_diverged_takes_the_best_configuration_of_the_whole_head() -> None:
    kind = Search("full", head="fusion")
    scores = [ConfigScore(hparams=h, fold=0, val_metrics=by_branch(h)) for h in PAPER]
    stage = current_stage(kind, scores, n_folds=1, epochs=EPOCHS)
    scores.append(ConfigScore(hparams=stage.configs[-1], fold=0, val_metrics=None, diverged=True))
    assert current_stage(kind, scores, n_folds=1, epochs=EPOCHS) == stage, "not tried again"
    chosen = rank_final(kind, summarize(kind, scores))[0].val_metrics
    assert chosen is not None
    assert chosen["balanced_accuracy"] == max(by_branch(h)["balanced_accuracy"] for h in PAPER)

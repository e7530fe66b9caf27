from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from layercache.errors import ProbeError
from layercache.probing.heads import HeadSpec
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.search.best_config import default_config, rank_configs, summarize
from layercache.probing.spec import ProbeSpec
from layercache.probing.token_selection import select_tokens
from layercache.probing.training.config import TrainConfig


@pytest.fixture
def spec(planted: Callable[..., Any]) -> Callable[..., ProbeSpec]:
    """spec(grid, head=): a probe of the last layer's class token."""
    tokens = select_tokens(planted(), head="linear", layers="last", tokens="cls")

    def make(grid: tuple[Mapping[str, float], ...], head: str = "linear") -> ProbeSpec:
        return ProbeSpec(
            tokens=tokens,
            head=head,
            head_spec=HeadSpec(kind="linear", tokens=1, width=8, classes=3),
            grid=grid,
            seed=0,
            shots=None,
            train_fraction=None,
            train_config=TrainConfig(),
            precision="fp32",
        )

    return make


def scored(lr: float, value: float | None, *, fold: int | None = None) -> ConfigScore:
    return ConfigScore(
        hparams={"lr": lr},
        fold=fold,
        val_metrics=None if value is None else {"balanced_accuracy": value},
        diverged=value is None,
        epochs=5,
    )


def lrs(*values: float) -> tuple[dict[str, float], ...]:
    return tuple({"lr": value} for value in values)


def test_rank_configs_orders_by_score_and_ties_by_grid(spec: Callable[..., ProbeSpec]) -> None:
    configs = [scored(1.0, 0.5), scored(2.0, 0.7), scored(3.0, 0.7), scored(4.0, None)]
    ranked = rank_configs(spec(lrs(1.0, 2.0, 3.0, 4.0)), configs)
    assert [config.hparams["lr"] for config in ranked] == [2.0, 3.0, 1.0]


def test_another_metric_changes_the_winner_and_losses_are_minimized(
    spec: Callable[..., ProbeSpec],
) -> None:
    values = {  # lr: balanced accuracy, AUROC, log loss
        1.0: (0.9, 0.80, 0.7),
        2.0: (0.8, 0.95, 0.6),
        3.0: (0.7, 0.70, 0.5),
    }
    names = ("balanced_accuracy", "roc_auc", "log_loss")
    configs = [
        ConfigScore(hparams={"lr": lr}, fold=None, val_metrics=dict(zip(names, row, strict=True)))
        for lr, row in values.items()
    ]
    usual = spec(lrs(*values))
    winners = {
        select: rank_configs(replace(usual, select=select), configs)[0].hparams["lr"]
        for select in (None, "roc_auc", "log_loss")
    }
    assert winners == {None: 1.0, "roc_auc": 2.0, "log_loss": 3.0}
    assert usual.id != replace(usual, select="roc_auc").id


def test_a_metric_without_a_value_selects_nothing(spec: Callable[..., ProbeSpec]) -> None:
    configs = [scored(1.0, 0.5), scored(2.0, 0.7)]
    with pytest.raises(ProbeError, match="the AUROC of the validation samples is not defined"):
        rank_configs(replace(spec(lrs(1.0, 2.0)), select="roc_auc"), configs)


def tied(weight_decay: float, loss: float | None, *, lr: float = 0.1) -> ConfigScore:
    return ConfigScore(
        hparams={"lr": lr, "weight_decay": weight_decay},
        fold=0,
        val_metrics={"balanced_accuracy": 56 / 58, "log_loss": loss},  # type: ignore[dict-item]
    )


def test_rank_configs_breaks_ties_by_loss_then_by_the_larger_weight_decay(
    spec: Callable[..., ProbeSpec],
) -> None:
    """As on 58 validation images, where all settings of two learning rates tied."""
    decays = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    losses = (0.3, 0.2104, 0.2101, 0.21004, 0.4, 0.5, 0.6)
    configs = [tied(d, loss) for d, loss in zip(decays, losses, strict=True)]
    configs += [tied(d, 0.7, lr=0.01) for d in decays]
    probe = spec(tuple(config.hparams for config in configs))
    ranked = [config.hparams["weight_decay"] for config in rank_configs(probe, configs)]
    assert ranked[:4] == [1e-3, 1e-4, 1e-5, 1e-6], "losses that agree to three digits tie"
    assert ranked[7:] == sorted(decays, reverse=True)
    first = rank_configs(replace(probe, paper_compat=True), configs)
    assert first == configs


def test_rank_configs_puts_a_tie_without_a_finite_loss_last(
    spec: Callable[..., ProbeSpec],
) -> None:
    configs = [tied(1.0, None), tied(0.5, float("inf")), tied(0.1, 9.0)]
    ranked = rank_configs(spec(tuple(c.hparams for c in configs)), configs)
    assert [config.hparams["weight_decay"] for config in ranked] == [0.1, 1.0, 0.5]


def test_rank_configs_of_baselines_prefers_the_stronger_regularization(
    spec: Callable[..., ProbeSpec],
) -> None:
    for name, values, best in (("k", (1.0, 5.0, 20.0), 20.0), ("C", (0.01, 1.0, 100.0), 0.01)):
        grid = tuple({name: value} for value in values)
        configs = [
            ConfigScore(hparams=h, fold=0, val_metrics={"balanced_accuracy": 1.0, "log_loss": 0.1})
            for h in grid
        ]
        assert rank_configs(spec(grid, "knn"), configs)[0].hparams == {name: best}


def test_rank_configs_without_scores_begins_with_the_default(
    spec: Callable[..., ProbeSpec],
) -> None:
    probe = spec(lrs(1.0, 2.0, 3.0))
    ranked = rank_configs(probe, summarize(probe, []))
    assert [config.hparams["lr"] for config in ranked] == [2.0, 1.0, 3.0]


def test_rank_configs_of_diverged_ones_raises(spec: Callable[..., ProbeSpec]) -> None:
    with pytest.raises(
        ProbeError,
        match=r"all 1 configurations of the linear head diverged .* smaller values of lr",
    ):
        rank_configs(spec(lrs(1.0)), [scored(1.0, None)])


def test_summarize_averages_over_folds_in_grid_order(spec: Callable[..., ProbeSpec]) -> None:
    scores = [
        scored(2.0, 0.5, fold=1),
        scored(2.0, 0.7, fold=0),
        scored(1.0, None, fold=0),
        scored(1.0, 0.9, fold=1),
    ]
    first, second = summarize(spec(lrs(1.0, 2.0)), scores)
    assert (first.hparams["lr"], first.diverged, first.val_metrics) == (1.0, True, None)
    assert second.val_metrics == {"balanced_accuracy": pytest.approx(0.6)}
    assert (second.fold, second.epochs, second.diverged) == (None, 5, False)


def test_default_config_is_the_middle_of_every_hyperparameter(
    spec: Callable[..., ProbeSpec],
) -> None:
    full = tuple({"lr": a, "weight_decay": b} for a in (0.1, 0.01, 0.001) for b in (0.0, 0.1, 1.0))
    assert default_config(spec(full)) == {"lr": 0.01, "weight_decay": 0.1}
    sparse = ({"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.2, "weight_decay": 1.0})
    assert default_config(spec(sparse[:1] + sparse[1:])) == sparse[1]
    assert default_config(spec(({"k": 5}, {"k": 1}, {"k": 9}), head="knn")) == {"k": 1}

"""Training of the fusion head: branches as trained alone, choice of the share, fallback."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, r2_score

from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.fusion import SHARE, SHARES
from layercache.probing.heads.spec import GATES, LAYERS, SPATIAL
from layercache.probing.metrics.registry import find_metric
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit, predict
from layercache.probing.training.validation_metrics import best_share
from layercache.testing import InMemoryTokens

P, Q, D = 4, 6, 16
SHORT = TrainConfig(epochs=4, min_steps=0, batch=50)
LONG = TrainConfig(epochs=12, min_steps=0)
TRAIN, VAL = torch.arange(200), torch.arange(200, 300)
CONFIGS = (
    HParams(lr=1e-2, weight_decay=1e-2, dropout=0.0),
    HParams(lr=3e-3, weight_decay=1.0, dropout=0.3),
    HParams(lr=1e-2, weight_decay=1e-4, dropout=0.1),
)

PAIR = dataclasses.replace(CONFIGS[1], spatial=CONFIGS[2])


def make_tokens(
    *, pooled: float, spatial: float, rows: int = 300, shuffled: bool = False
) -> InMemoryTokens:
    """Tokens whose pooled or spatial part tells the class, as strongly as given."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (rows,), generator=generator)
    centers = torch.randn(3, P + Q, D, generator=generator)
    strength = torch.tensor([pooled] * P + [spatial] * Q)[:, None]
    x = strength * centers[labels] + torch.randn(rows, P + Q, D, generator=generator)
    if shuffled:
        labels = labels[torch.randperm(rows, generator=generator)]
    return InMemoryTokens(x, labels)


def part(dataset: InMemoryTokens, tokens: slice) -> InMemoryTokens:
    """Some of the tokens, to the bit: those of a dataset are normalized already."""
    taken = InMemoryTokens(dataset.x[:, tokens], dataset.labels)
    taken.x = dataset.x[:, tokens]
    return taken


def spec(*, gate: str = "scalar", **more: object) -> HeadSpec:
    shape = {"kind": "fusion", "tokens": P + Q, "width": D, "classes": 3, "spatial_tokens": Q}
    return HeadSpec(**shape, gate=gate, **more)  # type: ignore[arg-type]


def train(
    dataset: InMemoryTokens, head: HeadSpec, config: HParams, train_config: TrainConfig = SHORT
) -> FittedHead:
    return fit(
        dataset,
        head=head,
        configs=[config],
        train=TRAIN,
        val=VAL,
        seed=1,
        train_config=train_config,
    )[0]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("config", [SHORT, dataclasses.replace(SHORT, noise=None, clip=0.05)])
@pytest.mark.parametrize(
    "hparams", [CONFIGS[1], PAIR, dataclasses.replace(CONFIGS[0], spatial=CONFIGS[1])]
)
def test_branches_end_with_the_bits_of_each_head_trained_alone(
    gate: str, config: TrainConfig, hparams: HParams
) -> None:
    """With noise, dropout and clipping, which are drawn and bounded for each branch."""
    dataset = make_tokens(pooled=0.5, spatial=0.5)
    fused = train(dataset, spec(gate=gate), hparams, config)
    layers, spatial = spec(gate=gate).branches
    alone = {
        "layers.": train(part(dataset, slice(P)), layers, hparams.of_branch(LAYERS), config),
        "spatial.": train(
            part(dataset, slice(P, None)), spatial, hparams.of_branch(SPATIAL), config
        ),
    }
    for prefix, head in alone.items():
        for name, value in head.state_dict.items():
            assert torch.equal(fused.state_dict[f"{prefix}{name}"], value), name
    if gate == "scalar":
        losses = np.sum([head.losses for head in alone.values()], axis=0)
        assert fused.losses == pytest.approx(losses, rel=1e-4)
    assert (
        fused.n_params
        == sum(head.n_params for head in alone.values())
        + ({"scalar": 0, "class": 3, "sample": 2 * D + 1}[gate])
    )


def test_a_pair_trains_beside_other_configurations_as_it_does_alone() -> None:
    dataset = make_tokens(pooled=0.5, spatial=0.5)
    configs = [PAIR, *CONFIGS]
    together = fit(
        dataset,
        head=spec(),
        configs=configs,
        train=TRAIN,
        val=VAL,
        seed=1,
        train_config=SHORT,
    )
    alone = train(dataset, spec(), PAIR)
    assert together[0].hparams == alone.hparams == PAIR.to_dict()
    assert HParams.from_dict(alone.hparams) == PAIR
    for name, value in alone.state_dict.items():
        torch.testing.assert_close(together[0].state_dict[name], value, rtol=2e-3, atol=5e-4)


def test_validation_metrics_hold_those_of_each_branch_alone() -> None:
    dataset = make_tokens(pooled=0.3, spatial=0.4)
    head = train(dataset, spec(), PAIR, LONG)
    assert head.val_metrics is not None
    for branch, tokens, shape in zip(
        (LAYERS, SPATIAL), (slice(P), slice(P, None)), spec().branches, strict=True
    ):
        alone = train(part(dataset, tokens), shape, PAIR.of_branch(branch), LONG).val_metrics
        assert alone is not None
        for name in ("balanced_accuracy", "log_loss"):
            assert head.val_metrics[f"{branch}_{name}"] == pytest.approx(alone[name], rel=1e-5)


@pytest.mark.parametrize("gate", GATES)
def test_fit_of_a_group_equals_fit_of_each_configuration_alone(gate: str) -> None:
    dataset = make_tokens(pooled=0.5, spatial=0.5)
    together = fit(
        dataset,
        head=spec(gate=gate),
        configs=CONFIGS,
        train=TRAIN,
        val=VAL,
        seed=1,
        train_config=SHORT,
    )
    for config, fitted in zip(CONFIGS, together, strict=True):
        alone = train(dataset, spec(gate=gate), config)
        assert fitted.losses == pytest.approx(alone.losses, rel=1e-4)
        assert fitted.val_metrics == pytest.approx(alone.val_metrics, abs=0.011)
        for name, value in alone.state_dict.items():
            torch.testing.assert_close(fitted.state_dict[name], value, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("gate", GATES)
def test_validation_metrics_are_those_of_the_chosen_share_and_no_branch_is_better(
    gate: str,
) -> None:
    dataset = make_tokens(pooled=0.35, spatial=0.35)
    head = train(dataset, spec(gate=gate), CONFIGS[0], LONG)
    assert head.val_metrics is not None
    scores = {
        share: balanced_accuracy_score(
            dataset.labels[VAL],
            predict(head.with_spatial_share(share), dataset=dataset, rows=VAL).argmax(1),
        )
        for share in SHARES
    }
    assert head.val_metrics["balanced_accuracy"] == pytest.approx(scores[head.val_metrics[SHARE]])
    assert scores[head.val_metrics[SHARE]] >= max(scores[0.0], scores[1.0])


@pytest.mark.parametrize(("pooled", "spatial"), [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("gate", GATES)
def test_fusion_is_as_good_as_the_only_branch_that_sees_the_class(
    gate: str, pooled: float, spatial: float
) -> None:
    dataset = make_tokens(pooled=pooled, spatial=spatial)
    head = train(dataset, spec(gate=gate), CONFIGS[0], LONG)
    better, tokens = (0, slice(P)) if pooled else (1, slice(P, None))
    alone = train(part(dataset, tokens), spec().branches[better], CONFIGS[0], LONG)
    assert head.val_metrics is not None
    assert alone.val_metrics is not None
    score = alone.val_metrics["balanced_accuracy"]
    assert score > 0.9
    assert head.val_metrics["balanced_accuracy"] >= score - 0.03
    assert (head.val_metrics[SHARE] <= 0.5) == bool(pooled)


def test_fusion_of_shuffled_labels_is_at_chance() -> None:
    dataset = make_tokens(pooled=1.0, spatial=1.0, rows=600, shuffled=True)
    head = fit(
        dataset,
        head=spec(),
        configs=CONFIGS[:1],
        train=torch.arange(200),
        val=torch.arange(200, 600),
        seed=0,
        train_config=LONG,
    )[0]
    assert head.val_metrics is not None
    assert abs(head.val_metrics["balanced_accuracy"] - 1 / 3) < 0.08


def test_fusion_regression_predicts_in_the_unit_of_the_targets() -> None:
    dataset = make_tokens(pooled=0.0, spatial=0.0)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn((P + Q) * D, 2, generator=generator, dtype=torch.float64)
    dataset.labels = 1000 + 50 * dataset.x.flatten(1).double() @ weight
    head = dataclasses.replace(spec(), regression=True, classes=2)
    fitted = train(dataset, head, HParams(lr=1e-2, weight_decay=0.0), LONG)
    assert fitted.val_metrics is not None
    fused = fitted.with_spatial_share(fitted.val_metrics[SHARE])
    predicted = predict(fused, dataset=dataset, rows=VAL)
    assert predicted.mean() == pytest.approx(1000, abs=60)
    assert r2_score(dataset.labels[VAL], predicted) == pytest.approx(
        fitted.val_metrics["r2"], abs=1e-3
    )


def test_diverged_fusion_leaves_the_others_unchanged() -> None:
    dataset = make_tokens(pooled=0.5, spatial=0.5)
    bad = HParams(lr=1e38, weight_decay=1.0)
    first, second = fit(
        dataset,
        head=spec(),
        configs=[CONFIGS[0], bad],
        train=TRAIN,
        val=VAL,
        seed=1,
        train_config=SHORT,
    )
    assert second.diverged
    assert second.val_metrics is None
    assert first.losses == pytest.approx(train(dataset, spec(), CONFIGS[0]).losses, rel=1e-4)


def choose(scores: list[float], losses: list[float], loss: str = "log_loss") -> float:
    """Return the share that is chosen for these scores and losses of SHARES."""
    by_share = [
        {"balanced_accuracy": score, loss: value}
        for score, value in zip(scores, losses, strict=True)
    ]
    return best_share(by_share, metric=find_metric("balanced_accuracy"))[SHARE]


@pytest.mark.parametrize("loss", ["log_loss", "rmse"])
def test_best_share_has_the_lowest_loss_of_those_that_score_no_less_than_a_branch(
    loss: str,
) -> None:
    assert choose([0.5, 0.6, 0.9, 0.85, 0.8], [1.0, 0.1, 0.7, 0.6, 0.9], loss) == 0.75
    assert choose([0.9, 0.8, 0.8, 0.8, 0.8], [9.0] + [0.1] * 4, loss) == 0.0
    assert choose([0.9, 0.9, 0.9, 0.9, 0.9], [0.5, 0.4, 0.6, 0.7, 0.8], loss) == 0.25


def test_best_share_of_equal_losses_has_the_higher_score_then_the_most_even_mix() -> None:
    assert choose([0.5, 0.6, 0.9, 0.7, 0.6], [1.0] * 5) == 0.5
    assert choose([0.5, 0.6, 0.6, 0.7, 0.6], [1.0004] * 3 + [1.0] * 2) == 0.75
    assert choose([0.9] * 5, [1.0] * 5) == 0.5


def test_share_whose_score_is_not_defined_is_chosen_only_if_none_is() -> None:
    nan = float("nan")
    assert choose([nan] * 4 + [0.1], [0.1] * 4 + [1.0]) == 1.0
    assert choose([nan, nan, 0.1, 0.2, nan], [0.1, 0.1, 1.0, 1.0, 0.1]) == 0.75
    assert choose([nan] * 5, [1.0] * 5) == 0.5

"""Fits of several configurations: as each alone, repeatable, and what they report."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from layercache.errors import HeadMismatchError, OptionError, ProbeError
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.training.config import HParams, Noise, TrainConfig
from layercache.probing.training.fit import fit, predict
from layercache.testing import InMemoryTokens, make_separable_tokens
from tests.logs import logged
from tests.probing.training.small_fits import (
    CONFIGS,
    SHORT,
    TRAIN,
    VAL,
    assert_same_head,
    configs_for,
    spec,
)


@pytest.mark.parametrize(
    "kind", ["linear", "scalar-mix", "attentive", "attentive-tokens", "efficient"]
)
def test_fit_of_a_group_equals_fit_of_each_configuration_alone(kind: str) -> None:
    dataset = make_separable_tokens()
    head, configs = spec(kind, dataset), configs_for(kind)
    together = fit(
        dataset, head=head, configs=configs, train=TRAIN, val=VAL, seed=1, train_config=SHORT
    )
    cut = fit(
        dataset,
        head=head,
        configs=configs,
        train=TRAIN,
        val=VAL,
        seed=1,
        train_config=SHORT,
        configs_per_pass=2,
    )
    for g, config in enumerate(configs):
        alone = fit(
            dataset, head=head, configs=[config], train=TRAIN, val=VAL, seed=1, train_config=SHORT
        )[0]
        for other in (together[g], cut[g]):
            assert other.hparams == config.to_dict()
            assert other.losses == pytest.approx(alone.losses, rel=1e-4)
            assert other.val_metrics == pytest.approx(
                alone.val_metrics, abs=0.011
            )  # one sample may sit on the boundary
            assert_same_head(other.state_dict, alone.state_dict)
            logits = [predict(one, dataset=dataset, rows=VAL) for one in (other, alone)]
            torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    assert not np.allclose(together[0].losses, together[1].losses, rtol=1e-3)


def test_fit_with_the_same_seed_repeats_and_with_another_differs() -> None:
    dataset = make_separable_tokens()
    run = [
        fit(
            dataset,
            head=spec("attentive", dataset),
            configs=CONFIGS[1:2],
            train=TRAIN,
            val=VAL,
            seed=s,
            train_config=SHORT,
        )[0]
        for s in (0, 0, 1)
    ]
    assert run[0].losses == run[1].losses
    assert run[0].losses != run[2].losses


def test_fit_with_another_dropout_rate_gives_other_losses() -> None:
    """Negative control of the group test: the draws are the same, the rates differ."""
    dataset = make_separable_tokens()
    low, high = (HParams(lr=1e-2, weight_decay=0.0, dropout=p) for p in (0.1, 0.3))
    fits = fit(
        dataset,
        head=spec("attentive", dataset),
        configs=[low, high],
        train=TRAIN,
        val=None,
        seed=0,
        train_config=SHORT,
    )
    assert fits[0].losses != fits[1].losses


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_fit_on_separable_classes_learns_and_on_shuffled_labels_gives_chance(kind: str) -> None:
    dataset = make_separable_tokens(rows=400)
    train, val = torch.arange(250), torch.arange(250, 400)
    train_config = TrainConfig(epochs=30, min_steps=0)
    learnt = fit(
        dataset,
        head=spec(kind, dataset),
        configs=configs_for(kind)[:1],
        train=train,
        val=val,
        seed=0,
        train_config=train_config,
    )[0]
    assert learnt.val_metrics is not None
    assert learnt.val_metrics["balanced_accuracy"] > 0.9
    shuffled = InMemoryTokens(
        dataset.x, dataset.labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    )
    chance = fit(
        shuffled,
        head=spec(kind, dataset),
        configs=configs_for(kind)[:1],
        train=train,
        val=val,
        seed=0,
        train_config=train_config,
    )[0]
    assert chance.val_metrics is not None
    assert abs(chance.val_metrics["balanced_accuracy"] - 1 / 3) < 0.13


@pytest.mark.parametrize("kind", ["linear", "scalar-mix", "attentive", "efficient"])
def test_fit_with_a_diverging_configuration_reports_it_and_leaves_the_others_unchanged(
    kind: str,
) -> None:
    dataset = make_separable_tokens()
    head = spec(kind, dataset)
    bad, good = HParams(lr=1e38, weight_decay=1.0), HParams(lr=1e-2, weight_decay=1e-2)
    first, second, third = fit(
        dataset,
        head=head,
        configs=[good, bad, good],
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=SHORT,
    )
    assert second.diverged
    assert second.diverged_at is not None
    assert 0 <= second.diverged_at < 20
    assert (second.state_dict, second.val_metrics) == ({}, None)
    assert not first.diverged
    assert first.losses == pytest.approx(third.losses, rel=1e-4)
    alone = fit(
        dataset, head=head, configs=[good], train=TRAIN, val=VAL, seed=0, train_config=SHORT
    )[0]
    assert first.losses == pytest.approx(alone.losses, rel=1e-4)
    assert first.val_metrics == pytest.approx(alone.val_metrics, abs=0.011)


def test_fit_with_patience_stops_each_configuration_and_keeps_its_best_epoch() -> None:
    dataset = make_separable_tokens(strength=0.3)
    train_config = TrainConfig(epochs=25, min_steps=0, patience=3)
    head = spec("attentive", dataset)
    configs = [HParams(lr=lr, weight_decay=0.0) for lr in (3e-2, 1e-5)]
    fits = fit(
        dataset, head=head, configs=configs, train=TRAIN, val=VAL, seed=0, train_config=train_config
    )
    for one in fits:
        assert len(one.losses) == min(25, one.epochs + 3)
        assert one.steps == one.epochs * train_config.schedule(200).steps_per_epoch
        logits = predict(one, dataset=dataset, rows=VAL)
        assert one.val_metrics is not None
        assert one.val_metrics["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(dataset.labels[VAL], logits.argmax(1))
        )
    assert fits[0].epochs != fits[1].epochs
    whole = fit(
        dataset,
        head=head,
        configs=configs,
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=dataclasses.replace(train_config, patience=None),
    )
    assert whole[0].losses[: len(fits[0].losses)] == pytest.approx(fits[0].losses, rel=1e-4)
    assert all(
        stopped.val_metrics["balanced_accuracy"] >= w.val_metrics["balanced_accuracy"] - 0.1
        for stopped, w in zip(fits, whole, strict=True)
    )  # type: ignore[index]


def test_fit_in_bf16_stays_close_to_fp32() -> None:
    dataset = make_separable_tokens()
    full, half = (
        fit(
            dataset,
            head=spec("attentive", dataset),
            configs=CONFIGS[:1],
            train=TRAIN,
            val=VAL,
            seed=0,
            train_config=SHORT,
            precision=p,
        )[0]
        for p in ("fp32", "bf16")
    )
    assert half.losses == pytest.approx(full.losses, rel=0.05)
    assert half.losses != full.losses
    assert {value.dtype for name, value in half.state_dict.items() if "tracked" not in name} == {
        torch.float32
    }


def test_fit_in_two_passes_keeps_configurations_of_one_dropout_rate_together() -> None:
    dataset = make_separable_tokens()
    configs = [
        HParams(lr=lr, weight_decay=0.0, dropout=rate) for lr in (1e-2, 1e-3) for rate in (0.3, 0.0)
    ]
    passes = []
    heads = fit(
        dataset,
        head=spec("attentive", dataset),
        configs=configs,
        train=TRAIN,
        val=None,
        seed=0,
        train_config=SHORT,
        configs_per_pass=2,
        on_fitted=lambda fitted: passes.append([head.hparams["dropout"] for head in fitted]),
    )
    assert passes == [[0.0, 0.0], [0.3, 0.3]]
    assert [head.hparams for head in heads] == [config.to_dict() for config in configs]


def test_fit_in_two_passes_reports_progress_and_logs_the_group_size() -> None:
    dataset, seen = make_separable_tokens(), []
    with logged() as said:
        fit(
            dataset,
            head=spec("linear", dataset),
            configs=configs_for("linear"),
            train=TRAIN,
            val=None,
            seed=0,
            train_config=SHORT,
            configs_per_pass=2,
            on_progress=lambda done, total: seen.append((done, total)),
        )
    assert seen == [(i, 40) for i in range(1, 41)]
    assert said == ["3 configurations train in 2 groups of at most 2 (as requested)"]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"train": torch.arange(1)}, ProbeError, "at least two classes"),
        ({"configs": []}, OptionError, "expected at least one configuration"),
        ({"precision": "fp8"}, OptionError, "precision: expected fp32 or bf16, got 'fp8'"),
        ({"configs_per_pass": 0}, OptionError, "configs_per_pass: expected at least 1, got 0"),
        ({"configs": CONFIGS}, OptionError, "no attention to drop"),
        (
            {"head": HeadSpec(kind="linear", tokens=5, width=16, classes=3)},
            HeadMismatchError,
            "expects 5 tokens of width 16, got 4 x 16",
        ),
        (
            {"head": HeadSpec(kind="linear", tokens=4, width=16, classes=2)},
            ProbeError,
            "expected labels between 0 and 1, got 0 to 2",
        ),
        (
            {"head": HeadSpec(kind="linear", tokens=4, width=16, classes=3, multi_label=True)},
            ProbeError,
            r"expects 0/1 labels \(N, 3\)",
        ),
    ],
)
def test_fit_with_invalid_input_is_refused(
    change: dict[str, object], error: type[Exception], text: str
) -> None:
    dataset = make_separable_tokens()
    defaults: dict[str, object] = {
        "head": spec("linear", dataset),
        "configs": configs_for("linear"),
        "train": TRAIN,
        "val": None,
    }
    with pytest.raises(error, match=text):
        fit(dataset, seed=0, train_config=SHORT, **(defaults | change))  # type: ignore[arg-type]


def test_fit_with_a_class_missing_in_training_or_validation_is_finite() -> None:
    dataset = make_separable_tokens()
    train, val = TRAIN[dataset.labels[TRAIN] != 1], VAL[dataset.labels[VAL] != 2]
    trained: FittedHead = fit(
        dataset,
        head=spec("linear", dataset),
        configs=configs_for("linear")[:1],
        train=train,
        val=val,
        seed=0,
        train_config=SHORT,
    )[0]
    assert trained.val_metrics is not None
    assert math.isfinite(trained.val_metrics["balanced_accuracy"])
    assert all(math.isfinite(v) for v in trained.losses)


def test_fit_with_noise_has_a_higher_loss() -> None:
    dataset = make_separable_tokens()
    quiet, loud = (
        fit(
            dataset,
            head=spec("linear", dataset),
            configs=configs_for("linear")[:1],
            train=TRAIN,
            val=None,
            seed=0,
            train_config=p,
        )[0]
        for p in (
            dataclasses.replace(SHORT, noise=None),
            dataclasses.replace(SHORT, noise=Noise(std=3.0, probability=1.0)),
        )
    )
    assert quiet.losses[-1] < loud.losses[-1]

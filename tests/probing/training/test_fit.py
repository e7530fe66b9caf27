from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from layercache.errors import HeadMismatchError, OptionError, ProbeError
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.spec import WITHOUT_DROPOUT
from layercache.probing.training.class_weights import balanced_class_weights
from layercache.probing.training.config import HParams, Noise, TrainConfig
from layercache.probing.training.fit import fit, predict
from layercache.testing import InMemoryTokens, make_separable_tokens
from tests.logs import logged
from tests.probing.textbook import (
    TextbookAttentive,
    TextbookEfficient,
    TextbookLinear,
    TextbookScalarMix,
)

SHORT = TrainConfig(epochs=4, min_steps=0, batch=50)
TRAIN, VAL = torch.arange(200), torch.arange(200, 300)
CONFIGS = (
    HParams(lr=1e-2, weight_decay=1e-2, dropout=0.0),
    HParams(lr=3e-3, weight_decay=1.0, dropout=0.3),
    HParams(lr=1e-3, weight_decay=0.0, dropout=0.1),
)


def spec(kind: str, dataset: InMemoryTokens, **more: object) -> HeadSpec:
    return HeadSpec(kind=kind, tokens=dataset.tokens, width=dataset.width, classes=3, **more)  # type: ignore[arg-type]


def configs_for(kind: str) -> tuple[HParams, ...]:
    if kind in WITHOUT_DROPOUT:
        return tuple(dataclasses.replace(s, dropout=0.0) for s in CONFIGS)
    return CONFIGS


def plain(head: HeadSpec, state: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
    shape = {"tokens": head.tokens, "width": head.width, "classes": head.classes}
    module: torch.nn.Module
    if head.kind == "linear":
        module = TextbookLinear(**shape)
    elif head.kind == "scalar-mix":
        module = TextbookScalarMix(**shape, mix_ids=head.mix_ids)
    elif head.kind == "efficient":
        module = TextbookEfficient(**shape, num_queries=head.num_heads)
    else:
        module = TextbookAttentive(**shape, num_heads=head.num_heads)
    if state is not None:
        module.load_state_dict(state)
    return module


@pytest.mark.parametrize("kind", ["linear", "scalar-mix", "attentive", "efficient"])
def test_fit_equals_a_plain_loop_with_the_textbook_module_and_torch_optimizer(kind: str) -> None:
    """Compare with torch's AdamW, clip_grad_norm_, CrossEntropyLoss and CosineAnnealingLR.

    Without dropout, whose random draws differ.
    """
    dataset = make_separable_tokens()
    head, config = spec(kind, dataset), HParams(lr=1e-2, weight_decay=0.1)
    train_config = dataclasses.replace(SHORT, clip=0.05)  # small enough to bite
    untrained = fit(
        dataset,
        head=head,
        configs=[HParams(lr=1e-30, weight_decay=0.0)],
        train=TRAIN,
        val=None,
        seed=7,
        train_config=NO_STEPS,
    )[0]
    module = plain(head, dict(untrained.state_dict))
    if isinstance(module, TextbookAttentive | TextbookEfficient):
        module.batch_norm.reset_running_stats()
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    plan = train_config.schedule(200)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=plan.steps, eta_min=1e-6)
    criterion = torch.nn.CrossEntropyLoss(weight=balanced_class_weights(dataset.labels[TRAIN], 3))
    losses = []
    for epoch in range(plan.epochs):
        of_epoch = []
        for x, y in dataset.iter_batches(
            TRAIN,
            batch_size=plan.batch_size,
            seed=7,
            epoch=epoch,
            noise=train_config.noise,
            train=True,
        ):
            loss = criterion(module(x), y)
            optimizer.zero_grad()
            loss.backward()
            assert torch.nn.utils.clip_grad_norm_(module.parameters(), 0.05) > 0.05
            optimizer.step()
            schedule.step()
            of_epoch.append(loss.item())
        losses.append(np.mean(of_epoch))

    trained = fit(
        dataset,
        head=head,
        configs=[config],
        train=TRAIN,
        val=None,
        seed=7,
        train_config=train_config,
    )[0]

    assert trained.losses == pytest.approx(losses, rel=1e-4)
    assert_same_head(trained.state_dict, module.state_dict(), but=UNSEEN)


UNSEEN = {"norm_key.bias", "norm_value.bias", "output.bias", "batch_norm.running_mean"}
"""Parameters that softmax or BatchNorm subtracts again.

In the plain module they have a gradient of pure rounding, which Adam enlarges to full steps.
"""


def assert_same_head(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], *, but: set[str] | None = None
) -> None:
    assert set(a) == set(b)
    for name in set(a) - (but or set()):
        torch.testing.assert_close(
            a[name], b[name], rtol=2e-3, atol=5e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


NO_STEPS = TrainConfig(epochs=1, min_steps=0, batch=200, min_batches=1, lr_end=1e-30, noise=None)


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
            assert other.hparams == vars(config)
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
def test_predict_equals_the_textbook_module_and_gives_the_reported_metrics(kind: str) -> None:
    dataset = make_separable_tokens()
    trained = fit(
        dataset,
        head=spec(kind, dataset),
        configs=configs_for(kind)[:1],
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=SHORT,
    )[0]
    logits = predict(trained, dataset=dataset, rows=VAL, batch_size=33)
    with torch.inference_mode():
        expected = plain(trained.spec, dict(trained.state_dict)).eval()(dataset.x[VAL])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert trained.val_metrics is not None
    assert trained.val_metrics["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(dataset.labels[VAL], logits.argmax(1))
    )
    assert trained.val_metrics["top1_accuracy"] == pytest.approx(
        (logits.argmax(1) == dataset.labels[VAL]).float().mean().item()
    )


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


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_fit_multi_label_equals_torch_loss_and_sklearn_precision(kind: str) -> None:
    single = make_separable_tokens()
    targets = torch.nn.functional.one_hot(single.labels, 3).to(torch.uint8)
    targets[::5, 2] = 1
    dataset = InMemoryTokens(single.x, targets)
    head = spec(kind, dataset, multi_label=True)
    train_config = dataclasses.replace(SHORT, epochs=1)
    untrained = fit(
        dataset,
        head=head,
        configs=[HParams(lr=1e-30, weight_decay=0.0)],
        train=TRAIN,
        val=None,
        seed=0,
        train_config=NO_STEPS,
    )[0]
    frozen = fit(
        dataset,
        head=head,
        configs=[HParams(lr=1e-12, weight_decay=0.0)],
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=train_config,
    )[0]
    module = plain(head, dict(untrained.state_dict))
    expected = [
        torch.nn.BCEWithLogitsLoss()(module(x), y.float()).item()
        for x, y in dataset.iter_batches(
            TRAIN,
            batch_size=train_config.schedule(200).batch_size,
            seed=0,
            epoch=0,
            noise=train_config.noise,
            train=True,
        )
    ]
    assert frozen.losses[0] == pytest.approx(np.mean(expected), rel=1e-4)
    trained = fit(
        dataset,
        head=head,
        configs=configs_for(kind)[:1],
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=SHORT,
    )[0]
    assert trained.val_metrics is not None
    assert trained.val_metrics["mean_average_precision"] == pytest.approx(
        average_precision_score(targets[VAL], predict(trained, dataset=dataset, rows=VAL))
    )
    assert (
        trained.val_metrics["mean_average_precision"] > frozen.val_metrics["mean_average_precision"]
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
    assert [head.hparams for head in heads] == [vars(config) for config in configs]


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

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
from layercache.probing.training.batched_adamw import AdamW
from layercache.probing.training.config import HParams, Noise, TrainConfig
from layercache.probing.training.config_batch import balanced_class_weights
from layercache.probing.training.fit import fit, predict
from layercache.probing.training.schedule import cosine_lr
from tests.logs import logged
from tests.probing.memory_batches import MemoryBatches, separable
from tests.probing.textbook import TextbookAttentive, TextbookLinear

SHORT = TrainConfig(epochs=4, min_steps=0, batch=50)
TRAIN, VAL = torch.arange(200), torch.arange(200, 300)
SETTINGS = (
    HParams(lr=1e-2, weight_decay=1e-2, dropout=0.0),
    HParams(lr=3e-3, weight_decay=1.0, dropout=0.3),
    HParams(lr=1e-3, weight_decay=0.0, dropout=0.1),
)


def spec(kind: str, features: MemoryBatches, **more: object) -> HeadSpec:
    return HeadSpec(kind=kind, tokens=features.tokens, width=features.width, classes=3, **more)  # type: ignore[arg-type]


def settings_for(kind: str) -> tuple[HParams, ...]:
    return (
        tuple(dataclasses.replace(s, dropout=0.0) for s in SETTINGS)
        if kind == "linear"
        else SETTINGS
    )


def plain(head: HeadSpec, state: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
    shape = {"tokens": head.tokens, "width": head.width, "classes": head.classes}
    module = (
        TextbookLinear(**shape)
        if head.kind == "linear"
        else TextbookAttentive(**shape, heads=head.num_heads)
    )
    if state is not None:
        module.load_state_dict(state)
    return module


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_training_is_the_plain_loop_with_torchs_own_optimiser(kind: str) -> None:
    """The textbook module, torch's AdamW, clip_grad_norm_, CrossEntropyLoss and CosineAnnealingLR, without dropout (whose draw is ours)."""
    features = separable()
    head, setting = spec(kind, features), HParams(lr=1e-2, weight_decay=0.1)
    protocol = dataclasses.replace(SHORT, clip=0.05)  # small enough to bite
    untrained = fit(
        features,
        head=head,
        configs=[HParams(lr=1e-30, weight_decay=0.0)],
        train=TRAIN,
        val=None,
        seed=7,
        train_config=NO_STEPS,
    )[0]
    module = plain(head, dict(untrained.state_dict))
    if isinstance(module, TextbookAttentive):
        module.batch_norm.reset_running_stats()
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=setting.lr, weight_decay=setting.weight_decay
    )
    plan = protocol.schedule(200)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=plan.steps, eta_min=1e-6)
    criterion = torch.nn.CrossEntropyLoss(weight=balanced_class_weights(features.labels[TRAIN], 3))
    losses = []
    for epoch in range(plan.epochs):
        of_epoch = []
        for x, y in features.iter_batches(
            TRAIN, batch_size=plan.batch_size, seed=7, epoch=epoch, noise=protocol.noise, train=True
        ):
            loss = criterion(module(x), y)
            optimiser.zero_grad()
            loss.backward()
            assert torch.nn.utils.clip_grad_norm_(module.parameters(), 0.05) > 0.05
            optimiser.step()
            schedule.step()
            of_epoch.append(loss.item())
        losses.append(np.mean(of_epoch))

    trained = fit(
        features, head=head, configs=[setting], train=TRAIN, val=None, seed=7, train_config=protocol
    )[0]

    assert trained.losses == pytest.approx(losses, rel=1e-4)
    assert_same_head(trained.state_dict, module.state_dict(), but=UNSEEN)


UNSEEN = {"norm_key.bias", "norm_value.bias", "output.bias", "batch_norm.running_mean"}
"""What softmax or BatchNorm subtracts again: in the plain module a gradient of pure rounding, which Adam enlarges to full steps."""


def assert_same_head(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], *, but: set[str] | None = None
) -> None:
    assert set(a) == set(b)
    for name in set(a) - (but or set()):
        torch.testing.assert_close(
            a[name], b[name], rtol=2e-3, atol=5e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


NO_STEPS = TrainConfig(epochs=1, min_steps=0, batch=200, min_batches=1, lr_end=1e-30, noise=None)


@pytest.mark.parametrize("kind", ["linear", "attentive", "attentive-tokens"])
def test_a_configuration_in_a_group_is_the_configuration_alone(kind: str) -> None:
    features = separable()
    head, settings = spec(kind, features), settings_for(kind)
    together = fit(
        features, head=head, configs=settings, train=TRAIN, val=VAL, seed=1, train_config=SHORT
    )
    cut = fit(
        features,
        head=head,
        configs=settings,
        train=TRAIN,
        val=VAL,
        seed=1,
        train_config=SHORT,
        configs_per_pass=2,
    )
    for g, setting in enumerate(settings):
        alone = fit(
            features, head=head, configs=[setting], train=TRAIN, val=VAL, seed=1, train_config=SHORT
        )[0]
        for other in (together[g], cut[g]):
            assert other.hparams == vars(setting)
            assert other.losses == pytest.approx(alone.losses, rel=1e-4)
            assert other.val_metrics == pytest.approx(
                alone.val_metrics, abs=0.011
            )  # one sample may sit on the boundary
            assert_same_head(other.state_dict, alone.state_dict)
            logits = [predict(one, dataset=features, rows=VAL) for one in (other, alone)]
            torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    assert not np.allclose(together[0].losses, together[1].losses, rtol=1e-3)


def test_seeds_differ_and_repeat() -> None:
    features = separable()
    run = [
        fit(
            features,
            head=spec("attentive", features),
            configs=SETTINGS[1:2],
            train=TRAIN,
            val=VAL,
            seed=s,
            train_config=SHORT,
        )[0]
        for s in (0, 0, 1)
    ]
    assert run[0].losses == run[1].losses
    assert run[0].losses != run[2].losses


def test_dropout_of_a_rate_drops_that_share_of_the_weights() -> None:
    """Negative control of the group test: another rate gives another trajectory from the same draws."""
    features = separable()
    low, high = (HParams(lr=1e-2, weight_decay=0.0, dropout=p) for p in (0.1, 0.3))
    fits = fit(
        features,
        head=spec("attentive", features),
        configs=[low, high],
        train=TRAIN,
        val=None,
        seed=0,
        train_config=SHORT,
    )
    assert fits[0].losses != fits[1].losses


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_it_learns_what_is_there_and_nothing_from_shuffled_labels(kind: str) -> None:
    features = separable(rows=400)
    train, val = torch.arange(250), torch.arange(250, 400)
    protocol = TrainConfig(epochs=30, min_steps=0)
    learnt = fit(
        features,
        head=spec(kind, features),
        configs=settings_for(kind)[:1],
        train=train,
        val=val,
        seed=0,
        train_config=protocol,
    )[0]
    assert learnt.val_metrics is not None
    assert learnt.val_metrics["balanced_accuracy"] > 0.9
    shuffled = MemoryBatches(
        features.x, features.labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    )
    chance = fit(
        shuffled,
        head=spec(kind, features),
        configs=settings_for(kind)[:1],
        train=train,
        val=val,
        seed=0,
        train_config=protocol,
    )[0]
    assert chance.val_metrics is not None
    assert abs(chance.val_metrics["balanced_accuracy"] - 1 / 3) < 0.13


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_predictions_are_the_plain_modules_and_give_the_reported_metrics(kind: str) -> None:
    features = separable()
    trained = fit(
        features,
        head=spec(kind, features),
        configs=settings_for(kind)[:1],
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=SHORT,
    )[0]
    logits = predict(trained, dataset=features, rows=VAL, batch_size=33)
    with torch.inference_mode():
        expected = plain(trained.spec, dict(trained.state_dict)).eval()(features.x[VAL])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert trained.val_metrics is not None
    assert trained.val_metrics["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(features.labels[VAL], logits.argmax(1))
    )
    assert trained.val_metrics["top1_accuracy"] == pytest.approx(
        (logits.argmax(1) == features.labels[VAL]).float().mean().item()
    )


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_a_diverging_configuration_is_reported_and_harms_no_other(kind: str) -> None:
    features = separable()
    head = spec(kind, features)
    bad, good = HParams(lr=1e38, weight_decay=1.0), HParams(lr=1e-2, weight_decay=1e-2)
    first, second, third = fit(
        features,
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
        features, head=head, configs=[good], train=TRAIN, val=VAL, seed=0, train_config=SHORT
    )[0]
    assert first.losses == pytest.approx(alone.losses, rel=1e-4)
    assert first.val_metrics == pytest.approx(alone.val_metrics, abs=0.011)


def test_patience_stops_each_configuration_on_its_own_and_keeps_its_best_epoch() -> None:
    features = separable(strength=0.3)
    protocol = TrainConfig(epochs=25, min_steps=0, patience=3)
    head = spec("attentive", features)
    settings = [HParams(lr=lr, weight_decay=0.0) for lr in (3e-2, 1e-5)]
    fits = fit(
        features, head=head, configs=settings, train=TRAIN, val=VAL, seed=0, train_config=protocol
    )
    for one in fits:
        assert len(one.losses) == min(25, one.epochs + 3)
        assert one.steps == one.epochs * protocol.schedule(200).steps_per_epoch
        logits = predict(one, dataset=features, rows=VAL)
        assert one.val_metrics is not None
        assert one.val_metrics["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(features.labels[VAL], logits.argmax(1))
        )
    assert fits[0].epochs != fits[1].epochs
    whole = fit(
        features,
        head=head,
        configs=settings,
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=dataclasses.replace(protocol, patience=None),
    )
    assert whole[0].losses[: len(fits[0].losses)] == pytest.approx(fits[0].losses, rel=1e-4)
    assert all(
        stopped.val_metrics["balanced_accuracy"] >= w.val_metrics["balanced_accuracy"] - 0.1
        for stopped, w in zip(fits, whole, strict=True)
    )  # type: ignore[index]


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_multi_label_is_the_plain_binary_cross_entropy_and_sklearns_precision(kind: str) -> None:
    single = separable()
    targets = torch.nn.functional.one_hot(single.labels, 3).to(torch.uint8)
    targets[::5, 2] = 1
    features = MemoryBatches(single.x, targets)
    head = spec(kind, features, multi_label=True)
    protocol = dataclasses.replace(SHORT, epochs=1)
    untrained = fit(
        features,
        head=head,
        configs=[HParams(lr=1e-30, weight_decay=0.0)],
        train=TRAIN,
        val=None,
        seed=0,
        train_config=NO_STEPS,
    )[0]
    frozen = fit(
        features,
        head=head,
        configs=[HParams(lr=1e-12, weight_decay=0.0)],
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=protocol,
    )[0]
    module = plain(head, dict(untrained.state_dict))
    expected = [
        torch.nn.BCEWithLogitsLoss()(module(x), y.float()).item()
        for x, y in features.iter_batches(
            TRAIN,
            batch_size=protocol.schedule(200).batch_size,
            seed=0,
            epoch=0,
            noise=protocol.noise,
            train=True,
        )
    ]
    assert frozen.losses[0] == pytest.approx(np.mean(expected), rel=1e-4)
    trained = fit(
        features,
        head=head,
        configs=settings_for(kind)[:1],
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=SHORT,
    )[0]
    assert trained.val_metrics is not None
    assert trained.val_metrics["mean_average_precision"] == pytest.approx(
        average_precision_score(targets[VAL], predict(trained, dataset=features, rows=VAL))
    )
    assert (
        trained.val_metrics["mean_average_precision"] > frozen.val_metrics["mean_average_precision"]
    )  # type: ignore[index]


def test_half_precision_stays_near() -> None:
    features = separable()
    full, half = (
        fit(
            features,
            head=spec("attentive", features),
            configs=SETTINGS[:1],
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


@pytest.mark.parametrize("fused_from", [1, 10**9])
def test_adamw_is_torchs_one_configuration_at_a_time(fused_from: int) -> None:
    torch.manual_seed(0)
    lr, decay = torch.tensor([0.1, 0.01, 0.001]), torch.tensor([0.0, 0.5, 1.0])
    ours = {"a": torch.randn(3, 40, 5), "b": torch.randn(3, 7)}
    theirs = [{n: torch.nn.Parameter(v[g].clone()) for n, v in ours.items()} for g in range(3)]
    optimisers = [
        torch.optim.AdamW(p.values(), lr=float(lr[g]), weight_decay=float(decay[g]))
        for g, p in enumerate(theirs)
    ]
    optimiser = AdamW(ours, betas=(0.9, 0.999), eps=1e-8, clip=5.0, fused_min_elements=fused_from)
    for count in range(1, 8):
        gradients = {
            n: torch.randn_like(v) * torch.tensor([0.01, 1.0, 100.0]).view(3, *[1] * (v.dim() - 1))
            for n, v in ours.items()
        }
        factor = cosine_lr(1.0, end=0.0, step=count, steps=10)
        copies = {n: v.clone() for n, v in gradients.items()}
        norms = []
        for at in (slice(0, 1), slice(1, 3)):
            part = {n: v[at] for n, v in gradients.items()}
            norms += optimiser.step(
                ours, part, at=at, count=count, lr=lr[at] * factor, weight_decay=decay[at]
            ).tolist()
        for g, p in enumerate(theirs):
            for name, value in p.items():
                value.grad = copies[name][g].clone()
            assert torch.nn.utils.clip_grad_norm_(p.values(), 5.0).item() == pytest.approx(norms[g])
            optimisers[g].param_groups[0]["lr"] = float(lr[g]) * factor
            optimisers[g].step()
    for g, p in enumerate(theirs):
        for name, value in p.items():
            torch.testing.assert_close(ours[name][g], value.detach(), rtol=1e-5, atol=1e-6)


def test_it_reports_progress_and_says_its_group_size() -> None:
    features, seen = separable(), []
    with logged() as said:
        fit(
            features,
            head=spec("linear", features),
            configs=settings_for("linear"),
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
        ({"configs": SETTINGS}, OptionError, "no attention to drop"),
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
def test_what_cannot_be_trained_is_refused(
    change: dict[str, object], error: type[Exception], text: str
) -> None:
    features = separable()
    asked: dict[str, object] = {
        "head": spec("linear", features),
        "configs": settings_for("linear"),
        "train": TRAIN,
        "val": None,
    }
    with pytest.raises(error, match=text):
        fit(features, seed=0, train_config=SHORT, **(asked | change))  # type: ignore[arg-type]


def test_an_empty_class_and_one_missing_in_validation_are_no_fault() -> None:
    features = separable()
    train, val = TRAIN[features.labels[TRAIN] != 1], VAL[features.labels[VAL] != 2]
    trained: FittedHead = fit(
        features,
        head=spec("linear", features),
        configs=settings_for("linear")[:1],
        train=train,
        val=val,
        seed=0,
        train_config=SHORT,
    )[0]
    assert trained.val_metrics is not None
    assert math.isfinite(trained.val_metrics["balanced_accuracy"])
    assert all(math.isfinite(v) for v in trained.losses)


def test_noise_reaches_the_features() -> None:
    features = separable()
    quiet, loud = (
        fit(
            features,
            head=spec("linear", features),
            configs=settings_for("linear")[:1],
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

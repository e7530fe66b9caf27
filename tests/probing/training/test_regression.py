"""Regression in the one-pass engine, against plain torch and scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from layercache.errors import ProbeError
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit, predict
from layercache.testing import InMemoryTokens
from tests.probing.textbook import TextbookAttentive, TextbookLinear

TRAIN, VAL = torch.arange(200), torch.arange(200, 300)
SHORT = TrainConfig(epochs=4, min_steps=0, batch=50)
CONFIGS = (
    HParams(lr=1e-2, weight_decay=1e-2, dropout=0.3),
    HParams(lr=3e-3, weight_decay=1.0, dropout=0.0),
    HParams(lr=1e-3, weight_decay=0.0, dropout=0.1),
)
KINDS = ("linear", "attentive", "attentive-tokens", "hybrid")


def planted(*, columns: int = 1, unit: float = 1.0, noise: float = 0.0) -> InMemoryTokens:
    """Return tokens of which the targets are a linear function."""
    generator = torch.Generator().manual_seed(0)
    dataset = InMemoryTokens(torch.randn(300, 4, 16, generator=generator), torch.zeros(300))
    weight = torch.randn(64, columns, generator=generator, dtype=torch.float64)
    clean = dataset.x.flatten(1).double() @ weight + 20
    extra = noise * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    dataset.labels = unit * (clean + extra)
    return dataset


def head_of(kind: str, dataset: InMemoryTokens) -> HeadSpec:
    return HeadSpec(
        kind=kind,
        tokens=dataset.tokens,
        width=dataset.width,
        classes=dataset.labels.shape[1],
        regression=True,
        embedding_ids=(0, 0, 1, 1) if kind == "hybrid" else None,
    )


def train(dataset: InMemoryTokens, kind: str, config: HParams, **changes: object) -> FittedHead:
    if kind == "linear":
        config = dataclasses.replace(config, dropout=0.0)
    options: dict[str, object] = {"val": VAL, "train_config": SHORT} | changes
    head = head_of(kind, dataset)
    return fit(dataset, head=head, configs=[config], train=TRAIN, seed=1, **options)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [1, 3])
def test_linear_head_recovers_a_planted_linear_target(columns: int) -> None:
    dataset = planted(columns=columns)
    config = HParams(lr=3e-2, weight_decay=0.0)
    long = TrainConfig(epochs=200, min_steps=0, batch=100, noise=None)
    head = train(dataset, "linear", config, train_config=long)
    assert head.val_metrics is not None
    assert head.val_metrics["r2"] > 0.99
    predicted = head.predict(dataset.x[VAL])
    assert r2_score(dataset.labels[VAL], predicted) > 0.99


def test_shuffled_targets_cannot_be_predicted() -> None:
    dataset = planted()
    dataset.labels = dataset.labels[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    head = train(dataset, "linear", HParams(lr=1e-2, weight_decay=0.1))
    assert head.val_metrics is not None
    assert head.val_metrics["r2"] < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_validation_metrics_equal_those_of_scikit_learn_and_scipy(kind: str) -> None:
    dataset = planted(columns=2, unit=10.0, noise=0.3)
    head = train(dataset, kind, CONFIGS[0])
    predicted = predict(head, dataset=dataset, rows=VAL).double().numpy()
    targets = dataset.labels[VAL].numpy()
    assert head.val_metrics == pytest.approx(
        {
            "r2": r2_score(targets, predicted),
            "mae": mean_absolute_error(targets, predicted),
            "rmse": root_mean_squared_error(targets, predicted),
            "spearman": np.mean([spearmanr(targets[:, c], predicted[:, c])[0] for c in (0, 1)]),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_fit_equals_a_plain_loop_in_float64(kind: str) -> None:
    """Compare with torch's AdamW, clip_grad_norm_, mse_loss and CosineAnnealingLR."""
    dataset = planted(columns=2, unit=3.0, noise=0.3)
    head, config = head_of(kind, dataset), HParams(lr=1e-2, weight_decay=0.1)
    no_steps = TrainConfig(
        epochs=1, min_steps=0, batch=200, min_batches=1, lr_end=1e-30, noise=None
    )
    tiny = HParams(lr=1e-30, weight_decay=0.0)
    initial = train(dataset, kind, tiny, train_config=no_steps, val=None)
    mean, scale = dataset.labels[TRAIN].mean(0), dataset.labels[TRAIN].std(0, correction=0)
    shape = {"tokens": head.tokens, "width": head.width, "classes": 2}
    module: torch.nn.Module = (
        TextbookLinear(**shape)
        if kind == "linear"
        else TextbookAttentive(**shape, num_heads=head.num_heads)
    )
    module.load_state_dict(initial.state_dict)
    module = module.double()
    with torch.no_grad():  # the stored head predicts in the user's unit
        module.classifier.weight.div_(scale[:, None])  # type: ignore[union-attr, operator]
        module.classifier.bias.sub_(mean).div_(scale)  # type: ignore[union-attr, operator]
    if isinstance(module, TextbookAttentive):
        module.batch_norm.reset_running_stats()
    plan = SHORT.schedule(200)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=plan.steps, eta_min=1e-6)
    losses = []
    for epoch in range(plan.epochs):
        of_epoch = []
        batches = dataset.iter_batches(
            TRAIN,
            batch_size=plan.batch_size,
            seed=1,
            epoch=epoch,
            noise=SHORT.noise,
            train=True,
        )
        for x, y in batches:
            loss = torch.nn.functional.mse_loss(module(x.double()), (y - mean) / scale)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            of_epoch.append(loss.item())
        losses.append(np.mean(of_epoch))

    trained = train(dataset, kind, config, val=None)

    assert trained.losses == pytest.approx(losses, rel=1e-4)
    module.eval()
    with torch.no_grad():
        expected = module(dataset.x[VAL].double()) * scale + mean
    torch.testing.assert_close(
        trained.predict(dataset.x[VAL]).double(), expected, rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_together_equal_each_alone(kind: str) -> None:
    dataset = planted(noise=0.3)
    configs = [
        dataclasses.replace(c, dropout=0.0 if kind == "linear" else c.dropout) for c in CONFIGS
    ]
    head = head_of(kind, dataset)
    together = fit(
        dataset, head=head, configs=configs, train=TRAIN, val=VAL, seed=1, train_config=SHORT
    )
    for config, one in zip(configs, together, strict=True):
        alone = train(dataset, kind, config)
        assert one.losses == pytest.approx(alone.losses, rel=1e-4)
        torch.testing.assert_close(
            one.predict(dataset.x[VAL]), alone.predict(dataset.x[VAL]), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_targets_in_another_unit_give_the_same_head_in_that_unit(kind: str) -> None:
    heads = [train(planted(noise=0.3, unit=unit), kind, CONFIGS[0]) for unit in (1.0, 1000.0)]
    one, thousand = (head.val_metrics or {} for head in heads)
    assert thousand["r2"] == pytest.approx(one["r2"], abs=1e-4)
    assert thousand["spearman"] == pytest.approx(one["spearman"], abs=1e-3)
    for name in ("mae", "rmse"):
        assert thousand[name] == pytest.approx(1000 * one[name], rel=1e-3)


def test_early_stopping_keeps_the_epoch_of_the_highest_r2() -> None:
    dataset = planted(noise=0.3)
    config = TrainConfig(epochs=12, min_steps=0, batch=50, patience=2)
    head = train(dataset, "linear", HParams(lr=0.3, weight_decay=0.0), train_config=config)
    assert head.val_metrics is not None
    predicted = predict(head, dataset=dataset, rows=VAL)
    assert r2_score(dataset.labels[VAL], predicted) == pytest.approx(head.val_metrics["r2"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y.long(), "expects floats"),
        (lambda y: torch.cat([y, y], 1), "expects floats"),
        (lambda y: torch.full_like(y, 4.0), "all 200 training targets of column 1 are 4"),
        (lambda y: y.index_fill(0, torch.tensor([3, 5]), torch.nan), "2 of 200 .* are NaN or inf"),
    ],
)
def test_targets_that_are_no_finite_varying_floats_raise(change: object, message: str) -> None:
    dataset = planted()
    head = head_of("linear", dataset)
    dataset.labels = change(dataset.labels)  # type: ignore[operator]
    with pytest.raises(ProbeError, match=message):
        fit(
            dataset,
            head=head,
            configs=[HParams(lr=0.1, weight_decay=0.0)],
            train=TRAIN,
            val=None,
            seed=0,
            train_config=SHORT,
        )

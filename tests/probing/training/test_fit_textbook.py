"""Fits against plain modules, losses and optimizers of torch and metrics of scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from layercache.probing.training.class_weights import balanced_class_weights
from layercache.probing.training.config import HParams
from layercache.probing.training.fit import fit, predict
from layercache.testing import InMemoryTokens, make_separable_tokens
from tests.probing.textbook import TextbookAttentive, TextbookEfficient
from tests.probing.training.small_fits import (
    NO_STEPS,
    SHORT,
    TRAIN,
    VAL,
    assert_same_head,
    configs_for,
    plain,
    spec,
)


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

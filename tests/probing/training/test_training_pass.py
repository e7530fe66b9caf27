from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.spec import LAYERS, SPATIAL
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit
from layercache.probing.training.training_pass import TrainingPass
from layercache.testing import make_separable_tokens

CONFIGS = (
    HParams(lr=1e-2, weight_decay=1e-2, dropout=0.0),
    HParams(lr=1e38, weight_decay=1.0, dropout=0.3),
    HParams(lr=1e-5, weight_decay=0.0, dropout=0.3),
    HParams(lr=3e-2, weight_decay=0.0, dropout=0.1),
)
CONFIG = TrainConfig(epochs=6, min_steps=0, batch=50)


class KilledAt:
    """A PassSaver that saves and kills training after some step, and then continues it."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.saved: bytes | None = None

    def load(self, configs: Sequence[HParams]) -> Mapping[str, Any] | None:
        if self.saved is None:
            return None
        state: Mapping[str, Any] = torch.load(io.BytesIO(self.saved), weights_only=True)
        return state

    def save_if_due(self, training: TrainingPass) -> None:
        if self.saved is None and training.step == self.step:
            buffer = io.BytesIO()
            torch.save(training.state_dict(), buffer)
            self.saved = buffer.getvalue()
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("step", "patience", "head"),
    [
        (7, None, {"kind": "attentive"}),
        (10, 2, {"kind": "attentive"}),
        (30, None, {"kind": "attentive"}),
        (10, 2, {"kind": "scalar-mix", "mix_ids": (0, 1, 0, 1)}),
        (10, 2, {"kind": "efficient", "num_heads": 4}),
        (10, 2, {"kind": "fusion", "spatial_tokens": 2, "gate": "scalar"}),
        (7, None, {"kind": "fusion", "spatial_tokens": 1, "gate": "sample", "embedding_ids": (0,)}),
        *(
            (7, None, {"kind": "fusion", "spatial_tokens": 2, "gate": "class", "branch": branch})
            for branch in (LAYERS, SPATIAL)
        ),
    ],
)
def test_training_pass_continued_from_its_state_ends_with_the_same_bits(
    step: int, patience: int | None, head: dict[str, Any]
) -> None:
    dataset = make_separable_tokens(strength=0.3)
    spec = HeadSpec(tokens=4, width=16, classes=3, **head)
    options: dict[str, Any] = {
        "head": spec,
        "configs": [c if spec.has_dropout else dataclasses.replace(c, dropout=0) for c in CONFIGS],
        "train": torch.arange(200),
        "val": torch.arange(200, 300),
        "seed": 3,
        "train_config": dataclasses.replace(CONFIG, patience=patience),
        "val_epochs": (1, 4),
    }
    whole = fit(dataset, **options)
    saver = KilledAt(step)
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, saver=saver, **options)
    steps: list[int] = []
    continued = fit(
        dataset, saver=saver, on_progress=lambda done, total: steps.append(done), **options
    )
    assert steps == list(range(step + 1, len(steps) + step + 1))
    for one, other in zip(continued, whole, strict=True):
        assert_same_bits(one, other)
    assert whole[1].diverged
    if patience:
        assert len({head.epochs for head in whole}) > 1, "early stopping has removed some"


def test_evaluation_during_training_changes_no_bit_and_agrees_with_early_stopping() -> None:
    dataset = make_separable_tokens(strength=0.3)
    options: dict[str, Any] = {
        "head": HeadSpec(kind="attentive", tokens=4, width=16, classes=3),
        "configs": CONFIGS,
        "train": torch.arange(200),
        "val": torch.arange(200, 300),
        "seed": 3,
    }
    plain = fit(dataset, train_config=CONFIG, **options)
    evaluated = fit(dataset, train_config=CONFIG, val_epochs=(1, 4), **options)
    stopped = fit(dataset, train_config=dataclasses.replace(CONFIG, patience=6), **options)
    assert [len(head.val_curve) for head in plain] == [1, 0, 1, 1], "one has diverged"
    for one, other, early in zip(plain, evaluated, stopped, strict=True):
        curve = dict(early.val_curve)
        if not one.diverged:
            assert [epoch for epoch, _ in other.val_curve] == [1, 4, 6]
            assert other.val_metrics == curve[6]
            assert early.val_metrics == curve[early.epochs or 0]
        assert all(metrics == curve[epoch] for epoch, metrics in other.val_curve)
        assert_same_bits(one, dataclasses.replace(other, val_curve=one.val_curve))


def test_killed_regression_continues_with_the_same_bits() -> None:
    dataset = make_separable_tokens(strength=0.3)
    dataset.labels = (dataset.labels * 100.0 + torch.arange(300) / 7)[:, None].double()
    options: dict[str, Any] = {
        "head": HeadSpec(kind="attentive", tokens=4, width=16, classes=1, regression=True),
        "configs": CONFIGS[::2],
        "train": torch.arange(200),
        "val": torch.arange(200, 300),
        "seed": 3,
        "train_config": dataclasses.replace(CONFIG, patience=2),
    }
    whole = fit(dataset, **options)
    saver = KilledAt(10)
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, saver=saver, **options)
    for one, other in zip(fit(dataset, saver=saver, **options), whole, strict=True):
        assert_same_bits(one, other)


def assert_same_bits(one: FittedHead, other: FittedHead) -> None:
    fields = {field.name for field in dataclasses.fields(FittedHead)} - {"state_dict"}
    for name in fields:
        assert repr(getattr(one, name)) == repr(getattr(other, name)), name  # a loss may be NaN
    assert one.state_dict.keys() == other.state_dict.keys()
    for name, value in one.state_dict.items():
        assert torch.equal(value, other.state_dict[name]), name

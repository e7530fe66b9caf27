"""Weights of samples in the training loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from layercache.probing.heads import HeadSpec
from layercache.probing.targets.standardize import Standardization
from layercache.probing.training.class_weights import balanced_class_weights
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.config_batch import ConfigBatch
from layercache.probing.training.fit import fit
from layercache.testing import make_separable_tokens

LABELS = {
    "classification": torch.tensor([0, 1, 2, 1, 0]),
    "multi-label": torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
    "regression": torch.randn(5, 3, dtype=torch.float64),
}
TIMES = torch.tensor([1, 3, 2, 1, 4])
CONFIGS = [HParams(lr=0.01, weight_decay=0.0), HParams(lr=0.1, weight_decay=0.0)]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("task", LABELS)
def test_weighted_loss_equals_that_of_repeated_samples(task: str, balanced: bool) -> None:
    y = LABELS[task]
    batch = ConfigBatch(
        HeadSpec(
            kind="linear",
            tokens=1,
            width=2,
            classes=3,
            multi_label=task == "multi-label",
            regression=task == "regression",
        ),
        CONFIGS,
        seed=0,
        train_config=TrainConfig(),
        steps=1,
        class_weights=torch.tensor([1.0, 0.3, 2.0]) if balanced else None,
        standardization=Standardization.of(y) if task == "regression" else None,
        device=torch.device("cpu"),
        precision="fp32",
    )
    logits = torch.randn(2, 5, 3)
    expected = batch.loss(logits.repeat_interleave(TIMES, 1), y.repeat_interleave(TIMES, 0))
    torch.testing.assert_close(batch.loss(logits, y, 0.7 * TIMES), expected)
    assert not torch.allclose(batch.loss(logits, y), expected)


def test_balanced_class_weights_of_weighted_samples_equal_those_of_repeated_ones() -> None:
    y = LABELS["classification"]
    repeated = y.repeat_interleave(TIMES).numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=repeated)
    actual = balanced_class_weights(y, 3, TIMES.double())
    torch.testing.assert_close(actual, torch.from_numpy(expected).float())


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_fit_with_equal_weights_equals_fit_without_and_small_ones_silence_wrong_labels(
    kind: str,
) -> None:
    dataset = make_separable_tokens()
    wrong = torch.arange(300) % 2 == 0
    labels = torch.where(wrong, (dataset.labels + 1) % 3, dataset.labels)
    mislabelled = dataset.with_labels(labels.numpy())
    rows = torch.arange(200)

    def accuracy(weights: torch.Tensor | None) -> float:
        (head,) = fit(
            mislabelled,
            head=HeadSpec(kind=kind, tokens=dataset.tokens, width=dataset.width, classes=3),
            configs=[CONFIGS[0]],
            train=rows,
            val=None,
            seed=0,
            train_config=TrainConfig(epochs=30, min_steps=0, batch=50),
            sample_weight=weights,
        )
        predicted = head.predict(dataset.x[200:]).argmax(1)
        return float((predicted == dataset.labels[200:]).float().mean())

    unweighted = accuracy(None)
    assert accuracy(torch.full((300,), 0.5)) == pytest.approx(unweighted, abs=0.02)
    assert accuracy(torch.where(wrong, 1e-6, 1.0)) > unweighted + 0.1

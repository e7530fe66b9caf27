from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from layercache.errors import ProbeError
from layercache.probing.api import probe
from layercache.probing.training.config import TrainConfig
from tests.probing.quick import ONE_CONFIG


def test_row_holds_the_metrics_of_the_stored_predictions(
    planted: Callable[..., Any],
) -> None:
    cache = planted(classes=7, rows=400, strength=1.0)
    results = probe(cache, head="linear", **ONE_CONFIG)
    (trained,) = results
    stored = trained.predictions()
    targets = cache.split("test").labels
    assert np.array_equal(stored.targets, targets)
    assert stored.logits.dtype == np.float32
    row = trained.row
    assert row["test_balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(targets, stored.logits.argmax(1))
    )
    assert row["test_top1_accuracy"] == pytest.approx((targets == stored.logits.argmax(1)).mean())
    assert row["test_top5_accuracy"] == pytest.approx(
        top_k_accuracy_score(targets, stored.logits, k=5)
    )
    assert row["test_ci95_low"] < row["test_balanced_accuracy"] < row["test_ci95_high"]
    assert 0.2 < row["test_balanced_accuracy"] < 0.95, "a score at the ceiling would prove nothing"


def test_stored_head_predicts_the_stored_logits(planted: Callable[..., Any]) -> None:
    cache = planted()
    for trained in probe(cache, head=["linear", "attentive"], **ONE_CONFIG):
        head = trained.head()
        x = cache.split("test").read(trained.pairs).astype(np.float32).transpose(1, 0, 2)
        torch.testing.assert_close(
            head.predict(x), torch.from_numpy(trained.predictions().logits), rtol=1e-4, atol=1e-4
        )
        assert head.provenance.fingerprints == (cache.spec.fingerprint,)
        assert head.hparams == {"lr": 0.03, "weight_decay": 1e-4, "dropout": 0.0}


def test_stored_attention_lies_on_the_token_with_the_signal(
    planted: Callable[..., Any],
) -> None:
    cache = planted(layer=3, kind=1, rows=400)
    (trained,) = probe(
        cache,
        head="attentive",
        **{**ONE_CONFIG, "train_config": TrainConfig(epochs=40, min_steps=0, min_batches=5)},
    )
    summary = trained.attention()
    assert summary.mean.shape == summary.std.shape == (8, 8)
    np.testing.assert_allclose(summary.mean.sum(1), 1, atol=1e-5)
    assert summary.pairs[int(summary.mean.mean(0).argmax())] == (3, "ap")
    x = cache.split("test").read(trained.pairs).astype(np.float32).transpose(1, 0, 2)
    weights = trained.head().attention(x).double()
    np.testing.assert_allclose(summary.mean, weights.mean(0), atol=1e-5)
    np.testing.assert_allclose(summary.std, weights.std(0, unbiased=False), atol=1e-4)
    with pytest.raises(ProbeError, match="linear head, which has no attention"):
        next(iter(probe(cache, head="linear", **ONE_CONFIG))).attention()

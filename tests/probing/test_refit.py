from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from layercache.errors import (
    ProbeError,
)
from layercache.probing.api import probe
from layercache.probing.training import trainer
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


def test_test_split_is_read_once_after_the_refit(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.reading.split import Split

    events: list[str] = []
    read, fit = Split.read_stored, trainer.fit
    monkeypatch.setattr(
        Split,
        "read_stored",
        lambda self, *a, **k: events.append(f"read {self.name}") or read(self, *a, **k),
    )
    monkeypatch.setattr(
        trainer,
        "fit",
        lambda *a, **k: (
            events.append("search" if k["val"] is not None else "refit") or fit(*a, **k)
        ),
    )
    probe(planted(), head="linear", **ONE_CONFIG)
    assert list(dict.fromkeys(events)) == ["read train", "search", "refit", "read test"]
    assert events.count("read test") == 1


def test_refit_sees_all_training_samples(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int | None]] = []
    fit = trainer.fit
    monkeypatch.setattr(
        trainer,
        "fit",
        lambda *a, **k: (
            seen.append((len(k["train"]), None if k["val"] is None else len(k["val"])))
            or fit(*a, **k)
        ),
    )
    probe(planted(rows=240), head="linear", **ONE_CONFIG)
    assert seen == [(192, 48), (240, None)]


def test_diverged_configuration_is_counted_and_never_selected(planted: Callable[..., Any]) -> None:
    (trained,) = probe(planted(), head="linear", **{**ONE_CONFIG, "lr": [1e38, 0.03]})
    assert trained.row["lr"] == 0.03
    assert trained.row["n_diverged"] == 1
    assert [config.diverged for config in trained.configs] == [True, False]
    (alone,) = probe(planted(), head="linear", **ONE_CONFIG)
    assert trained.row["test_balanced_accuracy"] == alone.row["test_balanced_accuracy"], (
        "the other one is not harmed"
    )
    with pytest.raises(
        ProbeError,
        match=r"all 1 configurations of the linear head diverged .* smaller values of lr",
    ):
        probe(planted(model="other"), head="linear", **{**ONE_CONFIG, "lr": 1e38})


def test_refit_that_diverges_falls_back_to_the_next_best(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = trainer.SGDTrainer.train
    tried: list[float] = []

    def diverging(self: Any, dataset: Any, hparams: Any, **options: Any) -> Any:
        tried.append(hparams["lr"])
        head = train(self, dataset, hparams, **options)
        return replace(head, diverged_at=0 if len(tried) == 1 else None)

    monkeypatch.setattr(trainer.SGDTrainer, "train", diverging)
    (trained,) = probe(planted(), head="linear", **{**ONE_CONFIG, "lr": [0.03, 0.0001]})
    assert tried == [0.03, 0.0001]
    assert trained.row["lr"] == 0.0001
    assert trained.row["n_diverged"] == 1

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from layercache.errors import ProbeError
from layercache.probing.api import probe
from layercache.probing.training import trainer
from tests.probing.quick import ONE_CONFIG


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

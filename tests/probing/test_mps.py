"""What of a probe runs on an Apple GPU, as far as a machine without one can tell."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from layercache.probing import worker as worker_module
from layercache.probing.api import probe
from layercache.probing.data.dataset import LabelledTokens
from layercache.probing.heads.spec import BASELINES
from layercache.probing.spec import ProbeSpec
from layercache.probing.training.config import TrainConfig
from layercache.probing.training.config_batch import ConfigBatch
from layercache.probing.worker import ProbeWorker, WorkerConfig
from tests.no_float64 import NoFloat64

SPLITS = ("train", "test")
ON_DEVICE = {
    ConfigBatch: ("step", "logits", "loss", "retain", "drop_diverged", "check_finite"),
    LabelledTokens: ("iter_batches",),
}
"""What computes on the device."""


def without_float64(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        with NoFloat64():
            return method(*args, **kwargs)

    return checked


def without_float64_in_batches(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        batches = method(*args, **kwargs)
        while True:
            with NoFloat64():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    return checked


@pytest.mark.parametrize("multi_label", [False, True])
def test_training_has_no_float64_on_the_device(
    write_cache: Any, monkeypatch: pytest.MonkeyPatch, multi_label: bool
) -> None:
    for owner, names in ON_DEVICE.items():
        for name in names:
            wrap = without_float64_in_batches if name == "iter_batches" else without_float64
            monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    rng = np.random.default_rng(0)
    shape = (60, 3) if multi_label else (60,)
    tokens = {split: rng.normal(size=(3, 2, 60, 8)).astype(np.float16) for split in SPLITS}
    labels = {split: rng.integers(0, 2 if multi_label else 3, shape) for split in SPLITS}
    cache = write_cache(tokens, labels)
    results = probe(
        cache,
        head=["linear", "attentive"],
        layers=["last", "all"],
        lr=[1e-2, 1e-1],
        weight_decay=[1e-4],
        dropout=[0.0, 0.2],
        train_config=TrainConfig(epochs=2, min_steps=0, batch=16),
        device="cpu",
    )
    assert len(list(results)) == 4


def test_heads_in_closed_form_and_regressions_are_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        worker_module, "resolve_device", lambda name: (torch.device("mps"), "as requested")
    )
    config = WorkerConfig(
        specs=(),
        folders=(),
        device="mps",
        features="auto",
        memory_budget=None,
        disk_cache=None,
        configs_per_pass=None,
    )
    worker = ProbeWorker(config, emit=lambda message: None)

    def device(head: str, *, regression: bool = False) -> str:
        class Spec:
            needs_float64 = ProbeSpec.needs_float64

            def __init__(self) -> None:
                self.head, self.head_spec = head, SimpleNamespace(regression=regression)

        return worker._loader(Spec()).device.type  # type: ignore[arg-type]

    caplog.set_level("INFO")
    assert {device(head) for head in BASELINES} == {"cpu"}
    assert "heads: on cpu, as mps has no float64" in caplog.text
    assert len(caplog.records) == 1
    assert device("linear", regression=True) == "cpu"
    assert device("attentive") == "mps"

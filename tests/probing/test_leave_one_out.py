"""Selection by exact leave-one-out, against refits without each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.errors import OptionError
from layercache.probing.api import probe
from layercache.probing.baselines import GRIDS
from layercache.probing.baselines.fitting import sample_weights
from layercache.probing.baselines.leave_one_out_model import LeaveOneOutModel
from layercache.probing.baselines.models import RidgeModel
from layercache.probing.closed_form.ridge import ridge
from layercache.probing.closed_form.targets import one_hot
from layercache.probing.data.arrays import ArrayTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.metrics import compute
from layercache.probing.scan.api import scan


def test_selected_penalty_is_the_best_of_refits_without_each_sample(
    planted: Callable[..., Any],
) -> None:
    cache = planted(rows=40, width=8, strength=0.4)
    (trained,) = probe(cache, head="ridge", layers="last", tokens="cls", val_split="loo")
    split = cache.split("train")
    x = split.read([(cache.spec.depth, "cls")])[0].astype(np.float64)
    x = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))
    y = torch.from_numpy(split.labels)
    classes = len(cache.classes)
    head = HeadSpec(kind="linear", tokens=1, width=8, classes=classes, num_heads=0)
    weight, targets = sample_weights(y, head), one_hot(y, classes)
    for config in trained.configs:
        rows = []
        for i in range(len(y)):
            others = torch.arange(len(y)) != i
            fitted = ridge(x[others], targets[others], sample_weight=weight[others])
            model = RidgeModel(fitted, True, torch.zeros(classes, dtype=torch.bool))
            (outputs,) = model.outputs(x[i : i + 1], [config.hparams])
            rows.append(outputs)
        expected = compute(torch.cat(rows), y, task="classification", names=["balanced_accuracy"])
        assert config.val_metrics is not None
        found = config.val_metrics["balanced_accuracy"]
        assert found == pytest.approx(expected["balanced_accuracy"], abs=0.026)  # one sample
    assert trained.row["val_rows"] == trained.row["train_rows"] == 40
    assert trained.row["n_folds"] == 1
    assert "leave-one-out" in str(trained.settings)


@pytest.mark.parametrize("head", ["ridge", "lda"])
@pytest.mark.parametrize("samples", [40, 200])
def test_selection_by_leave_one_out_of_shuffled_labels_is_at_chance(
    planted: Callable[..., Any], head: str, samples: int
) -> None:
    cache = planted(rows=samples, shuffled=True)
    (trained,) = probe(cache, head=head, val_split="loo")
    chance = 1 / len(cache.classes)
    scores = [c.val_metrics["balanced_accuracy"] for c in trained.configs]
    assert max(scores) < chance + 0.25
    (strong,) = probe(planted(rows=samples, dataset="other"), head=head, val_split="loo")
    assert strong.row["val_balanced_accuracy"] > chance + 0.3


def test_several_labels_and_values_have_leave_one_out_too(planted: Callable[..., Any]) -> None:
    (trained,) = probe(planted(multi_label=True), head="ridge", val_split="loo")
    assert trained.row["val_mean_average_precision"] > 0.5


@pytest.mark.parametrize("samples", [12, 60])
def test_class_whose_only_sample_is_left_out_is_not_predicted(samples: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 2, 8)).astype(np.float32)
    y = np.arange(samples) % 3
    y[-1] = 3
    dataset = ArrayTokens(x, y, device=torch.device("cpu"))
    head = HeadSpec(kind="linear", tokens=2, width=8, classes=5, num_heads=0)
    for name in ("ridge", "lda"):
        left_out = LeaveOneOutModel(name, dataset, rows=np.arange(samples), head=head)
        for outputs in left_out.outputs(GRIDS[name]):
            assert outputs.shape == (samples, 5)
            assert outputs.isfinite().all()
            assert outputs[-1, 3] <= -9999
            assert (outputs[:, 4] <= -9999).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"head": "linear"}, r"ridge and lda, and head linear .*instead \(--folds 5\)"),
        ({"head": "ridge", "folds": 3}, "allows no folds"),
        ({"head": "ridge", "repeats": 3}, "allows no repeats"),
    ],
)
def test_leave_one_out_of_other_heads_or_with_folds_raises(
    planted: Callable[..., Any], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match):
        probe(planted(), val_split="loo", **options)


def test_scan_has_no_leave_one_out(planted: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="not by leave-one-out"):
        scan(planted(), val_split="loo")

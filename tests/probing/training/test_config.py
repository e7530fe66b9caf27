from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from layercache.errors import OptionError, ProbeError
from layercache.probing.training.config import (
    HParams,
    Noise,
    TrainConfig,
    batch_size,
    class_weights,
    cosine,
    grid,
    paper_grid,
)


def brute_force(rows: int, largest: int, min_batches: int) -> int | None:
    """Cut an epoch with every batch length and look."""
    fitting = []
    for batch in range(2, min(largest, rows) + 1):
        lengths = [len(range(a, min(a + batch, rows))) for a in range(0, rows, batch)]
        if len(lengths) >= min_batches and lengths[-1] >= batch / 2 and min(lengths) > 1:
            fitting.append(batch)
    return max(fitting, default=None)


@pytest.mark.parametrize(
    "rows",
    [
        10,
        12,
        17,
        24,
        37,
        60,
        99,
        100,
        101,
        1000,
        1022,
        1437,
        2753,
        10239,
        10240,
        10241,
        12287,
        45000,
    ],
)
def test_the_batch_is_the_largest_that_the_rule_allows(rows: int) -> None:
    assert batch_size(rows) == brute_force(rows, 2048, 5)


def test_small_batches_by_brute_force() -> None:
    for rows in range(2, 200):
        for largest in (4, 16, 64):
            expected = next(
                (b for wanted in (5, 4, 3, 2, 1) if (b := brute_force(rows, largest, wanted))), None
            )
            if expected is None:
                with pytest.raises(ProbeError, match="allow a larger batch"):
                    batch_size(rows, largest=largest)
            else:
                assert batch_size(rows, largest=largest) == expected


@pytest.mark.parametrize(
    ("rows", "batch"),
    [(1_281_167, 2048), (45000, 2048), (1020, 226), (11, 3), (9, 3), (7, 4), (2, 2)],
)
def test_batches_worked_out_by_hand(rows: int, batch: int) -> None:
    assert batch_size(rows) == batch


def test_a_single_sample_is_refused() -> None:
    with pytest.raises(ProbeError, match="at least 2 samples, came 1"):
        TrainConfig().plan(1)


def test_epochs_are_raised_to_a_thousand_steps() -> None:
    small, large = TrainConfig().plan(1437), TrainConfig().plan(1_281_167)
    assert (small.batch, small.steps_per_epoch, small.epochs, small.steps) == (319, 5, 200, 1000)
    assert (large.steps_per_epoch, large.epochs) == (626, 40)
    assert TrainConfig(epochs=300).plan(1437).epochs == 300
    assert TrainConfig(min_steps=1001).plan(1437).epochs == 201


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_schedule_is_torchs_cosine(steps: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps, eta_min=1e-6)
    for step in range(steps):
        assert cosine(0.1, end=1e-6, step=step, steps=steps) == pytest.approx(
            optimiser.param_groups[0]["lr"], rel=1e-9, abs=1e-12
        )
        schedule.step()
    assert cosine(0.1, end=1e-6, step=steps, steps=steps) == pytest.approx(1e-6)


def test_class_weights_are_sklearns_balanced_ones_and_zero_without_samples() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [3] * 11)
    expected = compute_class_weight(
        "balanced", classes=np.array([0, 1, 3]), y=labels.numpy()
    )  # N / (3 n_c): sklearn counts only the classes that occur
    weights = class_weights(labels, 4)
    torch.testing.assert_close(weights[[0, 1, 3]].double(), torch.tensor(expected) * 3 / 4)
    assert weights[2] == 0


def test_the_papers_grid() -> None:
    assert len(paper_grid("linear")) == 21
    assert len(paper_grid("attentive")) == 63 == len(set(paper_grid("attentive")))
    assert {s.dropout for s in paper_grid("linear")} == {0.0}
    assert paper_grid("attentive")[0] == HParams(lr=0.1, weight_decay=1e-6, dropout=0.0)
    assert {math.log10(s.weight_decay) for s in paper_grid("linear")} == set(range(-6, 1))
    assert [s.lr for s in grid(lr=[1, 2], weight_decay=[0])] == [1, 2]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: HParams(lr=0.0, weight_decay=0.0),
            "learning rate is a finite number > 0, came 0.0",
        ),
        (lambda: HParams(lr=float("nan"), weight_decay=0.0), "learning rate"),
        (
            lambda: HParams(lr=1.0, weight_decay=-1.0),
            "weight decay is a finite number >= 0, came -1.0",
        ),
        (
            lambda: HParams(lr=1.0, weight_decay=0.0, dropout=1.0),
            r"dropout lies in \[0, 1\), came 1.0",
        ),
        (lambda: Noise(std=-1), "std >= 0"),
        (lambda: Noise(probability=1.5), "probability"),
        (lambda: TrainConfig(epochs=0), "epochs is at least 1, came 0"),
        (lambda: TrainConfig(patience=0), "patience"),
        (lambda: TrainConfig(clip=0.0), "clip"),
    ],
)
def test_faulty_options_are_refused(make: object, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        make()  # type: ignore[operator]

from __future__ import annotations

import pytest
import torch

from layercache.errors import ProbeError
from layercache.probing.training.config import TrainConfig
from layercache.probing.training.schedule import choose_batch_size, cosine_lr


def brute_force(rows: int, largest: int, min_batches: int) -> int | None:
    """Return the largest valid batch size, by trying every one."""
    valid = []
    for batch in range(2, min(largest, rows) + 1):
        lengths = [len(range(a, min(a + batch, rows))) for a in range(0, rows, batch)]
        if len(lengths) >= min_batches and lengths[-1] >= batch / 2 and min(lengths) > 1:
            valid.append(batch)
    return max(valid, default=None)


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
def test_choose_batch_size_equals_brute_force(rows: int) -> None:
    assert choose_batch_size(rows) == brute_force(rows, 2048, 5)


def test_choose_batch_size_for_few_rows_equals_brute_force_or_is_refused() -> None:
    for rows in range(2, 200):
        for largest in (4, 16, 64):
            expected = next(
                (b for wanted in (5, 4, 3, 2, 1) if (b := brute_force(rows, largest, wanted))), None
            )
            if expected is None:
                with pytest.raises(ProbeError, match="allow a larger batch"):
                    choose_batch_size(rows, max_batch_size=largest)
            else:
                assert choose_batch_size(rows, max_batch_size=largest) == expected


@pytest.mark.parametrize(
    ("rows", "batch"),
    [(1_281_167, 2048), (45000, 2048), (1020, 226), (11, 3), (9, 3), (7, 4), (2, 2)],
)
def test_choose_batch_size_equals_values_worked_out_by_hand(rows: int, batch: int) -> None:
    assert choose_batch_size(rows) == batch


def test_schedule_of_a_single_row_is_refused() -> None:
    with pytest.raises(ProbeError, match="at least 2 samples, got 1"):
        TrainConfig().schedule(1)


def test_schedule_with_few_steps_raises_epochs() -> None:
    small, large = TrainConfig().schedule(1437), TrainConfig().schedule(1_281_167)
    assert (small.batch_size, small.steps_per_epoch, small.epochs, small.steps) == (
        319,
        5,
        200,
        1000,
    )
    assert (large.steps_per_epoch, large.epochs) == (626, 40)
    assert TrainConfig(epochs=300).schedule(1437).epochs == 300
    assert TrainConfig(min_steps=1001).schedule(1437).epochs == 201


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_cosine_lr_equals_torch(steps: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-6)
    for step in range(steps):
        assert cosine_lr(0.1, end=1e-6, step=step, steps=steps) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12
        )
        schedule.step()
    assert cosine_lr(0.1, end=1e-6, step=steps, steps=steps) == pytest.approx(1e-6)

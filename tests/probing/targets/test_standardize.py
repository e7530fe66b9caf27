from __future__ import annotations

import pytest
import torch

from layercache.errors import ProbeError
from layercache.probing.targets.standardize import Standardization


def test_apply_gives_mean_0_and_deviation_1_and_invert_gives_the_targets_back() -> None:
    targets = torch.randn(50, 3, dtype=torch.float64) * 7 + torch.tensor([0.0, 1e4, -3.0])
    standardization = Standardization.of(targets)
    standardized = standardization.apply(targets)
    assert standardized.dtype == torch.float32
    torch.testing.assert_close(standardized.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardized.std(0, correction=0), torch.ones(3))
    torch.testing.assert_close(standardization.invert(standardized), targets, rtol=1e-5, atol=1e-4)


def test_fold_in_scales_the_last_map() -> None:
    targets = torch.tensor([[1.0, 10.0], [3.0, 30.0]], dtype=torch.float64)
    state = {"classifier.weight": torch.ones(2, 4), "classifier.bias": torch.ones(2)}
    x = torch.randn(5, 4)
    standardization = Standardization.of(targets)
    expected = standardization.invert(x @ state["classifier.weight"].T + state["classifier.bias"])
    folded = standardization.fold_in(state)
    got = x @ folded["classifier.weight"].T + folded["classifier.bias"]
    torch.testing.assert_close(got, expected.float())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[1.0], [float("nan")], [float("inf")]], "2 of 3 training targets are NaN or infinite"),
        ([[0.1], [0.1], [0.1]], "all 3 training targets of column 1 are 0.1"),
        ([[1.0, 5.0], [2.0, 5.0]], "all 2 training targets of column 2 are 5"),
        ([[1e9], [1e9 + 1]], "subtract a constant from the column"),
        ([], "there are no training samples with a target"),
    ],
)
def test_targets_that_allow_no_training_raise(targets: list[list[float]], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        Standardization.of(torch.tensor(targets, dtype=torch.float64))

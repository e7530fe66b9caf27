from __future__ import annotations

import pytest
import torch

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from layercache.probing.scan.fused import fuse_features, fuse_samples, multiply_samples
from layercache.probing.scan.linear import climb, fit_linear
from tests.probing.closed_form.made import separable


@pytest.mark.parametrize(("head", "setting"), [("ridge", 0.01), ("ridge", 1.0), ("lda", 0.1)])
@pytest.mark.parametrize("samples", [14, 50])
def test_head_in_coordinates_of_the_samples_is_that_of_the_features(
    head: str, setting: float, samples: int
) -> None:
    x, y = separable(samples, 20, 3)
    x = torch.nn.functional.normalize(x + 1, dim=1).float()
    tokens, targets, weight = [x[:, :10], x[:, 10:]], one_hot(y, 4), balanced_weights(y, 4)
    moments = Moments(20, 4)
    moments.add(x.double(), targets, weight)
    absent = targets.sum(0) == 0
    by_number = {s: x.clone() for s, x in enumerate(tokens)}
    samples = multiply_samples(by_number, [(0,), (0, 1)])[0, 1]
    one, other = (
        fit_linear(head, fused, setting, classifies=True, absent=absent)
        for fused in (fuse_features(moments), fuse_samples(samples, targets, weight))
    )
    assert one is not None
    assert other is not None
    torch.testing.assert_close(
        one.outputs(tokens).softmax(1), other.outputs(tokens).softmax(1), atol=2e-3, rtol=0
    )
    assert (one.outputs(tokens)[:, 3] < -9000).all()


def test_part_of_the_samples_is_fitted_as_if_there_were_no_others() -> None:
    x, y = separable(40, 30, 3)
    x = torch.nn.functional.normalize(x + 1, dim=1).float()
    targets, weight, index = one_hot(y, 3), balanced_weights(y, 3), torch.arange(5, 23)
    absent = torch.zeros(3, dtype=torch.bool)
    every = multiply_samples({4: x.clone()}, [(4,)])[(4,)]
    alone = multiply_samples({4: x[index].clone()}, [(4,)])[(4,)]
    for head, setting in (("ridge", 0.1), ("lda", 0.1)):
        one, other = (
            fit_linear(head, fused, setting, classifies=True, absent=absent)
            for fused in (
                fuse_samples(every, targets[index], weight[index], index=index),
                fuse_samples(alone, targets[index], weight[index]),
            )
        )
        torch.testing.assert_close(one.outputs([x]), other.outputs([x]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("start", [0, 2, 5])
def test_climb_finds_the_maximum_from_any_start(start: int) -> None:
    scores = [0.1, 0.2, 0.5, 0.9, 0.9, 0.4]
    assert climb(scores.__getitem__, size=6, start=start) == (4, 0.9)


def test_climb_tries_each_position_once_and_avoids_those_without_a_score() -> None:
    tried: list[int] = []

    def score(position: int) -> float:
        tried.append(position)
        return [float("nan"), float("nan"), 0.5, 0.4][position]

    assert climb(score, size=4, start=1) == (2, 0.5)
    assert sorted(tried) == [0, 1, 2, 3]

from __future__ import annotations

import pytest
import torch

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from layercache.probing.scan.fused import fuse_features, fuse_samples
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
    one, other = (
        fit_linear(head, fused, setting, classifies=True, absent=absent)
        for fused in (fuse_features(moments), fuse_samples(tokens, targets, weight))
    )
    assert one is not None
    assert other is not None
    torch.testing.assert_close(
        one.outputs(tokens).softmax(1), other.outputs(tokens).softmax(1), atol=2e-3, rtol=0
    )
    assert (one.outputs(tokens)[:, 3] < -9000).all()


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

from __future__ import annotations

import pytest
import torch

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from tests.probing.closed_form.made import features, labels

N, P, C = 50, 6, 3


def moments_of(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, *, block: int) -> Moments:
    moments = Moments(x.shape[1], y.shape[1])
    for parts in zip(x.split(block), y.split(block), w.split(block), strict=True):
        moments.add(*parts)
    return moments


@pytest.mark.parametrize("block", [1, 7, N])
def test_moments_equal_those_of_all_samples_whatever_the_blocks(block: int) -> None:
    x, y = features(N, P, offset=3.0), one_hot(labels(N, C), C)
    w = torch.rand(N, dtype=torch.float64) + 0.1
    moments = moments_of(x, y, w, block=block)
    mean = (w[:, None] * x).sum(0) / w.sum()
    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.scatter, (x - mean).T @ ((x - mean) * w[:, None]))
    torch.testing.assert_close(moments.cross, (x - mean).T @ (y * w[:, None]))
    within = torch.zeros(P, P, dtype=torch.float64)
    for c in range(C):
        own, weight = x[y[:, c] == 1], w[y[:, c] == 1]
        center = (weight[:, None] * own).sum(0) / weight.sum()
        torch.testing.assert_close(moments.class_means[c], center)
        within += (own - center).T @ ((own - center) * weight[:, None])
    torch.testing.assert_close(moments.within_scatter, within)


def test_single_precision_keeps_a_deviation_far_smaller_than_the_mean() -> None:
    x = 1e-3 * features(4000, P) + 1.0
    y, w = torch.ones(4000, 1), torch.ones(4000)
    exact = moments_of(x, y, w, block=1000).scatter
    single = moments_of(x.float(), y, w, block=1000).scatter
    assert (single - exact).norm() < 1e-3 * exact.norm()
    unshifted = x.float().T @ x.float() - 4000 * torch.outer(x.float().mean(0), x.float().mean(0))
    assert (unshifted - exact).norm() > 0.1 * exact.norm()


def test_balanced_weights_give_each_class_that_occurs_the_same_total() -> None:
    y = torch.tensor([0, 0, 0, 2])
    weights = balanced_weights(y, 3)
    torch.testing.assert_close(weights @ one_hot(y, 3), torch.tensor([2.0, 0.0, 2.0]).double())

from __future__ import annotations

import pytest
import torch

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from layercache.probing.scan import token_moments
from layercache.probing.scan.token_moments import TokenMoments
from tests.probing.closed_form.made import features, labels

N, S, D, C = 60, 4, 5, 3
SUBSETS = [(0,), (1,), (0, 2, 3)]


def tokens() -> torch.Tensor:
    return torch.stack([features(N, D, seed=s, offset=1.0) for s in range(S)]).float()


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("columns", [2, 128])
@pytest.mark.parametrize("subset", SUBSETS)
def test_moments_of_a_subset_are_those_of_its_concatenated_tokens(
    monkeypatch: pytest.MonkeyPatch, subset: tuple[int, ...], by_class: bool, columns: int
) -> None:
    monkeypatch.setattr(token_moments, "COLUMNS", columns)
    if by_class:
        monkeypatch.setattr(token_moments, "MAX_ONE_HOT", 0)
    x, y = tokens(), labels(N, C)
    targets, weight = one_hot(y, C), balanced_weights(y, C)
    found = TokenMoments(tokens=S, width=D, targets=C, subsets=SUBSETS, device=torch.device("cpu"))
    for start in range(0, N, 25):
        rows = slice(start, start + 25)
        found.add(x[:, rows].clone(), targets[rows], weight[rows])
        moments = found.of(subset)  # also between additions
    together = Moments(D * len(subset), C)
    together.add(torch.cat([x[s] for s in subset], dim=1).double(), targets, weight)
    for name in ("mean", "scatter", "cross", "class_means", "within_scatter", "target_mean"):
        torch.testing.assert_close(
            getattr(moments, name), getattr(together, name), rtol=1e-4, atol=1e-5
        )

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from layercache.probing.closed_form import neighbors
from layercache.probing.closed_form.neighbors import Neighbors, ranks_among_ties
from tests.probing.closed_form.made import features, separable

SETTINGS = ((1, None), (5, None), (5, 0.07), (17, 0.5))


@pytest.mark.parametrize("tile", [1, 2**20])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_votes_equal_scikit_learn(monkeypatch: pytest.MonkeyPatch, tile: int, metric: str) -> None:
    monkeypatch.setattr(neighbors, "TILE_BYTES", tile)
    x, y = separable(60, 8, 4)
    x, other = (torch.nn.functional.normalize(t, dim=1) for t in (x, features(9, 8, seed=7)))
    shares, nearest = Neighbors.of(x, y, 5).votes(3 * other, SETTINGS)
    for (k, temperature), share in zip(SETTINGS, shares, strict=True):

        def weights(distance: np.ndarray, temperature: float | None = temperature) -> np.ndarray:
            cosine = 1 - (distance if metric == "cosine" else distance**2 / 2)
            return np.exp(cosine / temperature) if temperature else np.ones_like(distance)

        alone = KNeighborsClassifier(k, metric=metric, weights=weights).fit(x, y)
        np.testing.assert_allclose(share[:, :4], alone.predict_proba(other), atol=1e-6)
        assert not share[:, 4].any()
    for label in range(4):
        expected = (other @ x[y == label].T).amax(1)
        torch.testing.assert_close(nearest[:, label], expected)
    assert torch.isneginf(nearest[:, 4]).all()


def test_votes_for_several_labels_are_the_parts_of_neighbors_that_have_them() -> None:
    x, targets = features(30, 6), torch.rand(30, 3) < 0.4
    shares, _ = Neighbors.of(x, targets, 3).votes(x, [(4, None)])
    alone = KNeighborsClassifier(4, metric="cosine").fit(x, targets)
    expected = np.stack([p[:, 1] for p in alone.predict_proba(x)], axis=1)
    np.testing.assert_allclose(shares[0], expected, atol=1e-6)


def test_all_samples_vote_if_there_are_fewer_than_k() -> None:
    x, y = separable(6, 3, 2)
    shares, _ = Neighbors.of(x, y, 2).votes(x, [(100, None)])
    torch.testing.assert_close(shares[0], torch.bincount(y).float().expand(6, 2) / 6)


def test_repeated_samples_vote_each() -> None:
    x, y = separable(10, 4, 2)
    once, _ = Neighbors.of(x, y, 2).votes(x, [(3, 0.1)])
    twice, _ = Neighbors.of(torch.cat([x, x]), torch.cat([y, y]), 2).votes(x, [(6, 0.1)])
    torch.testing.assert_close(once, twice)


def test_ranks_among_ties_follow_the_nearest_sample() -> None:
    shares = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.2, 0.8, 0.0, 0.0]])
    nearest = torch.tensor([[0.1, 0.3, 0.9, 0.2], [0.9, 0.1, -torch.inf, 0.5]])
    ranks = ranks_among_ties(shares, nearest)
    assert ranks.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]

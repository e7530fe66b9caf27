from __future__ import annotations

import numpy as np
import pytest

from layercache.errors import OptionError
from layercache.reporting.attention import arrange, average

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


def test_columns_go_to_their_layer_and_token():
    weights = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    found = arrange(weights, weights / 10, pairs=PAIRS)
    assert (found.layers, found.tokens) == ((6, 12), ("cls", "ap"))
    np.testing.assert_allclose(found.mean_hlt[0], [[0.1, 0.2], [0.3, 0.4]])
    np.testing.assert_allclose(found.mean_lt, 0.25)
    shuffled = [3, 0, 2, 1]
    again = arrange(
        weights[:, shuffled], weights[:, shuffled] / 10, pairs=[PAIRS[i] for i in shuffled]
    )
    by_name = {
        (la, t): again.mean_hlt[0, i, j]
        for i, la in enumerate(again.layers)
        for j, t in enumerate(again.tokens)
    }
    assert by_name == {pair: weights[0, i] for i, pair in enumerate(PAIRS)}


def test_deviation_is_that_of_all_heads_and_images():
    rng = np.random.default_rng(0)
    raw_nhs = rng.dirichlet(np.ones(4), size=(500, 3)) + rng.random((1, 3, 4))
    found = arrange(raw_nhs.mean(axis=0), raw_nhs.std(axis=0), pairs=PAIRS)
    np.testing.assert_allclose(found.deviation_lt, raw_nhs.reshape(-1, 4).std(axis=0).reshape(2, 2))


def test_patches_are_one_kind_whose_weights_add_up():
    pairs = [(12, "cls"), (12, "patch/0"), (12, "patch/1")]
    found = arrange(np.array([[0.2, 0.5, 0.3]]), np.full((1, 3), 0.1), pairs=pairs)
    assert found.tokens == ("cls", "patch")
    np.testing.assert_allclose(found.mean_lt, [[0.2, 0.8]])
    assert np.isnan(found.deviation_lt[0, 1])
    assert found.deviation_lt[0, 0] == pytest.approx(0.1)


def test_absent_tokens_are_nan():
    found = arrange(np.array([[0.5, 0.5]]), np.zeros((1, 2)), pairs=[(1, "cls"), (2, "ap")])
    assert np.isnan(found.mean_lt).tolist() == [[False, True], [True, False]]


def test_average_of_seeds():
    a = arrange(np.array([[0.2, 0.8]]), np.array([[0.3, 0.0]]), pairs=PAIRS[:2])
    b = arrange(np.array([[0.4, 0.6]]), np.array([[0.4, 0.0]]), pairs=PAIRS[:2])
    both = average([a, b])
    np.testing.assert_allclose(both.mean_lt, [[0.3, 0.7]])
    assert both.std_hlt[0, 0, 0] == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    with pytest.raises(OptionError, match="same tokens"):
        average([a, arrange(np.ones((1, 1)), np.ones((1, 1)), pairs=PAIRS[:1])])


def test_refuses_columns_that_do_not_fit():
    with pytest.raises(OptionError, match=r"expected two \(heads, 4\) arrays"):
        arrange(np.ones((2, 3)), np.ones((2, 3)), pairs=PAIRS)

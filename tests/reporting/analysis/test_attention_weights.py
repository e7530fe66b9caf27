from __future__ import annotations

import numpy as np
import pytest

from layercache.errors import OptionError
from layercache.reporting.analysis.attention_weights import arrange_attention, average_attention

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


def test_arrange_attention_puts_columns_at_their_layer_and_token():
    weights = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    attention = arrange_attention(weights, weights / 10, pairs=PAIRS)
    assert (attention.layers, attention.tokens) == ((6, 12), ("cls", "ap"))
    np.testing.assert_allclose(attention.mean_hlt[0], [[0.1, 0.2], [0.3, 0.4]])
    np.testing.assert_allclose(attention.mean_lt, 0.25)
    shuffled = [3, 0, 2, 1]
    permuted = arrange_attention(
        weights[:, shuffled], weights[:, shuffled] / 10, pairs=[PAIRS[i] for i in shuffled]
    )
    by_name = {
        (la, t): permuted.mean_hlt[0, i, j]
        for i, la in enumerate(permuted.layers)
        for j, t in enumerate(permuted.tokens)
    }
    assert by_name == {pair: weights[0, i] for i, pair in enumerate(PAIRS)}


def test_std_lt_is_the_deviation_over_all_heads_and_images():
    rng = np.random.default_rng(0)
    raw_nhs = rng.dirichlet(np.ones(4), size=(500, 3)) + rng.random((1, 3, 4))
    attention = arrange_attention(raw_nhs.mean(axis=0), raw_nhs.std(axis=0), pairs=PAIRS)
    np.testing.assert_allclose(attention.std_lt, raw_nhs.reshape(-1, 4).std(axis=0).reshape(2, 2))


def test_arrange_attention_of_patches_adds_their_weights():
    pairs = [(12, "cls"), (12, "patch/0"), (12, "patch/1")]
    attention = arrange_attention(np.array([[0.2, 0.5, 0.3]]), np.full((1, 3), 0.1), pairs=pairs)
    assert attention.tokens == ("cls", "patch")
    np.testing.assert_allclose(attention.mean_lt, [[0.2, 0.8]])
    assert np.isnan(attention.std_lt[0, 1])
    assert attention.std_lt[0, 0] == pytest.approx(0.1)


def test_arrange_attention_without_a_token_is_nan():
    attention = arrange_attention(
        np.array([[0.5, 0.5]]), np.zeros((1, 2)), pairs=[(1, "cls"), (2, "ap")]
    )
    assert np.isnan(attention.mean_lt).tolist() == [[False, True], [True, False]]


def test_average_attention_of_seeds_averages_means_and_variances():
    a = arrange_attention(np.array([[0.2, 0.8]]), np.array([[0.3, 0.0]]), pairs=PAIRS[:2])
    b = arrange_attention(np.array([[0.4, 0.6]]), np.array([[0.4, 0.0]]), pairs=PAIRS[:2])
    both = average_attention([a, b])
    np.testing.assert_allclose(both.mean_lt, [[0.3, 0.7]])
    assert both.std_hlt[0, 0, 0] == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    with pytest.raises(OptionError, match="same tokens"):
        average_attention([a, arrange_attention(np.ones((1, 1)), np.ones((1, 1)), pairs=PAIRS[:1])])


def test_arrange_attention_with_another_number_of_columns_is_refused():
    with pytest.raises(OptionError, match=r"expected two \(heads, 4\) arrays"):
        arrange_attention(np.ones((2, 3)), np.ones((2, 3)), pairs=PAIRS)

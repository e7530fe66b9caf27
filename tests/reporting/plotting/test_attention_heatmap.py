from __future__ import annotations

import numpy as np
import pytest

from layercache.errors import OptionError
from layercache.reporting.plotting.attention_heatmap import attention_heatmap


def cells(figure):
    """The numbers in the cells, by (column, row)."""
    axes = figure.axes[0]
    return {
        (round(t.get_position()[0]), round(t.get_position()[1])): t.get_text()
        for t in axes.texts
        if not t.get_text().startswith("±")
    }


def test_attention_heatmap_cells_are_at_their_layer_and_token():
    weights = np.array([[0.1, 0.2], [0.3, 0.4]])
    figure = attention_heatmap(weights, layers=[6, 12], tokens=["cls", "ap"])
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["6", "12"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["CLS", "AP"]
    assert cells(figure) == {(0, 0): "10.0", (1, 0): "30.0", (0, 1): "20.0", (1, 1): "40.0"}
    mesh = axes.collections[0].get_array().reshape(2, 2)
    np.testing.assert_allclose(mesh, 100 * weights.T)


def test_attention_heatmap_leaves_missing_tokens_empty_and_large_maps_unnumbered():
    weights = np.array([[0.5, np.nan], [0.25, 0.25]])
    assert (0, 1) not in cells(attention_heatmap(weights, layers=[1, 2], tokens=["cls", "ap"]))
    assert (
        cells(
            attention_heatmap(np.full((24, 2), 1 / 48), layers=range(1, 25), tokens=["cls", "ap"])
        )
        == {}
    )


def test_attention_heatmap_of_another_shape_is_refused():
    with pytest.raises(
        OptionError, match=r"weights: expected shape \(2, 1\) from the labels, got \(1, 2\)"
    ):
        attention_heatmap(np.ones((1, 2)), layers=[1, 2], tokens=["cls"])

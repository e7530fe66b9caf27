from __future__ import annotations

import numpy as np
import pytest

from layercache.errors import OptionError
from layercache.reporting.plotting.heatmaps import attention_heatmap, luminance


def cells(figure):
    """The numbers written in the map, as rows of text by token kind then layer."""
    axes = figure.axes[0]
    return {
        (round(t.get_position()[0]), round(t.get_position()[1])): t.get_text()
        for t in axes.texts
        if not t.get_text().startswith("±")
    }


def test_attention_cells_carry_their_layer_and_token():
    weights = np.array([[0.1, 0.2], [0.3, 0.4]])
    figure = attention_heatmap(weights, layers=[6, 12], tokens=["cls", "ap"])
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["6", "12"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["CLS", "AP"]
    assert cells(figure) == {(0, 0): "10.0", (1, 0): "30.0", (0, 1): "20.0", (1, 1): "40.0"}
    mesh = axes.collections[0].get_array().reshape(2, 2)
    np.testing.assert_allclose(mesh, 100 * weights.T)


def test_absent_tokens_stay_empty_and_large_maps_carry_no_numbers():
    weights = np.array([[0.5, np.nan], [0.25, 0.25]])
    assert (0, 1) not in cells(attention_heatmap(weights, layers=[1, 2], tokens=["cls", "ap"]))
    assert (
        cells(
            attention_heatmap(np.full((24, 2), 1 / 48), layers=range(1, 25), tokens=["cls", "ap"])
        )
        == {}
    )


def test_shape_must_fit_the_names():
    with pytest.raises(
        OptionError, match=r"weights: expected shape \(2, 1\) from the names given, got \(1, 2\)"
    ):
        attention_heatmap(np.ones((1, 2)), layers=[1, 2], tokens=["cls"])


def test_luminance_by_the_definition():
    assert luminance((1, 1, 1)) == pytest.approx(1)
    assert luminance((0, 0, 0)) == 0
    # mid grey of sRGB 119 is the usual 0.184 of WCAG tables
    assert luminance((119 / 255,) * 3) == pytest.approx(0.184, abs=1e-3)

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from layercache.errors import OptionError
from layercache.reporting.plotting.curves import dumbbells, gain_panels, lines, scatter


def points_of(axes, marker):
    """The finite points drawn with a marker, (n, 2)."""
    points = np.concatenate(
        [
            np.column_stack([line.get_xdata(), line.get_ydata()])
            for line in axes.lines
            if line.get_marker() == marker
        ]
    )
    return points[np.isfinite(points.astype(float)).all(axis=1)]


def test_gain_panels_draw_dots_in_their_row_and_panel():
    values = [[1.0, -2.0], [3.0, np.nan]]
    published = [[0.5, np.nan], [np.nan, np.nan]]
    whiskers = np.full((2, 2, 2), np.nan)
    whiskers[:, 0, 0] = 0.25, 4.0
    figure = gain_panels(
        values,
        rows=["a", "b"],
        panels=["p", "q"],
        title="t",
        published=published,
        whiskers=whiskers,
    )
    left, right = figure.axes[:2]
    assert points_of(left, "o").tolist() == [[1.0, 0.0], [3.0, 1.0]]
    assert points_of(right, "o").tolist() == [[-2.0, 0.0]]
    assert points_of(left, "D").tolist() == [[0.5, 0.0]]
    assert [t.get_text() for t in left.texts] == ["+1.0", "+3.0"]
    assert [t.get_text() for t in right.texts] == ["\N{MINUS SIGN}2.0"]
    # the numbers are next to the grid, not on it
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in (left, right):
        assert all(t.get_window_extent(renderer).x0 > axes.bbox.x1 for t in axes.texts)
    assert [t.get_text() for t in left.get_yticklabels()] == ["a", "b"]
    whisker = left.collections[0].get_segments()[0]
    assert whisker[:, 0].tolist() == [0.75, 5.0]
    assert left.get_xlim()[0] < -2 < 5 < left.get_xlim()[1]


def test_lines_and_levels_have_separate_labels():
    figure = lines(
        [1, 2],
        series={"CLS": [10, 50], "AP": [20, 50.1]},
        xlabel="layer",
        title="t",
        levels={"fusion": 50.2},
    )
    axes = figure.axes[0]
    names = {t.get_text(): t.xy[1] for t in axes.texts}
    assert set(names) == {"CLS", "AP", "fusion"}
    gap = 0.06 * np.diff(axes.get_ylim())[0]
    assert names["CLS"] + gap < names["AP"] < names["fusion"] - gap


def test_lines_with_missing_values_are_labelled_at_their_last_point():
    figure = lines([1, 2, 3], series={"CLS": [10, 30, np.nan]}, xlabel="layer", title="t")
    assert [t.xy[1] for t in figure.axes[0].texts] == [30]


def test_lines_connect_the_points_around_a_missing_one():
    figure = lines([1, 2, 3], series={"CLS": [10, np.nan, 30]}, xlabel="layer", title="t")
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 10], [3, 30]]


def test_dumbbells_connect_before_and_after():
    figure = dumbbells(
        ["x", "y"], before=[3, 0], after=[1, 2], names=("old", "new"), xlabel="images", title="t"
    )
    axes = figure.axes[0]
    assert points_of(axes, "o").tolist() == [[3, 0], [0, 1], [1, 0], [2, 1]]
    assert [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()] == [
        [1, 3],
        [0, 2],
    ]


def test_scatter_labels_its_points():
    figure = scatter({"CLS": ([0.1, 0.9], [1, 2], ["1", "2"])}, xlabel="x", ylabel="y", title="t")
    assert [(t.get_text(), *t.xy) for t in figure.axes[0].texts] == [("1", 0.1, 1), ("2", 0.9, 2)]


def test_gain_panels_of_another_shape_are_refused():
    with pytest.raises(
        OptionError, match=r"expected values of shape \(2, 1\) from the labels, got \(1, 2\)"
    ):
        gain_panels([[1, 2]], rows=["a", "b"], panels=["p"], title="t")

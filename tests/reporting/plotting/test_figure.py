from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from layercache.errors import MissingExtraError
from layercache.reporting.plotting.attention_heatmap import attention_heatmap, attention_overview
from layercache.reporting.plotting.curves import dumbbells, gain_panels, lines, scatter
from layercache.reporting.plotting.figure import INK, save_figure, to_page_svg
from layercache.reporting.plotting.similarity_heatmap import similarity_heatmap

LONG_NAME = "vit_base_patch14_reg4_dinov2.lvd142m on chest-xray-pneumonia-2017-cleaned-v2"


@pytest.fixture(scope="module")
def heatmap():
    return attention_heatmap(
        np.full((3, 2), 1 / 6), layers=[1, 2, 3], tokens=["cls", "ap"], title="A & B"
    )


def test_save_figure_writes_both_formats_reproducibly(heatmap, tmp_path):
    first = [path.read_bytes() for path in save_figure(heatmap, tmp_path / "sub" / "a")]
    again = [path.read_bytes() for path in save_figure(heatmap, tmp_path / "b")]
    assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["a.png", "a.svg"]
    assert first == again
    assert save_figure(heatmap, tmp_path / "only.png") == [tmp_path / "only.png"]
    with Image.open(tmp_path / "only.png") as image:
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 10


def test_to_page_svg_returns_a_standalone_element(heatmap):
    svg = to_page_svg(heatmap, name="one", label='attention "<here>"')
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'attention "<here>"'
    assert "currentColor" in svg
    assert INK not in svg.lower()
    identifiers = [e.get("id") for e in root.iter() if e.get("id")]
    assert identifiers
    assert all(i.startswith("one-") for i in identifiers)
    assert "http://" not in svg.replace("http://www.w3.org", "")


def test_save_figure_leaves_matplotlib_settings_unchanged(heatmap, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    save_figure(heatmap, tmp_path / "x.svg")
    assert dict(matplotlib.rcParams) == before


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingExtraError,
        match=r"needs matplotlib, which is not installed: pip install -e '\.\[report\]'",
    ):
        attention_heatmap(np.ones((1, 1)), layers=[1], tokens=["cls"])


@pytest.mark.parametrize("name", ["digits", LONG_NAME])
def test_figures_contain_all_of_their_text(name):
    title = f"A figure about {name}"
    panels = {"rows": ["attentive, all layers", name], "panels": [name, "flowers", "pets"]}
    figures = [
        gain_panels(np.ones((2, 3)), title=title, published=np.ones((2, 3)), **panels),
        lines([1, 2], series={name: [1, 2], "AP": [1, 2]}, xlabel="layer", title=title),
        scatter({name: ([0, 1], [1, 2], [name, name])}, xlabel="x", ylabel="y", title=title),
        dumbbells([name], before=[3], after=[1], names=("a", "b"), xlabel="images", title=title),
        attention_heatmap(
            np.full((3, 2), 1 / 6),
            layers=[1, 2, 3],
            tokens=["cls", "ap"],
            title=title,
            subtitle=title,
        ),
        attention_overview(
            np.full((2, 2, 1), 0.5), rows=["a", name], layers=[1, 2], tokens=["cls"], title=title
        ),
        similarity_heatmap(np.eye(2), pairs=[(1, "cls"), (2, "cls")], title=title, subtitle=title),
    ]
    for figure in figures:
        box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
        width, height = figure.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        # no text squeezes the plot
        assert max(axes.get_position().width for axes in figure.axes) * width > 1.5
        titles = [t.get_text() for t in figure.texts if t.get_fontweight() == "bold"]
        assert ["".join(t.split()) for t in titles] == ["".join(title.split())]

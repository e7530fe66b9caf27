from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from layercache.errors import MissingExtraError
from layercache.reporting.plotting.attention_heatmap import attention_heatmap
from layercache.reporting.plotting.figure import INK, save_figure, to_page_svg


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

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from layercache.errors import MissingExtraError
from layercache.reporting.plotting import figure as canvas
from layercache.reporting.plotting.heatmaps import attention_heatmap


@pytest.fixture(scope="module")
def heatmap():
    return attention_heatmap(
        np.full((3, 2), 1 / 6), layers=[1, 2, 3], tokens=["cls", "ap"], title="A & B"
    )


def test_saves_both_formats_the_same_every_time(heatmap, tmp_path):
    first = [path.read_bytes() for path in canvas.save(heatmap, tmp_path / "sub" / "a")]
    again = [path.read_bytes() for path in canvas.save(heatmap, tmp_path / "b")]
    assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["a.png", "a.svg"]
    assert first == again
    assert canvas.save(heatmap, tmp_path / "only.png") == [tmp_path / "only.png"]
    with Image.open(tmp_path / "only.png") as image:
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 10


def test_page_svg_is_an_element_of_its_own(heatmap):
    svg = canvas.to_page_svg(heatmap, name="one", label='attention "<here>"')
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'attention "<here>"'
    assert "currentColor" in svg
    assert canvas.INK not in svg.lower()
    identifiers = [e.get("id") for e in root.iter() if e.get("id")]
    assert identifiers
    assert all(i.startswith("one-") for i in identifiers)
    assert "http://" not in svg.replace("http://www.w3.org", "")


def test_style_leaves_matplotlib_as_it_was(heatmap, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    canvas.save(heatmap, tmp_path / "x.svg")
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingExtraError,
        match=r"needs matplotlib, which is not installed: pip install 'layercache\[report\]'",
    ):
        attention_heatmap(np.ones((1, 1)), layers=[1], tokens=["cls"])

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from layercache.reporting.page import (
    CommandHint,
    Gallery,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Tile,
)
from layercache.reporting.words import count, listed, percent, points, probability

EVIL = '<script>alert("x")</script>'


def test_names_from_outside_are_escaped_everywhere():
    blocks = [
        Text(text=EVIL),
        CommandHint(text=EVIL, commands=[EVIL]),
        Table(name="t", frame=pd.DataFrame({EVIL: [EVIL]}), caption=EVIL),
        Gallery(caption=EVIL, pictures=[Picture(image=Image.new("L", (4, 4)), label=EVIL)]),
    ]
    tiles = [Tile(number=EVIL, words=EVIL)]
    page = Page(
        title=EVIL,
        headline=[EVIL],
        tiles=tiles,
        sections=[Section(title=EVIL, blocks=blocks)],
        footer=EVIL,
    ).html()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 12


def test_a_dollar_in_a_name_is_a_dollar():
    page = Page(
        title="$title", headline=["costs $5"], tiles=[], sections=[], footer="$footer"
    ).html()
    assert "<h1>$title</h1>" in page
    assert "costs $5" in page


def test_a_table_shows_its_view_and_names_its_file():
    frame = pd.DataFrame({"a": np.arange(30), "b": [1.23456] * 29 + [np.nan]})
    cut = Table(name="numbers", frame=frame, caption="All.", shown=2).html()
    assert cut.count("<tr>") == 3
    assert "All 30 rows are in tables/numbers.csv." in cut
    assert "1.23</td>" in cut
    whole = Table(name="numbers", frame=frame, caption="All.").html()
    assert "rows are in" not in whole
    assert "<td></td>" in whole
    assert "<table" not in Table(name="numbers", frame=frame, caption="All.", shown=0).html()
    assert ">yes<" in Table(name="t", frame=pd.DataFrame({"s": [True]}), caption="").html()


def test_thumbnails_are_small_and_only_where_there_is_an_image():
    big = Image.new("RGB", (4000, 3000), (1, 2, 3))
    html = Gallery(
        caption="c", pictures=[Picture(image=big, label="one"), Picture(image=None, label="two")]
    ).html()
    assert html.count("<img") == 1
    assert html.count("<li>") == 2
    assert len(html) < 5000


def test_words():
    assert (count(1, "probe"), count(1200, "probe")) == ("1 probe", "1,200 probes")
    assert (listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == (
        "",
        "a",
        "a and b",
        "a, b and c",
    )
    assert (points(1.44), points(-0.26), points(-0.04)) == ("+1.4", "\N{MINUS SIGN}0.3", "0.0")
    assert (probability(0.0004), probability(0.0341)) == ("p < 0.001", "p = 0.034")
    assert percent(0.97125) == "97.1\N{NO-BREAK SPACE}%"

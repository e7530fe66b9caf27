from __future__ import annotations

import re
import sys
from html import unescape

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from layercache.errors import MissingExtraError
from layercache.reporting.page import (
    Block,
    CommandHint,
    FigureBlock,
    Gallery,
    Heading,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Tile,
)
from layercache.reporting.plotting.curves import lines

EVIL = '<script>alert("x")</script>'


def render(*blocks: Block) -> str:
    """The body of a page with one section of these blocks."""
    sections = [Section(title="s", blocks=blocks)]
    html = Page(title="t", headline=[], tiles=[], sections=sections, footer="f").html()
    return html[html.index("<main>") : html.index("</main>")]


def test_page_with_markup_in_names_escapes_it_everywhere():
    blocks = [
        Text(text=EVIL),
        Heading(text=EVIL),
        CommandHint(text=EVIL, commands=[EVIL]),
        Table(name="t", frame=pd.DataFrame({EVIL: [EVIL]}), caption=EVIL),
        Table(name=EVIL, frame=pd.DataFrame({"a": [1]}), caption=EVIL, max_rows=0),
        Gallery(caption=EVIL, pictures=[Picture(image=Image.new("L", (4, 4)), label=EVIL)]),
        FigureBlock(
            name="f",
            figure=lines([1, 2], series={EVIL: [1, 2]}, xlabel=EVIL, title=EVIL),
            caption=EVIL,
        ),
    ]
    page = Page(
        title=EVIL,
        headline=[EVIL],
        tiles=[Tile(number=EVIL, label=EVIL)],
        sections=[Section(title=EVIL, blocks=blocks)],
        footer=EVIL,
    ).html()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 20


def test_page_with_template_syntax_in_names_shows_it_as_text():
    page = Page(
        title="{{ page.footer }}", headline=["costs $5 {% if"], tiles=[], sections=[], footer="#}"
    ).html()
    assert "<h1>{{ page.footer }}</h1>" in page
    assert "costs $5 {% if" in page


def test_page_without_jinja2_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"jinja2.*pip install -e '\.\[report\]'"):
        render(Text(text="t"))


def test_table_longer_than_max_rows_names_its_file():
    frame = pd.DataFrame({"a": np.arange(30), "b": [1.23456] * 29 + [np.nan]})
    cut = render(Table(name="numbers", frame=frame, caption="All.", max_rows=2))
    assert cut.count("<tr>") == 3
    assert "All. All 30 rows are in tables/numbers.csv." in cut
    assert "1.23</td>" in cut
    whole = render(Table(name="numbers", frame=frame, caption="All."))
    assert "rows are in" not in whole
    assert '<td class="number"></td>' in whole
    only_named = render(Table(name="numbers", frame=frame, caption="All.", max_rows=0))
    assert "<table" not in only_named
    assert "All. 30 rows in <code>tables/numbers.csv</code>." in only_named
    one = render(Table(name="numbers", frame=frame[:1], caption="All.", max_rows=0))
    assert "All. 1 row in <code>" in one


def test_table_of_booleans_shows_yes_and_no():
    html = render(Table(name="t", frame=pd.DataFrame({"s": [True, False]}), caption=""))
    assert ">yes<" in html
    assert ">no<" in html


def test_gallery_shows_small_thumbnails_where_images_are_available():
    big = Image.new("RGB", (4000, 3000), (1, 2, 3))
    pictures = [Picture(image=big, label="one"), Picture(image=None, label="two")]
    html = render(Gallery(caption="c", pictures=pictures))
    assert html.count("<img") == 1
    assert html.count("<li>") == 2
    assert len(html) < 5000


def test_command_hint_folds_whole_commands():
    commands = ["layercache probe --model a --head linear", "layercache report --out 'a --b c'"]
    html = render(CommandHint(text="To train them:", commands=commands))
    box = html[html.index("<details") : html.index("</details>")]
    assert "<details open" not in html
    assert "<summary>To train them:</summary>" in box
    # the text to select is the commands themselves; a line may break between spans only
    assert unescape(re.sub("<[^>]*>", "", box[box.index("<pre>") :])) == "\n".join(commands)
    parts = [unescape(part) for part in re.findall('<span class="part">(.*?)</span>', box)]
    assert parts[:3] == ["layercache probe", "--model a", "--head linear"]
    between = re.sub('<span class="part">.*?</span>', "", box[box.index("<pre>") :])
    assert re.sub("<[^>]*>", "", between).split() == []


def test_command_hint_without_commands_is_not_folded():
    html = render(CommandHint(text="There is nothing to test yet."))
    assert "<details" not in html
    assert '<p class="missing">There is nothing to test yet.</p>' in html

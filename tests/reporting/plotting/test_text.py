from __future__ import annotations

import logging

import pytest
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from layercache.reporting.plotting import text as text_module
from layercache.reporting.plotting.curves import dumbbells
from layercache.reporting.plotting.figure import save_figure
from layercache.reporting.plotting.text import FONT, text_width, wrap_text

UNASSIGNED = "\U000e0100"
"""A variation selector, which is in no text font."""


def characters_of(family):
    return set(map(chr, get_font(findfont(FontProperties(family=family))).get_charmap()))


def draw(name):
    return dumbbells(
        [name], before=[3], after=[1], names=("old", "new"), xlabel="images", title=name
    )


def shown_texts(figure):
    return [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]


def test_wrap_text_breaks_between_words_then_within_long_ones():
    assert wrap_text("a few short words", inches=9, points=10) == "a few short words"
    lines = wrap_text("one two three", inches=0.75, points=10).split("\n")
    assert lines == ["one two", "three"]
    lines = wrap_text("x " + 30 * "y", inches=1, points=10).split("\n")
    assert lines[0] == "x"
    assert "".join(lines[1:]) == 30 * "y"
    assert all(text_width(line, points=10) <= 1 for line in lines)
    # wide characters take about twice the space
    assert len(wrap_text(30 * "猫", inches=1, points=10).split("\n")[0]) == 7
    assert wrap_text("猫猫", inches=0.01, points=10) == "猫\n猫"


@pytest.mark.parametrize("name", ["$5 note taken for $10 note", r"x_{2}^3 \alpha", r"$\frac{"])
def test_names_with_dollars_and_backslashes_are_plain_text(name, tmp_path):
    figure = draw(name)
    (path,) = save_figure(figure, tmp_path / "a.svg")
    assert path.read_text().count(f">{name}<") == 2


def test_characters_without_a_font_are_logged_once_and_kept_in_svg(tmp_path, caplog):
    text_module._log_missing_fonts.cache_clear()
    with caplog.at_level(logging.WARNING):
        for name in (f"a{UNASSIGNED}", f"b{UNASSIGNED}"):
            paths = save_figure(draw(name), tmp_path / "figure")
            assert name in paths[1].read_text()
    assert [r.name for r in caplog.records] == ["layercache.reporting.plotting.text"]
    assert "no installed font has" in caplog.text


def test_characters_of_another_installed_font_use_it(tmp_path, caplog):
    """STIXGeneral comes with matplotlib and has signs that DejaVu Sans lacks."""
    sign = min(c for c in characters_of("STIXGeneral") - characters_of(FONT) if c.isprintable())
    figure = draw(f"sign {sign}")
    families = {t.get_text(): t.get_family() for t in shown_texts(figure)}
    used = families[f"sign {sign}"]
    assert used[0] == FONT
    assert any(sign in characters_of(family) for family in used[1:])
    assert families["images"] == [FONT]
    save_figure(figure, tmp_path / "figure")
    assert caplog.records == []

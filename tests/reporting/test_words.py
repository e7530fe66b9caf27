from __future__ import annotations

from layercache.reporting.words import count, listed, percent, points, probability


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

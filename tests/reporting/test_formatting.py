from __future__ import annotations

from layercache.reporting.formatting import (
    format_p_value,
    format_percent,
    format_points,
)


def test_format_points_has_a_sign_unless_zero():
    points = [format_points(value) for value in (1.44, -0.26, -0.04)]
    assert points == ["+1.4", "\N{MINUS SIGN}0.3", "0.0"]


def test_format_p_value_has_a_lower_limit():
    assert (format_p_value(0.0004), format_p_value(0.0341)) == ("< 0.001", "0.034")


def test_format_percent_has_one_decimal():
    assert format_percent(0.97125) == "97.1\N{NO-BREAK SPACE}%"

"""The progress bar of a study."""

from __future__ import annotations

import io
import sys

import pytest

from layercache.study.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal_shows_job_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Bar(total=4.0, show=True) as bar:
        assert bar.shown
        bar.describe("1/2 " + "a long name " * 10)
        bar.advance(1.0)
        bar.advance(3.0)
    drawn = screen.getvalue()
    assert " 25%" in drawn
    assert "100%" in drawn
    assert " left | 1/2 a long name" in drawn
    assert "…" in drawn


@pytest.mark.parametrize(
    ("total", "show", "screen"),
    [(4.0, True, io.StringIO()), (4.0, False, Terminal()), (0.0, True, Terminal())],
)
def test_bar_without_terminal_prints_nothing(
    total: float, show: bool, screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", screen)
    with Bar(total=total, show=show) as bar:
        assert not bar.shown
        bar.describe("x")
        bar.advance(1.0)
    assert screen.getvalue() == ""

from __future__ import annotations

import pytest

from layercache import _progress
from layercache._progress import ProgressBar
from tests.clock import Clock
from tests.logs import logged


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


def test_without_a_terminal_a_line_is_logged_every_30_seconds(clock: Clock) -> None:
    with logged() as lines, ProgressBar("train", unit="images", total=36_000, done=6_000) as bar:
        for _ in range(61):
            clock.now += 1
            bar.advance(200)
    assert lines == [
        "train: 33 %, 12,000 of 36,000 images, 200 images/s, about 2 min left",
        "train: 50 %, 18,000 of 36,000 images, 200 images/s, about 2 min left",
    ]


def test_bytes_of_an_unknown_total_are_logged_with_their_rate(clock: Clock) -> None:
    with logged() as lines, ProgressBar("weights", unit="B") as bar:
        clock.now += 31
        bar.advance(62_000_000)
        bar.restart(100_000_000)
        clock.now += 40
        bar.advance(60_000_000)
    assert lines == [
        "weights: 62 MB, 2 MB/s",
        "weights: 60 %, 60 MB of 100 MB, 1.5 MB/s, about 27 s left",
    ]


def test_short_work_logs_nothing(clock: Clock) -> None:
    with logged() as lines, ProgressBar("train", unit="images", total=10) as bar:
        clock.now += 29
        bar.move_to(10)
    assert lines == []

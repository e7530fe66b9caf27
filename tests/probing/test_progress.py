from __future__ import annotations

from typing import Any

import pytest

from layercache.engine import Progress
from layercache.probing import progress
from layercache.probing.progress import ProgressDisplay
from tests.logs import logged


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def run(display: ProgressDisplay, clock: Clock, messages: Any) -> None:
    for task, done, total in messages:
        clock.now += 1
        display.on_progress(task, Progress(done, total))


def test_progress_without_a_terminal_is_logged_every_minute_with_the_time_left(
    clock: Clock,
) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.one_probe("attentive all seed 0"):
        run(display, clock, [("search", step, 1000) for step in range(1, 131)])
        run(display, clock, [("refit", step, 100) for step in range(1, 101)])
    assert lines == [
        "attentive all seed 0: 6 % trained, about 16 min left",
        "attentive all seed 0: 12 % trained, about 15 min left",
        "attentive all seed 0: 61 % trained, about 39 s left",
    ]


def test_progress_of_a_continued_fit_measures_the_rate_from_there(clock: Clock) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.one_probe("attentive all seed 0"):
        run(display, clock, [("search", step, 1000) for step in range(901, 970)])
    assert lines == ["attentive all seed 0: 96 % trained, about 39 s left"]


def test_progress_of_many_tasks_is_logged_over_all_of_them(clock: Clock) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.many_tasks(4):
        run(display, clock, [("one", step, 100) for step in range(1, 101)])
        display.on_done("one")
    assert lines == ["4 fits: 15 % trained, about 6 min left"]

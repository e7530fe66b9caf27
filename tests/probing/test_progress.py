from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command

from layercache import _progress
from layercache.engine import Progress
from layercache.probing.heads.spec import HEADS
from layercache.probing.progress import FASTER_WAYS, ProgressDisplay
from layercache_cli.main import build
from tests.clock import Clock
from tests.logs import logged


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


def run(display: ProgressDisplay, clock: Clock, messages: Any) -> None:
    for task, done, total in messages:
        clock.now += 1
        display.on_progress(task, Progress(done, total))


def test_progress_without_a_terminal_is_logged_with_rate_time_left_and_best_score(
    clock: Clock,
) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.one_probe("attentive all seed 0"):
        run(display, clock, [("search", step, 500) for step in range(1, 40)])
        display.set_note("best validation accuracy 93.00 %")
        run(display, clock, [("search", step, 500) for step in range(40, 70)])
        run(display, clock, [("refit", step, 100) for step in range(1, 40)])
    assert lines == [
        "attentive all seed 0: about 8 min for 494 more steps",
        "attentive all seed 0: 6 %, 31 of 500 steps, 1.0 steps/s, about 8 min left",
        "attentive all seed 0: 12 %, 61 of 500 steps, 1.0 steps/s, about 7 min left; "
        "best validation accuracy 93.00 %",
        "attentive all seed 0: 31 %, 31 of 100 steps, 1.0 steps/s, about 69 s left; "
        "best validation accuracy 93.00 %",
    ]


def test_estimate_of_a_search_in_stages_covers_the_later_ones(clock: Clock) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.one_probe("attentive all seed 0"):
        for step in range(1, 11):
            clock.now += 1
            display.on_progress("search", Progress(step, 106), work_left=3.0)
    assert lines == [
        "attentive all seed 0: about 5 min for 100 more steps and the rest of the search"
    ]


def test_tasks_that_a_search_adds_count(clock: Clock) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.many_tasks(2):
        display.add_tasks(2)
        run(display, clock, [("one", step, 100) for step in range(1, 41)])
    assert lines == ["2 fits: 8 %, about 6 min left"]


def test_a_long_search_names_faster_ways_once(clock: Clock) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines:
        for _ in range(2):
            with display.one_probe("attentive all seed 0"):
                run(display, clock, [("search", step, 7200) for step in range(1, 11)])
    assert [line for line in lines if "about" in line] == [
        "attentive all seed 0: about 2.0 h for 7,194 more steps"
    ] * 2
    assert lines.count(FASTER_WAYS) == 1


def test_progress_of_a_continued_fit_measures_the_rate_from_there(clock: Clock) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.one_probe("attentive all seed 0"):
        run(display, clock, [("search", step, 1000) for step in range(901, 940)])
    assert lines == [
        "attentive all seed 0: about 2 min for 94 more steps",
        "attentive all seed 0: 93 %, 931 of 1,000 steps, 1.0 steps/s, about 69 s left",
    ]


def test_progress_of_many_tasks_is_logged_over_all_of_them(clock: Clock) -> None:
    display = ProgressDisplay(show=False)
    with logged() as lines, display.many_tasks(4):
        run(display, clock, [("one", step, 100) for step in range(1, 41)])
        display.on_done("one")
    assert lines == ["4 fits: 8 %, about 6 min left"]


def test_the_faster_ways_are_options_and_heads_that_exist() -> None:
    command = get_command(build("probe", debug=False)).commands["probe"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", FASTER_WAYS)) <= options
    assert "linear" in HEADS

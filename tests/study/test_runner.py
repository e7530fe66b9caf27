"""The runner: past a failed cell, resumable, and honest about what came of it. Its work is done by stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layercache.errors import DataNotFoundError, MissingExtraError
from layercache.study import runner as module
from layercache.study.file import Study, parse_study
from layercache.study.plan import PlannedExtraction, PlannedProbe
from layercache.study.runner import StudyResult, run_study, study_status
from tests.logs import logged

TEXT = """
models = ["vit_nano", "vit_b16"]
datasets = ["digits", "flowers"]
[[heads]]
head = "linear"
layers = "last"
tokens = "cls"
[[heads]]
head = "attentive"
"""


class StandIn:
    """Notes what it is asked for; `faults` maps a part of a cell's name to what it raises."""

    def __init__(self, faults: dict[str, BaseException] | None = None) -> None:
        self.faults = faults or {}
        self.asked: list[str] = []

    def _do(self, name: str) -> None:
        self.asked.append(name)
        for part, fault in self.faults.items():
            if part in name:
                raise fault

    def extract(self, cell: PlannedExtraction) -> Path:
        self._do(cell.name)
        return Path("/caches") / cell.dataset / cell.model

    def train(self, cell: PlannedProbe, cache: Path, beside: Path | None) -> Any:
        self._do(cell.name)
        assert cache == Path("/caches") / cell.dataset / cell.model
        return [SimpleNamespace(row={"test_balanced_accuracy": 0.5})]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return replace(
        parse_study(TEXT, where="s", name="s"), cache=tmp_path / "caches", out=tmp_path / "out"
    )


@pytest.fixture(autouse=True)
def _results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Results", list)


def run(study: Study, work: StandIn, **options: Any) -> tuple[StudyResult, list[str]]:
    with logged() as said:
        return run_study(study, work=work, progress=False, **{"report": False, **options}), said


def test_all_cells_are_done_in_order(study: Study) -> None:
    work = StandIn()
    outcome, said = run(study, work)
    assert work.asked == [status.cell.name for status in study_status(study)]
    assert (outcome.cells, outcome.done, outcome.failures, len(outcome.results)) == (12, 12, (), 8)
    assert said[0] == "vit_nano on digits: linear last cls: 50.00 %"


def test_a_failed_cell_holds_up_no_other(study: Study) -> None:
    faults = {
        "vit_nano on flowers: extract": DataNotFoundError("flowers: no files\nlook elsewhere"),
        "vit_b16 on digits: attentive": ValueError("odd"),
    }
    work = StandIn(faults)
    outcome, said = run(study, work)
    assert (outcome.cells, outcome.done) == (12, 12 - 3 - 1)
    assert [str(failure) for failure in outcome.failures] == [
        "vit_b16 on digits: attentive all cls+ap: unexpected ValueError: odd",
        "vit_nano on flowers: extract cls+ap of layers all (2 probes of it not tried): flowers: no files",
    ]
    assert "vit_nano on flowers: linear last cls" not in work.asked
    assert work.asked[-1] == "vit_b16 on flowers: attentive all cls+ap"
    assert any(line.startswith("FAILED vit_b16 on digits") for line in said)
    assert len(outcome.caches) == 3


def test_ctrl_c_says_what_is_kept_and_stops_at_once(study: Study) -> None:
    work = StandIn(
        {"vit_b16 on digits: extract": KeyboardInterrupt("2 of 9 row blocks are committed")}
    )
    with pytest.raises(
        KeyboardInterrupt,
        match=r"3 of 12 cells are complete and kept \(2 of 9 row blocks are committed\); the same command goes on",
    ):
        run(study, work)
    assert len(work.asked) == 4


def report_with(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]
) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def report(out: Path, **options: Any) -> Any:
        asked.append({"out": out, **options})
        return answer()

    monkeypatch.setattr("layercache.reporting.report", report)
    return asked


def test_the_report_is_on_the_study_s_caches(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = report_with(monkeypatch, lambda: SimpleNamespace(page=Path("page.html")))
    outcome, _ = run(replace(study, report={"details": 3}), StandIn(), report=True)
    assert outcome.page == Path("page.html")
    (options,) = asked
    assert (options["out"], options["root"], options["details"]) == (study.out, study.cache, 3)
    assert (options["model"], options["dataset"]) == (study.models, ["digits", "flowers"])


def test_without_the_extra_there_is_no_report_and_no_failure(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("matplotlib", "report")

    report_with(monkeypatch, missing)
    outcome, said = run(study, StandIn(), report=True)
    assert (outcome.page, outcome.failures) == (None, ())
    assert "pip install 'layercache[report]'" in said[-1]


def test_a_broken_report_is_a_failure(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    report_with(monkeypatch, lambda: 1 / 0)
    outcome, _ = run(study, StandIn(), report=True)
    assert [str(failure) for failure in outcome.failures] == [
        "report: unexpected ZeroDivisionError: division by zero"
    ]
    assert outcome.done == outcome.cells


def test_nothing_to_report_on_is_no_second_fault(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = report_with(monkeypatch, lambda: None)
    outcome, _ = run(study, StandIn({"": DataNotFoundError("nothing")}), report=True)
    assert not asked
    assert (outcome.done, len(outcome.failures)) == (0, 4)
    assert sum(failure.waiting for failure in outcome.failures) == 8

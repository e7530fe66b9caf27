"""The runner continues after a failed job, resumes, and reports failures; jobs are stand-ins."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layercache._interruption import Interrupted
from layercache.errors import DataNotFoundError, MissingExtraError
from layercache.study import runner as module
from layercache.study.file import Study, parse_study
from layercache.study.plan import PlannedExtraction, PlannedProbe
from layercache.study.result import Status, StudyResult
from layercache.study.runner import run_study, study_status
from layercache.study.schema import ReportTable
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
    """Notes what it is calls for; `faults` maps a part of a job's name to what it raises."""

    def __init__(self, faults: dict[str, BaseException] | None = None) -> None:
        self.faults = faults or {}
        self.calls: list[str] = []

    def _do(self, name: str) -> None:
        self.calls.append(name)
        for part, fault in self.faults.items():
            if part in name:
                raise fault

    def extract(self, job: PlannedExtraction) -> Path:
        self._do(job.name)
        return Path("/caches") / job.dataset / job.model

    def train(self, job: PlannedProbe, caches: Mapping[tuple[str, ...], Path]) -> Any:
        self._do(job.name)
        assert caches[job.cache.key] == Path("/caches") / job.dataset / job.model
        row, spec = {"test_balanced_accuracy": 0.5}, {"select": "balanced_accuracy"}
        return [SimpleNamespace(row=row, spec=spec, path=Path(job.name))]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folders = {"cache": str(tmp_path / "caches"), "out": tmp_path / "out"}
    return parse_study(TEXT, where="s", name="s").model_copy(update=folders)


@pytest.fixture(autouse=True)
def _results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Results", list)


def run(study: Study, work: StandIn, **options: Any) -> tuple[StudyResult, list[str]]:
    with logged() as said:
        return run_study(study, executor=work, progress=False, **{"report": False, **options}), said


def test_run_study_runs_all_jobs_in_order(study: Study) -> None:
    work = StandIn()
    result, said = run(study, work)
    assert work.calls == [status.job.name for status in study_status(study)]
    assert (result.jobs, result.done, result.failures, len(result.results)) == (12, 12, (), 8)
    assert said[0] == "vit_nano on digits: linear last cls: balanced accuracy 50.00 %"


def test_study_status_counts_a_forward_that_writes_two_caches_once(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = "".join(
        f'[[heads]]\nhead = "fusion"\nspatial = "{spatial}"\n' for spatial in ("patch", "grid:2")
    )
    both = parse_study(
        f'{TEXT}{heads}[model.vit_b16]\nstore = "pq:92"\n', where="s", name="s"
    ).model_copy(update={"cache": study.cache})

    def extractions() -> list[Status]:
        statuses = study_status(both)
        return [s for s in statuses if isinstance(s.job, PlannedExtraction)]

    patch, grid, pooled, *_ = missing = extractions()
    assert patch.seconds == grid.seconds > 0  # a forward for each choice of spatial tokens
    assert (pooled.seconds, pooled.same_forward, pooled.complete) == (0, patch.job, False)
    assert [status.same_forward is not None for status in missing] == [False, False, True] * 4

    def find_spatial(job: PlannedExtraction) -> object:
        return object() if job.options.spatial else None

    monkeypatch.setattr(module, "find_cache", find_spatial)
    alone = extractions()[2]  # the spatial tokens exist: the pooled ones take a forward
    assert (alone.seconds, alone.same_forward) == (patch.seconds, None)


def test_run_study_failed_job_does_not_stop_others(study: Study) -> None:
    faults = {
        "vit_nano on flowers: extract": DataNotFoundError("flowers: no files\nlook elsewhere"),
        "vit_b16 on digits: attentive": ValueError("odd"),
    }
    work = StandIn(faults)
    result, said = run(study, work)
    assert (result.jobs, result.done) == (12, 12 - 3 - 1)
    assert [str(failure) for failure in result.failures] == [
        "vit_b16 on digits: attentive all cls+ap: unexpected ValueError: odd",
        "vit_nano on flowers: extract cls+ap of layers all (2 probes of it not run): "
        "flowers: no files",
    ]
    assert "vit_nano on flowers: linear last cls" not in work.calls
    assert work.calls[-1] == "vit_b16 on flowers: attentive all cls+ap"
    assert any(line.startswith("FAILED vit_b16 on digits") for line in said)
    assert len(result.caches) == 3


def test_run_study_interrupted_stops_and_reports_what_is_kept(study: Study) -> None:
    stop = Interrupted("2 of 9 row blocks are committed", signum=signal.SIGTERM)
    work = StandIn({"vit_b16 on digits: extract": stop})
    with pytest.raises(
        Interrupted,
        match=r"3 of 12 jobs are complete and kept \(2 of 9 row blocks are committed\); "
        r"the same command continues",
    ) as raised:
        run(study, work)
    assert raised.value.signum == signal.SIGTERM
    assert len(work.calls) == 4


def report_with(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]
) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def report(out: Path, **options: Any) -> Any:
        calls.append({"out": out, **options})
        return answer()

    monkeypatch.setattr("layercache.reporting.report", report)
    return calls


def test_run_study_hands_its_own_probes_and_caches_to_the_report(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = report_with(monkeypatch, lambda: SimpleNamespace(page=Path("page.html")))
    result, _ = run(
        study.model_copy(update={"report": ReportTable(details=3)}), StandIn(), report=True
    )
    assert result.page == Path("page.html")
    (options,) = calls
    assert (options["out"], options["root"], options["details"]) == (study.out, study.cache, 3)
    assert (options["model"], options["dataset"]) == (study.models, ["digits", "flowers"])
    assert options["probes"] == tuple(result.results)
    assert len(options["probes"]) == 8


def test_run_study_missing_extra_skips_the_report(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("matplotlib", "report")

    report_with(monkeypatch, missing)
    result, said = run(study, StandIn(), report=True)
    assert (result.page, result.failures) == (None, ())
    assert "pip install -e '.[report]'" in said[-1]


def test_run_study_report_raises_is_a_failure(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_with(monkeypatch, lambda: 1 / 0)
    result, _ = run(study, StandIn(), report=True)
    assert [str(failure) for failure in result.failures] == [
        "report: unexpected ZeroDivisionError: division by zero"
    ]
    assert result.done == result.jobs


def test_run_study_no_probes_adds_no_report_failure(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = report_with(monkeypatch, lambda: None)
    result, _ = run(study, StandIn({"": DataNotFoundError("nothing")}), report=True)
    assert not calls
    assert (result.done, len(result.failures)) == (0, 4)
    assert sum(failure.waiting for failure in result.failures) == 8

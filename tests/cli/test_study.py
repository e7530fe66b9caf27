"""`layercache study`: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import layercache.study
from layercache.study import Failure
from layercache_cli.main import main

TEXT = (
    'models = ["vit_nano"]\ndatasets = ["digits"]\nout = "o"\n'
    '[[heads]]\nhead = "linear"\nlayers = "last"\ntokens = "cls"\n'
)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(("study", *words))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "s.toml").write_text(TEXT)
    return tmp_path / "s.toml"


class Printed(list[Any]):
    def to_text(self) -> str:
        return "the table"


def answer(monkeypatch: pytest.MonkeyPatch, *failures: Failure) -> list[tuple[Any, dict[str, Any]]]:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def stand_in(study: Any, **options: Any) -> Any:
        calls.append((study, options))
        return SimpleNamespace(
            results=Printed(["probe"]),
            done=2 - len(failures),
            jobs=2,
            page=Path("o/index.html"),
            failures=failures,
        )

    monkeypatch.setattr(layercache.study, "run_study", stand_in)
    return calls


def test_study_dry_run_lists_jobs_and_runs_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, str(file), "--dry-run", "--cache", str(tmp_path / "caches"))
    assert code == 0
    assert out.splitlines() == [
        "missing   vit_nano on digits: extract cls+ap of layers all",
        "missing   vit_nano on digits: linear last cls",
        "2 jobs, 0 complete, 2 missing",
    ]
    assert not (tmp_path / "caches").exists()


def test_study_dry_run_says_which_caches_share_a_forward(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(TEXT + '[[heads]]\nhead = "fusion"\nspatial = "grid:2"\n')
    code, out, _ = run(capsys, str(file), "-n", "--cache", str(tmp_path / "caches"))
    assert code == 0
    assert out.splitlines()[:2] == [
        "missing   vit_nano on digits: extract grid:2 of layers last",
        "missing   vit_nano on digits: extract cls+ap of layers all "
        "(in the forward pass of grid:2 of layers last)",
    ]


def test_study_complete_prints_table_and_page(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = answer(monkeypatch)
    code, out, err = run(
        capsys,
        str(file),
        "--cache",
        str(tmp_path),
        "--out",
        str(tmp_path / "r"),
        "--yes",
        "--no-report",
    )
    assert (code, err) == (0, "")
    assert out == "\nthe table\n\n2 of 2 jobs are complete\nreport: o/index.html\n"
    ((study, options),) = calls
    assert (study.cache, study.out, options["confirm"], options["report"]) == (
        str(tmp_path),
        tmp_path / "r",
        False,
        False,
    )


def test_study_failed_jobs_are_listed_with_exit_1(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = answer(
        monkeypatch, Failure(job="vit_nano on digits: linear last cls", reason="no room")
    )
    code, out, err = run(capsys, str(file))
    assert code == 1
    assert "1 of 2 jobs are complete" in out
    assert err.splitlines()[1:3] == ["1 failed:", "  vit_nano on digits: linear last cls: no room"]
    assert "are not run again" in err
    assert calls[0][0].out == Path("o")


def test_study_wrong_file_prints_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(TEXT.replace("out", "ouut"))
    code, _, err = run(capsys, str(file))
    assert code == 1
    assert err.startswith(f"error: unknown key in {file} 'ouut': did you mean out")
    assert "Traceback" not in err

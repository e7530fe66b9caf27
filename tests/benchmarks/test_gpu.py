from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import log_gpu
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.context import Context
from benchmarks.gpu.rates import least_seconds
from benchmarks.gpu.report import TITLES, count_failures, format_report

ROOT = Path(__file__).parents[2]


def row(what: str = "vit_b16, bf16, resident", **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"what": what, "value": 4321.98, "unit": "images/s"}
    given |= {"ratios": {"bare": 0.981, "roofline": 0.5}, "target": "bare >= 0.97", "note": "how"}
    return given | changes


def results(*rows: dict[str, Any], error: str = "") -> dict[str, Any]:
    return {
        "date": "2026-11-30",
        "machine": "a machine",
        "device": "cuda",
        "tiny": False,
        "command": "make bench-gpu",
        "seconds": 401.2,
        "parts": {"extraction": {"rows": list(rows), "error": error}},
    }


def test_report_has_the_ratios_in_their_columns_and_judges_the_target() -> None:
    text = format_report(results(row(), row(ratios={"bare": 0.96}), row(ratios={})))
    met, missed, absent = text.splitlines()[4:7]
    assert met == (
        "| Extraction | vit_b16, bf16, resident | 4322 images/s | 0.981 | 0.5 |  |  |  "
        "| over the bare forward >= 0.97: met | how |"
    )
    assert "| 0.96 |  |  |  |  | over the bare forward >= 0.97: **missed** |" in missed
    assert "over the bare forward >= 0.97: not measured" in absent
    assert "Failed" not in text


def test_report_lists_what_failed_with_its_error() -> None:
    failed = results(
        row(), {"what": "vit_l16", "error": "out of memory"}, error="stopped after 9 s"
    )
    text = format_report(failed)
    assert "* **Extraction, vit_l16**: out of memory\n* **Extraction**: stopped after 9 s\n" in text
    assert count_failures(failed["parts"].values()) == 2


def test_log_gpu_appends_a_section_and_refuses_tiny_sizes(tmp_path: Path) -> None:
    file, log = tmp_path / "gpu.json", tmp_path / "LOG.md"
    log.write_text("# Measurements\n")
    file.write_text(json.dumps(results(row())))
    log_gpu.main([str(file), "--append", "--log", str(log)])
    assert log.read_text().startswith(
        "# Measurements\n\n## 2026-11-30, on a GPU: `make bench-gpu`\n\na machine. Device cuda; 401"
    )
    file.write_text(json.dumps(results() | {"tiny": True}))
    with pytest.raises(SystemExit, match="made with --tiny, which measures nothing"):
        log_gpu.main([str(file), "--append", "--log", str(log)])


def test_roofline_is_the_larger_of_arithmetic_and_memory() -> None:
    rates = {"GFLOP/s fp32": 10.0, "GFLOP/s bf16": 100.0, "GB/s": 5.0}
    assert least_seconds(rates, flop=2e9, precision="fp32") == pytest.approx(0.2)
    assert least_seconds(rates, flop=2e9, precision="bf16", nbytes=1e9) == pytest.approx(0.2)
    assert least_seconds({}, flop=2e9, precision="fp32") is None


def test_a_measurement_without_time_is_left_out_aloud(tmp_path: Path) -> None:
    context = Context("cpu", True, time.monotonic() + 50, tmp_path / "rows")
    assert context.has_time("short", least=10)
    context.took("long", 60)
    assert not context.has_time("long one", kind="long")
    (line,) = (tmp_path / "rows").read_text().splitlines()
    assert json.loads(line)["error"].endswith("s left, 72 s expected")


def run(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 30
) -> tuple[int, dict[str, Any]]:
    """The command with two parts of which each is the given code."""
    part = tmp_path / "part.py"
    lines = ["import sys, os, time, json", f"sys.path.insert(0, {str(ROOT)!r})"]
    lines += ["rows = open(sys.argv[sys.argv.index('--rows-file') + 1], 'a')"]
    part.write_text("\n".join(lines) + "\n" + textwrap.dedent(code))
    monkeypatch.setattr(command, "PART", part)
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--tiny", "--out", str(out), "--limit", str(seconds)]
    status = command.main([*options, "--parts", "rates", "step"])
    return status, json.loads(out.read_text())


def test_a_part_that_crashes_is_reported_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"""
        rows.write({json.dumps(row("first"))!r} + "\\n"); rows.flush()
        if sys.argv[1] == "rates":
            raise MemoryError("no room on the device")
        """
    status, written = run(code, tmp_path, monkeypatch)
    assert status == 1
    assert written["parts"]["rates"]["error"] == "exit status 1: MemoryError: no room on the device"
    assert [r["what"] for r in written["parts"]["rates"]["rows"]] == ["first"]
    assert written["parts"]["step"]["error"] == ""
    assert "1 FAILED OR LEFT OUT" in capsys.readouterr().out


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.split(") ")[1][0] != "Z"


def test_a_part_that_hangs_is_stopped_in_time_with_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
        rows.write({json.dumps(row("first"))!r} + "\\n"); rows.flush()
        if os.fork() == 0:
            open({str(tmp_path / "child")!r}, "w").write(str(os.getpid()))
        time.sleep(600)
        """
    began = time.monotonic()
    status, written = run(code, tmp_path, monkeypatch, seconds=6)
    assert time.monotonic() - began < 60
    assert status == 1
    assert written["parts"]["rates"]["error"].startswith("stopped after")
    assert [r["what"] for r in written["parts"]["rates"]["rows"]] == ["first"]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 30  # on a busy machine a killed process still waits for its turn
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_without_a_device_or_a_package_it_ends_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"finds no CUDA device .* --device cpu --tiny"):
        command.main([])
    monkeypatch.setattr(command, "NEEDED", ("torch", "no_such_module"))
    with pytest.raises(SystemExit, match=r"has no no_such_module: pip install .* CONTRIBUTING.md"):
        command.main(["--device", "cpu"])


def test_every_part_has_a_title_and_a_share_of_less_than_eight_minutes() -> None:
    assert set(command.SHARES) == set(TITLES)
    assert sum(command.SHARES.values()) < 480
    for name in command.SHARES:
        assert (ROOT / "benchmarks" / "gpu" / f"{name}.py").exists()


@pytest.mark.slow
@pytest.mark.alone
def test_every_part_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(out.read_text())
    assert [len(part["rows"]) > 0 for part in written["parts"].values()] == [True] * 6
    assert format_report(written) in done.stdout

from __future__ import annotations

import pytest

from layercache_cli.main import main
from tests.reporting import synthetic


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_report_writes_the_page_and_prints_the_result(tmp_path, capsys):
    cache = synthetic.make_cache(tmp_path / "caches")
    synthetic.save_probe(
        cache, head="linear", layers="last", tokens="cls", correct=synthetic.first(80)
    )
    synthetic.save_probe(
        cache, head="attentive", layers="all", tokens="cls+ap", correct=synthetic.first(120)
    )
    code, out, _ = run(
        capsys,
        "report",
        "--cache",
        str(tmp_path / "caches"),
        "--out",
        str(tmp_path / "out"),
        "--dataset",
        "toys",
        "--metrics",
        "roc_auc,ece",
    )
    assert code == 0
    table = (tmp_path / "out" / "tables" / "metrics.csv").read_text()
    assert "roc_auc,expected_calibration_error" in table
    assert "+25.0 points" in out
    assert "no thumbnails of toys: unknown dataset 'toys'" in out
    assert f"page: {tmp_path / 'out' / 'index.html'}" in out
    assert (tmp_path / "out" / "index.html").read_text().startswith("<!doctype html>")


def test_report_without_a_cache_is_one_line_and_exit_code_1(tmp_path, capsys):
    code, _, err = run(capsys, "report", "--cache", str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 1
    assert err.startswith(f"error: no cache of any model and dataset below {tmp_path}, found none:")
    assert not (tmp_path / "out").exists()

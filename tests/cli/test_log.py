"""What the library logs, on the command line and without it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from tqdm import tqdm

from layercache_cli._log import hide_probe_log, log_to_stdout

logger = logging.getLogger("layercache.anything")


def test_log_within_a_command_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    logger.info("before")
    with log_to_stdout(debug=False):
        logger.info("a %s", "line")
        logger.debug("a detail")
    logger.info("after")
    assert capsys.readouterr() == ("a line\n", "")


def test_log_during_a_progress_bar_stays_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stdout(debug=False), tqdm(total=2) as bar:
        bar.update()
        logger.info("a line")
    out, err = capsys.readouterr()
    assert out == "a line\n"
    assert "2/2" not in out
    assert "1/2" in err


def test_log_of_probes_is_hidden_in_a_command_that_trains_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    probing = logging.getLogger("layercache.probing.runner")
    with log_to_stdout(debug=False), hide_probe_log():
        probing.info("device cpu")
        logger.info("kept")
    assert capsys.readouterr().out == "kept\n"


def test_library_imported_by_a_program_prints_nothing(tmp_path: object) -> None:
    code = (
        "import layercache\n"
        "layercache.extract(models=['vit_nano'], dataset='digits', limit=8, "
        f"cache={str(tmp_path)!r}, progress=False, workers=0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")

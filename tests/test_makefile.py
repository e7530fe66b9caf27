"""The parts of `make slow`: every test once, and a failure of either part is one of the whole."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def parts_of_slow() -> list[str]:
    """Return the marker expressions of `make slow`, in order."""
    recipe = re.search(r"^slow:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    return re.findall(r'-m "([^"]+)"', recipe[1])


def test_slow_and_real_tests_are_in_exactly_one_part_of_make_slow() -> None:
    parts = parts_of_slow()
    assert len(parts) == 2
    for slow, real, alone in product([False, True], repeat=3):
        marks = {"slow": slow, "real": real, "alone": alone}
        chosen = [eval(part, {}, marks) for part in parts]
        wanted = slow or real
        assert chosen == [wanted and not alone, wanted and alone], marks


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("failing", [None, 0, 1])
def test_make_slow_runs_both_parts_and_fails_if_one_fails(
    tmp_path: Path, failing: int | None
) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    python = bin_folder / "python"
    wrong = "no part" if failing is None else parts_of_slow()[failing]
    python.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/runs\n! expr "$*" : ".*-m {wrong}$"\n')
    python.chmod(0o755)
    (tmp_path / ".dev").touch()
    done = subprocess.run(
        ["make", "slow", f"VENV={tmp_path}", f"BIN={bin_folder}"], cwd=ROOT, capture_output=True
    )
    runs = (tmp_path / "runs").read_text().splitlines()
    assert [run.partition("-m pytest")[2].partition(" -m ")[2] for run in runs] == parts_of_slow()
    assert (done.returncode == 0) == (failing is None)

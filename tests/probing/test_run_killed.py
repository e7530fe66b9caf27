"""A search that a signal ends, then the same search: the bits are those of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from layercache import probe
from layercache.probing.results.training_checkpoints import FOLDER
from layercache.probing.training.config import TrainConfig

PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run with nohup
from layercache.probing.training import autosave
from layercache_cli.main import main
autosave.SAVE_INTERVAL_S = 0
autosave.MAX_SAVE_SHARE = 1
main()
"""
WORDS = ["probe", "--head", "attentive", "--lr", "0.01,0.001", "--weight-decay", "0.0001"]
WORDS += ["--dropout", "0,0.3"]
STEPS = 80
GRID: dict[str, Any] = {"lr": [0.01, 0.001], "weight_decay": 1e-4, "dropout": [0.0, 0.3]}


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *WORDS, "--cache", str(root)]
    return subprocess.Popen(
        [*command, "--epochs", "1", "--min-steps", str(STEPS), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def saves(folder: Path) -> set[int]:
    """Times in ns at which the files of unfinished training were written."""
    found = set()
    for file in folder.glob(f"probes/*/{FOLDER}/*"):
        with suppress(FileNotFoundError):
            if file.is_file():
                found.add(file.stat().st_mtime_ns)
    return found


def kill_once_saved(process: subprocess.Popen[str], folder: Path, sig: int) -> tuple[str, str]:
    """Wait until training is saved anew, twice, send the signal, and return what was printed."""
    before, deadline = saves(folder), time.monotonic() + 120
    seen = set(before)
    while len(seen - before) < 2 and time.monotonic() < deadline and process.poll() is None:
        seen |= saves(folder)
        time.sleep(0.005)
    process.send_signal(sig)
    return process.communicate(timeout=60)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    "sigs",
    [
        (signal.SIGTERM, signal.SIGINT),
        pytest.param((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL), marks=pytest.mark.slow),
    ],
)
def test_search_ended_by_signals_is_continued_to_the_same_bits(
    planted: Callable[..., Any], tmp_path: Path, sigs: tuple[signal.Signals, ...]
) -> None:
    config = TrainConfig(epochs=1, min_steps=STEPS)
    (whole,) = probe(planted(), **GRID, train_config=config)
    cache = planted(root=tmp_path / "killed")
    step = -1
    for sig in sigs:
        process = start(tmp_path / "killed")
        out, err = kill_once_saved(process, cache.path, sig)
        assert ("continues: 4 configurations are saved at step" in out) == (step >= 0), out
        if sig == signal.SIGKILL:
            assert process.returncode == -sig
            step = max(step, 0)
            continue
        assert process.returncode == 128 + sig, err
        start_of_line = (
            "\ninterrupted: attentive all cls+ap seed 0: 4 configurations are saved at step "
        )
        assert err.startswith(start_of_line), err
        assert err.endswith(f" of {STEPS}; the same command continues from there\n")
        assert err.count("\n") == 2, "one line"
        last, step = step, int(err.removeprefix(start_of_line).split()[0])
        assert last < step < STEPS
    (continued,) = probe(cache, **GRID, train_config=config)
    assert {**continued.row, "train_seconds": 0} == {**whole.row, "train_seconds": 0} | {
        "fingerprint": continued.row["fingerprint"]
    }
    for name in ("head.safetensors", "predictions.npz"):
        assert files(continued.path)[name] == files(whole.path)[name]
    assert not (continued.path / FOLDER).exists()

"""kill -9 at any moment, then the same command: it continues, and ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.extraction.fakes import tree
from tests.extraction.killing import DIED

ROOT = Path(__file__).parents[2]


def kills(folder: Path, *, stride: int, start: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.extraction.killing", str(folder), str(stride), str(start)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole, *rest = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rest) == len(range(start, whole["operations"], stride)) > 0
    for kill in rest:
        assert (kill["killed"], kill["continued"], kill["same"]) == (DIED, 0, True), kill
        kill["whole"] = whole["images"]
    return rest


def test_a_run_that_dies_at_the_disk_is_continued_to_the_same_bytes(tmp_path: Path) -> None:
    done = kills(tmp_path, stride=97, start=17)
    images = [kill["images"] for kill in done]
    assert images[0] == done[0]["whole"], "nothing was committed yet"
    assert images[-1] < done[0]["whole"], "what was committed is not done again"
    assert images == sorted(images, reverse=True)


@pytest.mark.slow
def test_at_every_single_operation(tmp_path: Path) -> None:
    done = kills(tmp_path, stride=1)
    assert {"writev", "fsync", "os.rename", "open", "os.mkdir"} <= {kill["died"] for kill in done}


COMMAND = [
    sys.executable,
    "-m",
    "layercache_cli.main",
    "extract",
    "--model",
    "vit_nano",
    "--dataset",
    "digits",
    "--limit",
    "192",
    "--batch-size",
    "8",
]
SMALL_BLOCKS = "import layercache.cache.layout as l; l.SHARD_LIMIT = 150_000; from layercache_cli.main import main; main()"


def command(cache: Path, workers: int) -> list[str]:
    """The real program, with row blocks of 16 images."""
    return [sys.executable, "-c", SMALL_BLOCKS, *COMMAND[3:], "--cache", str(cache), "--workers", str(workers)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_real_signals_at_random_moments(tmp_path: Path, sig: signal.Signals, workers: int) -> None:
    subprocess.run(command(tmp_path / "whole", workers), check=True, capture_output=True)
    rng = random.Random(sig.value)
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command(tmp_path / "cut", workers), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        before = committed(tmp_path / "cut")
        deadline = time.monotonic() + 60
        while process.poll() is None and committed(tmp_path / "cut") == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        if process.poll() is None:
            os.kill(process.pid, sig)
            kills += 1
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        if sig == signal.SIGKILL:
            assert process.returncode == -sig
        else:
            assert process.returncode == 130
            assert "row blocks are committed and kept; the same command continues there" in err
    assert process.returncode == 0, err
    assert kills > 2
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def committed(cache: Path) -> int:
    return len(list(cache.glob("*/*/*/commits/*/*.json")))

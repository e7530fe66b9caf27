"""kill -9 at any moment, then the same command: it ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
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
        [sys.executable, "-m", "tests.extraction.killing", str(folder), str(stride), str(start)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    whole, *rest = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rest) == len(range(start, whole["operations"], stride)) > 0
    for kill in rest:
        assert (kill["killed"], kill["continued"], kill["same"]) == (DIED, 0, True), kill
        kill["whole"] = whole["images"]
    return rest


def test_extract_that_dies_at_the_disk_is_continued_to_the_same_bytes(tmp_path: Path) -> None:
    done = kills(tmp_path, stride=97, start=17)
    images = [kill["images"] for kill in done]
    assert images[0] == done[0]["whole"], "nothing was committed yet"
    assert images[-1] < done[0]["whole"], "what was committed is not done again"
    assert images == sorted(images, reverse=True)


@pytest.mark.slow
def test_extract_that_dies_at_any_operation_is_continued_to_the_same_bytes(tmp_path: Path) -> None:
    done = kills(tmp_path, stride=1)
    assert {"writev", "fsync", "os.rename", "open", "os.mkdir"} <= {kill["died"] for kill in done}


PROGRAM = """
from layercache.cache.format import layout
from layercache_cli.main import main
layout.MAX_SHARD_BYTES = 100_000
main()
"""
WORDS = [
    "extract",
    "--model",
    "vit_nano",
    "--dataset",
    "digits",
    "--limit",
    "192",
    "--batch-size",
    "2",
]


def command(cache: Path, workers: int) -> list[str]:
    """The real program, with row blocks of 16 images."""
    return [sys.executable, "-c", PROGRAM, *WORDS, "--cache", str(cache), "--workers", str(workers)]


def committed(cache: Path) -> int:
    return len(list(cache.glob("*/*/*/commits/*/*.json")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(folder, 0), check=True, capture_output=True)
    return tree(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sig", "workers"),
    [(signal.SIGKILL, 0), (signal.SIGKILL, 2), (signal.SIGINT, 2), (signal.SIGTERM, 0)],
)
def test_extract_ended_by_a_signal_at_a_random_moment_is_continued_to_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], sig: signal.Signals, workers: int
) -> None:
    rng = random.Random(sig.value)
    for blocks in (0, 3, 15):
        process = subprocess.Popen(
            command(tmp_path, workers), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while (
            process.poll() is None and committed(tmp_path) <= blocks and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        process.send_signal(sig)
        _, err = process.communicate(timeout=120)
        if sig == signal.SIGKILL:
            assert process.returncode == -sig
        else:
            assert process.returncode == 128 + sig, err
            assert "row blocks are committed and kept; the same command continues from there" in err
            assert "Traceback" not in err
    assert 0 < committed(tmp_path) < 26
    subprocess.run(command(tmp_path, workers), check=True, capture_output=True)
    assert tree(tmp_path) == whole

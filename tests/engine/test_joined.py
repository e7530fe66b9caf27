"""A cluster that runs already: joined by its address, and left as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_a_running_cluster_is_joined_and_left_running(
    cluster: Callable[..., Any], tmp_path: Path
) -> None:
    made = cluster(1, 1)
    words = [
        "extract",
        "-m",
        "vit_nano",
        "-d",
        "digits",
        "--limit",
        "100",
        "--layers",
        "last",
        "--cache",
        str(tmp_path),
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "layercache_cli.main",
            *words,
            "--engine",
            "ray",
            "--address",
            made.address,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 workers of 1 CPU on a Ray cluster of 3 nodes" in done.stdout
    import ray

    assert sum(node["Alive"] for node in ray.nodes()) == 3

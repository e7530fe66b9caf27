"""The tests of the GPU paths, tests/gpu."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from benchmarks.gpu.context import Context


def measure(context: Context) -> None:
    """Run the tests, and write how many passed and what failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W"]
    done = subprocess.run(
        [*command, "default", "--tb=short", "tests/gpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "LAYERCACHE_TEST_DEVICE": context.device},
    )
    print(done.stdout, done.stderr)
    counts = {
        word: int(n)
        for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)
    }
    context.emit("tests/gpu", counts.get("passed", 0), "tests passed", note=str(counts))
    for line in re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.M):
        context.fail("tests/gpu", line)
    if done.returncode and not counts.get("failed"):
        context.fail("tests/gpu", (done.stdout + done.stderr)[-600:])

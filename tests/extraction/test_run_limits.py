"""A full disk, and peak memory: in separate processes, on which limits can be set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peak_memory import STATUS
from tests.extraction.fakes import tree

ROOT = Path(__file__).parents[2]
START = """
import resource, sys
from layercache.cache.format import layout
from layercache.errors import LayercacheError
from layercache.extraction import plan
from layercache.extraction.api import extract
from tests.extraction.fakes import FakeBackbone, Pictures, dataset
from benchmarks.peak_memory import peak_memory
plan.describe_model = lambda name, **_: None
plan.load_encoder = lambda name, **_: FakeBackbone()
def run(cache, rows=53, **options):
    pictures = dataset({"train": Pictures(rows)})
    return extract(models=["fake"], dataset=pictures, cache=cache, progress=False, **options)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def test_extract_on_a_full_disk_raises_and_continues_once_there_is_space(
    tmp_path: Path,
) -> None:
    output = python(f"""
layout.MAX_SHARD_BYTES = 4000
run({str(tmp_path / "whole")!r}, workers=0)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
try:
    run({str(tmp_path / "cut")!r}, workers=0)
except LayercacheError as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(run({str(tmp_path / "cut")!r}, workers=0)[0].images)
""").stdout
    assert "StorageError" in output
    assert (
        "Free some space (or choose a root on another disk, --cache) and run the same "
        "command again: it continues" in output
    )
    assert output.splitlines()[-1] == "53"
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not STATUS.exists(), reason="this system has no /proc/self/status")
@pytest.mark.parametrize("workers", [0, 2])
def test_extract_of_more_images_takes_no_more_memory(tmp_path: Path, workers: int) -> None:
    def peak(rows: int) -> float:
        """Peak memory in MB of an extraction of `rows` images, 16 kB of tokens each."""
        code = f"""
import torch
layout.MAX_SHARD_BYTES = 1 << 20
class Wide(FakeBackbone):
    def __call__(self, images):
        return super().__call__(images).repeat(1, 1, 1, 512)
plan.describe_model = lambda name, **_: None
plan.load_encoder = lambda name, **_: Wide(width=2048)
run({str(tmp_path / str(rows))!r}, {rows}, workers={workers}, batch_size=64)
print(peak_memory() / 1e6)
"""
        return float(python(code).stdout.splitlines()[-1])

    small, large = peak(1000), peak(20_000)
    assert large - small < 40, f"{small} MB for 16 MB of tokens, {large} MB for 330 MB"

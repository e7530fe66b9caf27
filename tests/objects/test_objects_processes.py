"""Extractions as processes: two at once on one cache, and one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("obstore", reason="object storage needs the extra s3: pip install -e '.[test]'")

from layercache.cache import open_cache
from layercache.cache.verify import verify
from tests.objects.making import objects
from tests.objects.proxy import Delay, FaultyProxy

pytestmark = pytest.mark.slow

WORDS = (
    "extract",
    "-m",
    "vit_nano",
    "-d",
    "digits",
    "--device",
    "cpu",
    "--workers",
    "0",
    "--tokens",
    "cls+ap+grid:3",
    "--store-dtype",
    "float32",
)


def start(root: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "layercache_cli.main", *WORDS, *words, "--cache", root]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def done(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def test_two_concurrent_extractions_end_with_one_whole_cache(s3_root: str) -> None:
    processes = [
        start(s3_root, "--batch-size", size) for size in ("64", "48")
    ]  # other batches, other rounding
    for process in processes:
        done(process)
    cache = open_cache(root=s3_root)
    assert verify(cache) == []
    assert [cache.progress(split)[0] for split in cache.splits] == [
        cache.progress(split)[1] for split in cache.splits
    ]
    assert cache.progress("train")[1] > 1


def test_killed_extraction_continues_to_the_same_bytes(faulty: FaultyProxy, s3_root: str) -> None:
    done(start(f"{s3_root}/undisturbed"))
    faulty.inject(Delay(0.5), method="PUT")  # to have time to kill it
    killed = start(f"{s3_root}/killed")
    end = time.monotonic() + 120
    while not faulty.count("PUT", "*/killed/*/commits/train/0*.json"):
        assert time.monotonic() < end
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    faulty.heal()
    cache = open_cache(root=f"{s3_root}/killed")
    assert not cache.complete("train")
    assert "already complete" not in done(start(f"{s3_root}/killed"))
    killed, undisturbed = objects(f"{s3_root}/killed"), objects(f"{s3_root}/undisturbed")
    assert {k: v for k, v in killed.items() if not k.endswith(".lock")} == undisturbed

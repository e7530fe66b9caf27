"""Compare a one-machine Ray cluster with the local engine: vit_nano on digits.

Each round extracts the dataset and searches attentive heads on its cache, always into fresh
folders: on the local engine, on one Ray worker that has all cores, and on one single-threaded
Ray worker per core. The `tiny` jobs use few images or steps and so measure the fixed overhead.
Prints medians, and checks that every engine writes the same bytes.

    python benchmarks/engine.py [--rounds 1] [--images 600] [--steps 60]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import describe

from layercache._devices import available_cores
from layercache.cache import open_cache
from layercache.engine import open_engine
from layercache.extraction.api import extract
from layercache.probing.api import probe
from layercache.probing.training.config import TrainConfig

TINY = 16


def extraction(root: Path, images: int, engine: str) -> float:
    """Return the seconds that one extraction takes."""
    began = time.perf_counter()
    extract(
        models=["vit_nano"],
        dataset="digits",
        limit=images,
        cache=root,
        engine=engine,
        workers=0,
        progress=False,
    )
    return time.perf_counter() - began


def search(root: Path, steps: int, engine: str) -> float:
    """Return the seconds that one search of attentive heads takes."""
    protocol = TrainConfig(epochs=1, min_steps=steps)
    began = time.perf_counter()
    probe(
        open_cache(root=root),
        head="attentive",
        layers="quarter",
        lr=0.01,
        dropout=0.0,
        configs_per_pass=2,
        train_config=protocol,
        engine=engine,
        device="cpu",
    )
    return time.perf_counter() - began


def files(root: Path) -> dict[str, bytes]:
    """Return the contents of every file but probe.json, which records timings."""
    kept = [p for p in root.rglob("*") if p.is_file() and p.name != "probe.json"]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in kept}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    cores = available_cores()
    ways = {
        "local": ("local", cores),
        f"1 worker x {cores}": ("ray", cores),
        f"{cores} workers x 1": ("ray", 1),
    }
    times: dict[tuple[str, str], list[float]] = {}
    print(describe())
    began = time.perf_counter()
    with open_engine("ray"):
        print(f"Ray session start: {time.perf_counter() - began:.1f} s")
        for _ in range(given.rounds):
            right: Any = None
            for way, (engine, threads) in ways.items():
                torch.set_num_threads(threads)
                root = Path(tempfile.mkdtemp())
                for what, took in (
                    ("extract tiny", extraction(root / "tiny", TINY, engine)),
                    ("extract", extraction(root / "all", given.images, engine)),
                    ("probe tiny", search(root / "tiny", 2, engine)),
                    ("probe", search(root / "all", given.steps, engine)),
                ):
                    times.setdefault((what, way), []).append(took)
                came = files(root / "all")
                right = right or came
                same = {
                    key.split("/")[-1]
                    for key in came.keys() | right.keys()
                    if came.get(key) != right.get(key)
                }
                print(
                    f"{way}: "
                    f"{'identical bytes' if not same else 'differs: ' + ', '.join(sorted(same))}"
                )
                shutil.rmtree(root)
    print(f"{'':14}" + "".join(f"{way:>16}" for way in ways))
    for what in dict.fromkeys(what for what, _ in times):
        here = statistics.median(times[what, "local"])
        shown = [statistics.median(times[what, way]) for way in ways]
        print(f"{what:14}" + "".join(f"{took:8.1f} s {here / took:5.2f}x" for took in shown))


if __name__ == "__main__":
    main()

"""Estimate the time, bytes and object-storage requests of large jobs from measured or given rates.

    python benchmarks/cost.py                         rates measured now on this machine
    python benchmarks/cost.py --device cuda --cores 64 --devices 8 --decode D --forward F --step S
                              --write W --read R      rates of another node

The model is a ViT-B (12 layers x {CLS, AP} x 768, float16). Rates: --decode in images/s per core,
--forward in images/s per device, --write and --read in bytes/s of a node's storage, --step in
seconds per training step of one configuration (attentive head, 2,048 rows). An extraction takes at
least as long as its slowest stage; if the device is the CPU, decoding and forward share the cores,
so their times add up. A search trains every configuration of the paper's grid for the paper's
number of epochs, and the selected one once more. A proxy in front of moto's S3 server counts the
requests of real extractions (with a stand-in for the network) and reads for caches of two sizes,
which separates the requests per row block from the fixed ones.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.images import Decoded
from benchmarks.machine import describe
from benchmarks.node_rates import (
    measured_decode,
    measured_disk,
    measured_forward,
    measured_step,
)
from benchmarks.vit_b_spec import KINDS, LAYERS, SPLIT, WIDTH, make_spec
from layercache._devices import available_cores
from layercache.cache import Cache, Split, open_cache
from layercache.cache.format import layout
from layercache.cache.storage.paths import CachePath, as_cache_path
from layercache.extraction.datasets.registry import DATASETS

SETS = {
    "ImageNet-1k": (1_281_167 + 50_000, 1_281_167, 1000),
    "ImageNet-21k": (14_197_122, 14_197_122, 21_841),
}
"""Dataset name -> number of images, training images and classes."""
STUDY = Path(__file__).resolve().parents[1] / "studies" / "alf-table1.toml"
MODELS = 11
"""Number of models: the nine of the study and the paper's two masked autoencoders."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """Resources and rates of one machine."""

    cores: int
    devices: int
    shared: bool
    """True if the device is the CPU, so that decoding and forward share the cores."""
    decode: float
    """Images/s per core."""
    forward: float
    """Images/s per device."""
    write: float
    """Bytes/s, including checksums and fsync."""
    read: float
    """Bytes/s from the disk, not from the page cache."""
    step: Callable[[int], float]
    """Number of classes -> seconds per training step of one configuration."""


def extraction(
    node: Node, images: int, *, decoded: int | None = None
) -> tuple[float, float, float, float]:
    """Return the seconds of decoding, forward and writing, and the minimum for the whole.

    `decoded` is the number of decoded images, if several models share one decode.
    """
    decode, forward = (
        (decoded or images) / (node.decode * node.cores),
        images / (node.forward * node.devices),
    )
    write = layout.planned_bytes(make_spec(images, WIDTH), images) / node.write
    return (
        decode,
        forward,
        write,
        max(decode + forward if node.shared else max(decode, forward), write),
    )


def search(node: Node, rows: int, classes: int) -> tuple[int, float]:
    """Return the steps of the final fit, and the seconds of the search and the final fit.

    The search holds out 20 % of the rows.
    """
    from layercache.probing.splits.stratified_split import VALIDATION_FRACTION
    from layercache.probing.training.config import TrainConfig, paper_grid

    searched, final = (
        TrainConfig().schedule(n).steps for n in (round(rows * (1 - VALIDATION_FRACTION)), rows)
    )
    return final, (len(paper_grid("attentive")) * searched + final) * node.step(
        classes
    ) / node.devices


def jobs(node: Node) -> None:
    """Print the estimated size and times of each job."""
    print(
        "| job | images | cache size | row blocks | decode | forward | write "
        "| extraction (minimum) | one full read | steps per fit | search and final fit |"
    )
    print("|---|" + "--:|" * 10)
    for name, (images, train, classes) in SETS.items():
        spec = make_spec(images, WIDTH)
        size = layout.planned_bytes(spec, images)
        blocks = -(-images // layout.block_rows(spec, images))
        stages = " | ".join(_time(seconds) for seconds in extraction(node, images))
        steps, seconds = search(node, train, classes)
        print(
            f"| {name} | {images:,} | {size / 1e9:.0f} GB | {blocks:,} | {stages} "
            f"| {_time(size / node.read)} | {steps:,} | {_time(seconds)} |",
            flush=True,
        )
    names = tomllib.loads(STUDY.read_text())["datasets"]
    images = sum(DATASETS[n].num_train + DATASETS[n].num_test for n in names) * MODELS
    size = layout.planned_bytes(make_spec(images, WIDTH), images)
    stages = " | ".join(
        _time(seconds) for seconds in extraction(node, images, decoded=images // MODELS)
    )
    name = f"{len(names)} datasets x {MODELS} models, all ViT-B"
    print(
        f"| {name} | {images:,} | {size / 1e9:.0f} GB | | {stages} "
        f"| {_time(size / node.read)} | | |"
    )


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.1f} s"
    )


class StandIn:
    """Backbone of a ViT-B's shape whose tokens cost nothing."""

    name = "vit_b16"
    architecture = "stand_in"
    weights_digest = "0" * 64
    depth, width, layers = LAYERS, WIDTH, tuple(range(1, LAYERS + 1))
    tokens = KINDS
    tap, precision, storage_dtype, projected, notes = "norm2", "fp32", "float16", False, ()
    spatial = None

    def __init__(self) -> None:
        from layercache.extraction.models.preprocessing.transform import Preprocessing

        side, half = (8, 8), (0.5, 0.5, 0.5)
        self.preprocessing = Preprocessing(
            input_size=side,
            resize=side,
            interpolation="bicubic",
            crop_mode="center",
            mean=half,
            std=half,
        )

    @property
    def module(self) -> StandIn:
        return self

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def bare_forward(self, images: torch.Tensor) -> None:
        self.rows = len(images)

    def collect(self) -> torch.Tensor:
        return torch.zeros((LAYERS, len(KINDS), self.rows, WIDTH), dtype=torch.float16)

    def forget(self) -> None:
        pass


def extract_stand_in(root: CachePath, rows: int) -> Cache:
    """Run a real extraction of `rows` small images with the stand-in."""
    from layercache.extraction.api import extract
    from layercache.extraction.datasets.in_memory import InMemoryDataset

    samples = {SPLIT: Decoded(rows, 8)}
    with patch("layercache.extraction.plan.load_encoder", lambda *_, **__: StandIn()):
        (result,) = extract(
            models=["vit_b16"],
            dataset=InMemoryDataset(name="bench", classes=("a", "b"), samples=samples),
            cache=root,
            workers=0,
            device="cpu",
            progress=False,
        )
    return open_cache(result.path)


def operations(root: CachePath, rows: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the operations on a cache of the given size on object storage, each with its name."""
    from layercache.cache.describe import describe
    from layercache.cache.verify import verify

    holder: dict[str, Any] = {}
    pairs = [(layer, kind) for layer in range(1, LAYERS + 1) for kind in KINDS]
    yield "extract", lambda: holder.update(cache=extract_stand_in(root, rows))
    yield "extract again when complete", lambda: extract_stand_in(root, rows)
    yield (
        "open a split, read labels",
        lambda: holder.update(
            split=holder["cache"].split(SPLIT), labels=holder["cache"].split(SPLIT).labels
        ),
    )
    for what in ("streamed epoch, checksums verified", "streamed epoch"):
        yield what, lambda: epoch(holder["split"], pairs)
    yield "load last CLS into memory", lambda: holder["split"].read(pairs[-2:-1])
    yield "cache info", lambda: describe(holder["cache"])
    yield "cache verify", lambda: verify(holder["cache"])


def epoch(split: Split, pairs: Sequence[tuple[int, str]]) -> None:
    """Stream one epoch through two windows of two row blocks each."""
    from layercache.probing.data.split_selection import SplitSelection, TokenSource
    from layercache.probing.data.streaming import StreamedTokens

    budget = 4 * layout.planned_bytes(make_spec(512, WIDTH), 512)
    features = StreamedTokens(
        SplitSelection((TokenSource(split, tuple(pairs)),), np.arange(split.rows)),
        device=torch.device("cpu"),
        memory_budget=budget,
    )
    assert (
        sum(
            len(y)
            for _, y in features.iter_batches(np.arange(split.rows), batch_size=512, train=True)
        )
        == split.rows
    )


def requests() -> None:
    """Count the requests of each operation and print the table."""
    from tests.objects import server
    from tests.objects.proxy import FaultyProxy

    counts: dict[str, list[dict[str, int]]] = {}
    sizes = (2, 6)
    with (
        tempfile.TemporaryDirectory() as folder,
        server.running("moto", Path(folder)) as running,
        FaultyProxy(running.url) as proxy,
    ):
        os.environ |= server.environment(running) | {"AWS_ENDPOINT_URL": proxy.url}
        # requests made once per bucket are not counted
        extract_stand_in(as_cache_path(f"s3://{server.BUCKET}/first"), 10)
        for blocks in sizes:
            root = as_cache_path(f"s3://{server.BUCKET}/{blocks}")
            for what, call in operations(root, blocks * 512):
                proxy.forget()
                call()
                kinds = {
                    "PUT": proxy.count("PUT"),
                    "LIST": sum(r.method == "GET" and not r.key for r in proxy.requests),
                }
                counts.setdefault(what, []).append(
                    kinds | {"GET, HEAD": proxy.count() - sum(kinds.values())}
                )
    print(
        "| operation | requests per row block | fixed requests | requests for ImageNet-1k |\n"
        "|---|---|---|--:|"
    )
    total = -(-SETS["ImageNet-1k"][1] // 512)
    for what, (few, many) in counts.items():
        per_block = {kind: (many[kind] - few[kind]) / (sizes[1] - sizes[0]) for kind in few}
        fixed = {kind: few[kind] - per_block[kind] * sizes[0] for kind in few}
        columns = [
            ", ".join(f"{n:g} {kind}" for kind, n in numbers.items() if n) or "none"
            for numbers in (per_block, fixed)
        ]
        print(
            f"| {what} | {columns[0]} | {columns[1]} "
            f"| {sum(per_block.values()) * total + sum(fixed.values()):,.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--devices", type=int, default=1)
    for name in ("decode", "forward", "write", "read", "step"):
        parser.add_argument(
            f"--{name}", type=float, default=None, help="use this rate; default: measure it"
        )
    parser.add_argument("--no-requests", action="store_true")
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="folder on the disk to measure; default: the temporary folder",
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        write, read = (
            (given.write, given.read)
            if given.write and given.read
            else measured_disk(Path(folder) / "cache")
        )
        decode = given.decode or measured_decode(Path(folder) / "jpeg")
    node = Node(
        cores=given.cores,
        devices=given.devices,
        shared=given.device == "cpu",
        decode=decode,
        forward=given.forward
        or measured_forward(device=given.device, batch=256 if given.device == "cuda" else 16),
        write=given.write or write,
        read=given.read or read,
        step=cache(lambda classes: given.step or measured_step(classes, device=given.device)),
    )
    print(f"{describe()}; {node.cores} cores, {node.devices} x {given.device}\n")
    steps = ", ".join(
        f"{node.step(c):.3g} s ({c:,} classes)" for c in sorted({c for _, _, c in SETS.values()})
    )
    print(
        f"decode {node.decode:.0f} images/s per core, "
        f"forward {node.forward:.1f} images/s per device, "
        f"training step per configuration {steps},"
    )
    print(f"write {node.write / 1e6:.0f} MB/s, read {node.read / 1e6:.0f} MB/s\n")
    jobs(node)
    if not given.no_requests:
        print()
        requests()


if __name__ == "__main__":
    main()

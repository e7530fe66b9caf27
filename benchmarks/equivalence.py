"""Check that a refactoring changes no number: record before, check after.

    python benchmarks/equivalence.py record benchmarks/equivalence.json
    python benchmarks/equivalence.py check benchmarks/equivalence.json

A check prints "identical to the bit" or lists what differs. It covers `vit_nano` on the embedded
datasets:

* the SHA-256 of every token shard at all three taps;
* for linear, attentive, attentive-tokens and hybrid probes (one thread, fixed seeds): the losses of
  every epoch, the validation scores, the selected configuration, the logits and the parameters;
* for the scikit-learn baselines: the selected configuration and the logits.

The values depend on the processor and the version of torch: record and check on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

import layercache
from layercache.probing.training import trainer
from layercache.probing.training.config import Noise, TrainConfig, grid

RECORDED_AS = {"top1_accuracy": "top1", "top5_accuracy": "top5"}
"""Metric -> its name in records that were made before it was renamed."""
TAPS = ("norm2", "block", "block-norm")
CONFIGS = {
    "linear": grid(lr=(1e-1, 1e-2, 1e-3), weight_decay=(1e-4, 1e-1)),
    "attentive": grid(lr=(1e-1, 1e-2, 1e-3), weight_decay=(1e-4, 1e-1), dropout=(0.0, 0.1)),
}
PROBES: dict[str, dict[str, Any]] = {
    "linear last cls": {"head": "linear", "layers": "last", "tokens": "cls"},
    "linear all": {"head": "linear", "layers": "all"},
    "attentive all": {"head": "attentive", "layers": "all"},
    "attentive streamed": {
        "head": "attentive",
        "layers": "all",
        "features": "stream",
        "seeds": [1],
    },
    "attentive patience, 5 shots": {
        "head": "attentive",
        "layers": "1,6,12",
        "shots": 5,
        "train_config": TrainConfig(epochs=8, min_steps=120, patience=2),
    },
    "attentive-tokens last": {"head": "attentive-tokens"},
    "hybrid": {
        "head": "hybrid",
        "layers": "all",
        "tokens": "cls+ap",
        "spatial": "grid:2",
        "embedding": True,
    },
    "logreg all": {"head": "logreg", "layers": "last"},
    "knn last": {"head": "knn", "layers": "last"},
}


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def shards(cache: Path) -> dict[str, str]:
    """Return the SHA-256 of every token shard of a cache."""
    files = sorted(
        p for p in cache.glob("*.zarr/tokens/**/*") if p.is_file() and p.name != "zarr.json"
    )
    return {str(p.relative_to(cache)): sha256(p.read_bytes()) for p in files}


def extract(root: Path) -> dict[str, Any]:
    """Run every extraction and return the digests of its shards."""
    found: dict[str, Any] = {}
    for dataset in ("digits", "photos"):
        for tap in TAPS:
            (done,) = layercache.extract(
                models=["vit_nano"],
                dataset=dataset,
                tap=tap,
                cache=root / tap,
                progress=False,
                workers=0,
            )
            found[f"{dataset} {tap}"] = shards(Path(done.path))
    for tokens, layers in (("cls+ap+grid:2", "all"), ("all", "last")):
        (done,) = layercache.extract(
            models=["vit_nano"],
            dataset="digits",
            tokens=tokens,
            layers=layers,
            cache=root / tokens.replace(":", ""),
            progress=False,
            workers=0,
            confirm=False,
        )
        found[f"digits {tokens}"] = shards(Path(done.path))
    return found


def losses_of(fits: list[Any]) -> list[dict[str, Any]]:
    """Return losses, validation scores and divergence of every configuration."""
    return [
        {
            "losses": list(f.losses),
            "val": f.val_metrics
            and {RECORDED_AS.get(name, name): value for name, value in f.val_metrics.items()},
            "diverged_at": f.diverged_at,
        }
        for f in fits
    ]


def probe(root: Path) -> dict[str, Any]:
    """Train every probe and return its losses, selection and digests."""
    caches = {
        "pooled": layercache.open_cache(model="vit_nano", dataset="digits", root=root / "norm2"),
        "grid": layercache.open_cache(
            model="vit_nano", dataset="digits", root=root / "cls+ap+grid2"
        ),
        "all": layercache.open_cache(model="vit_nano", dataset="digits", root=root / "all"),
    }
    trained: list[Any] = []
    original = trainer.fit

    def recording(*args: Any, **options: Any) -> Any:
        fits = original(*args, **options)
        trained.extend(losses_of(fits))
        return fits

    trainer.fit = recording
    found: dict[str, Any] = {}
    for name, options in PROBES.items():
        head = options["head"]
        cache = caches[
            "all" if head == "attentive-tokens" else "grid" if head == "hybrid" else "pooled"
        ]
        trained.clear()
        if head not in ("knn", "logreg"):
            options = {
                "train_config": TrainConfig(epochs=5, min_steps=150, noise=Noise()),
                **options,
            }
            options["configs"] = CONFIGS["linear" if head == "linear" else "attentive"]
        if head == "logreg":
            options = {**options, "shots": 20}
        (result,) = layercache.probe(cache, progress=False, device="cpu", **options).probes
        stored = result.predictions()
        found[name] = {
            "fits": json.loads(json.dumps(trained)),
            "selected": {key: result.row[key] for key in ("lr", "weight_decay", "dropout")},
            "test": result.row["test_balanced_accuracy"],
            "logits": sha256(np.ascontiguousarray(stored.logits).tobytes()),
            "attention": None
            if stored.attention_mean is None
            else sha256(np.ascontiguousarray(stored.attention_mean).tobytes()),
        }
        if head != "knn":
            parameters = sorted(result.head().state_dict.items())
            found[name]["parameters"] = sha256(
                b"".join(p.contiguous().numpy().tobytes() for _, p in parameters)
            )
    trainer.fit = original
    return found


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """List the leaves that differ, each with its path."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{where}/{key}")
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line
            for i, pair in enumerate(zip(before, now, strict=True))
            for line in differences(*pair, f"{where}[{i}]")
        ]
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        now = {"shards": extract(root), "probes": probe(root)}
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    now = {
        "machine": {"processor": processor, "torch": torch.__version__},
        **json.loads(json.dumps(now)),
    }
    if args.mode == "record":
        args.file.write_text(json.dumps(now, indent=1) + "\n")
        print(
            f"{args.file}: {sum(map(len, now['shards'].values()))} shards, "
            f"{len(now['probes'])} probes"
        )
        return 0
    before = json.loads(args.file.read_text())
    found = differences(before, now)
    print(
        "\n".join(found[:40])
        or f"identical to the bit: {sum(map(len, now['shards'].values()))} shards, "
        f"{len(now['probes'])} probes"
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

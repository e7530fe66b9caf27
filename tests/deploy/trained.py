"""Probes trained end to end on a small random ViT: images, a checkpoint, a cache, probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from layercache.cache.format.cache_spec import Tap
from layercache.extraction.api import extract
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.probing.api import probe
from layercache.probing.results.probe_store import Probe
from layercache.probing.training.config import TrainConfig
from tests.extraction.models.families import FAMILIES

MODEL = "tiny_vit"
TRAIN_CONFIG = TrainConfig(epochs=4, min_steps=0, batch=16)


@dataclass(frozen=True)
class Trained:
    weights: Path
    images: Path
    cache: Path
    """The cache's folder."""
    probes: dict[str, Probe]
    """By head."""


def draw_images(folder: Path, *, per_class: int = 14) -> Path:
    """Two classes of 40 x 48 images, lossless PNG: noise over a horizontal or vertical wave."""
    rng = np.random.default_rng(5)
    wave = 90 * np.sin(np.arange(48) / 2.5)
    for name, pattern in (
        ("across", np.tile(wave, (40, 1))),
        ("down", np.tile(wave[:40, None], (1, 48))),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            pixels = 128 + pattern[..., None] + rng.normal(0, 25, (40, 48, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{i:02d}.png"
            )
    return folder


def train(
    folder: Path,
    *,
    model: str = MODEL,
    tap: Tap = "norm2",
    tokens: str = "cls+ap+grid:2",
    heads: Sequence[str] = ("linear", "attentive"),
    seeds: int = 1,
    preprocessing: PreprocessingOptions | None = None,
) -> Trained:
    weights = save_random(model, folder / f"{model}.pt")
    images = draw_images(folder / "waves")
    quiet = {"progress": False, "workers": 0, "device": "cpu"}
    (extraction,) = extract(
        models=[model],
        dataset=f"folder:{images}",
        weights={model: weights},
        tap=tap,
        tokens=tokens,
        preprocessing=preprocessing or PreprocessingOptions(),
        cache=folder / "caches",
        **quiet,
    )
    options = {
        "layers": "mid-last",
        "tokens": tokens,
        "lr": [1e-2],
        "weight_decay": [1e-4],
        "dropout": [0.0, 0.1],
    }
    results = probe(
        extraction.path,
        head=list(heads),
        seeds=seeds,
        train_config=TRAIN_CONFIG,
        device="cpu",
        **options,
    )  # type: ignore[arg-type]
    return Trained(
        weights=weights,
        images=images,
        cache=extraction.path,
        probes={p.row["head"]: p for p in reversed(list(results))},
    )


def save_random(model: str, path: Path) -> Path:
    """A checkpoint of random weights from a fixed seed."""
    generator = torch.Generator().manual_seed(11)
    state = FAMILIES[model].build().state_dict()
    torch.save(
        {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in state.items()}, path
    )
    return path


def change_one_weight(path: Path, to: Path) -> Path:
    """A copy of a checkpoint that differs in one number."""
    state = torch.load(path, weights_only=True)
    state["blocks.1.mlp.fc1.weight"][3, 4] += 1e-3
    torch.save(state, to)
    return to

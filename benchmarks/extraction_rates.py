"""Rates of extraction and of the bare forward, for extract.py and the measurements on a GPU."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from images import Decoded, Files

from layercache.extraction.api import extract
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.models import vit_nano
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.registry import MODELS
from layercache.extraction.result import Extraction


class ExtractionRates:
    """Measures one model at a time, with random weights."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.rates: dict[str, float] = {}
        self.addresses: dict[str, str | Encoder] = {}
        """Models that are not named by a short name."""
        self.count = 0

    def batch(self, model: str) -> int:
        """Return the batch size for a model."""
        return self.args.batch or (
            256 if self.args.device == "cuda" else 64 if model == "vit_nano" else 16
        )

    def weights(self, model: str) -> Path:
        """Return a file of random weights, written on first use."""
        file = self.folder / f"{model}.safetensors"
        if not file.exists():
            torch.manual_seed(0)
            module = (
                vit_nano.create_vit_nano()
                if model == "vit_nano"
                else timm.create_model(MODELS[model].architecture, pretrained=False)
            )
            safetensors.torch.save_file(module.state_dict(), file)
        return file

    def backbone(self, model: str) -> Backbone:
        """Load the backbone with its random weights."""
        return load_encoder(
            self.addresses.get(model, model),
            weights=None if model in self.addresses else self.weights(model),
            precision=self.args.precision,
            device=self.args.device,
        )

    def bare(
        self, model: str, *, timer: Callable[[], float] = time.perf_counter
    ) -> Callable[[int], float]:
        """Return a function that measures the plain module without taps.

        It takes a number of images and returns images/s on one resident, normalised batch.
        """
        backbone = self.backbone(model)
        for module in backbone.module.modules():
            module._forward_hooks.clear()
        side = backbone.preprocessing.input_size[0]
        dtype = next(backbone.module.parameters()).dtype
        x = torch.randn(self.batch(model), 3, side, side, device=self.args.device).to(dtype)
        forward: Any = backbone.bare_forward
        if self.args.compile:
            forward = torch.compile(forward)

        def run(images: int) -> float:
            with torch.inference_mode():
                began = timer()
                for _ in range(-(-images // len(x))):
                    forward(x)
                if self.args.device == "cuda":
                    torch.cuda.synchronize()
            return -(-images // len(x)) * len(x) / (timer() - began)

        run(3 * len(x))
        return run

    def images(self, model: str, rate: float) -> int:
        """Return the number of images for one measurement, a multiple of the batch size."""
        return max(2, round(rate * self.args.seconds / self.batch(model))) * self.batch(model)

    def extraction(self, model: str, samples: Decoded | Files, **options: Any) -> Extraction:
        self.count += 1
        given = {
            "device": self.args.device,
            "precision": self.args.precision,
            "compile": self.args.compile,
            "batch_size": self.batch(model),
        }
        given |= {
            "workers": self.args.workers,
            "cache": self.folder / f"cache{self.count}",
            "weights": {} if model in self.addresses else {model: self.weights(model)},
        }
        dataset = InMemoryDataset(name="bench", classes=("a", "b"), samples={"train": samples})
        models = [self.addresses.get(model, model)]
        return extract(models=models, dataset=dataset, progress=False, **(given | options))[0]

    def compare(
        self, model: str, samples: Callable[[int, int], Decoded | Files]
    ) -> tuple[list[float], list[Extraction]]:
        """Run the bare forward pass and extractions in turn; return the rates and the results."""
        bare = self.bare(model)
        side = self.backbone(model).preprocessing.input_size[0]
        images = self.images(model, bare(4 * self.batch(model)))
        rates, done = [], []
        for _ in range(self.args.rounds):
            rates.append(bare(images))
            done.append(self.extraction(model, samples(images, side)))
        return rates, done

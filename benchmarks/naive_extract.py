"""Baseline: feature extraction as probing papers usually do it.

A DataLoader, one pass per token kind, hooks that clone whole token maps, one file per layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from images import Decoded, Files
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.pipeline.decode import RowRange, open_image
from layercache.extraction.pipeline.process_decoder import ProcessDecoder


class Pictures(Dataset[Any]):
    """Dataset that converts one RGB image per call to the model's float input tensor."""

    def __init__(self, samples: Decoded | Files, config: dict[str, Any]) -> None:
        self.samples, self.transform = samples, create_transform(**config, is_training=False)

    def __len__(self) -> int:
        return self.samples.rows

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.samples.load(row).convert("RGB")), int(self.samples.labels[row])


def extract(
    module: Any,
    samples: Decoded | Files,
    config: dict[str, Any],
    folder: Path,
    *,
    batch: int,
    workers: int,
    device: str,
) -> float:
    """Extract CLS and AP of all samples at the model's taps and return the seconds it takes.

    The taps are norm2 of every block but the first, and the final norm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    for kind in ("cls", "ap"):
        maps: dict[int, torch.Tensor] = {}
        taps = [*(block.norm2 for block in module.blocks[1:]), module.norm]
        hooks = [
            tap.register_forward_hook(
                lambda _, __, out, i=i, maps=maps: maps.__setitem__(i, out.detach().clone())
            )
            for i, tap in enumerate(taps)
        ]
        features: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(taps))}
        labels = []
        loader = DataLoader(
            Pictures(samples, config),
            batch_size=batch,
            num_workers=workers,
            pin_memory=device != "cpu",
        )
        with torch.no_grad():
            for images, targets in loader:
                module(images.to(device))
                for i, tokens in maps.items():
                    features[i].append(
                        (tokens[:, 0] if kind == "cls" else tokens[:, 1:].mean(1)).cpu()
                    )
                labels.append(targets)
        for hook in hooks:
            hook.remove()
        for i, parts in features.items():
            torch.save(torch.cat(parts), folder / f"{kind}_{i}.pt")
        torch.save(torch.cat(labels), folder / f"{kind}_labels.pt")
    return time.perf_counter() - began


class Uint8Images(Dataset[Any]):
    """Images decoded and transformed as by an extraction: uint8 (3, H, W)."""

    def __init__(self, samples: Decoded | Files, transform: Preprocessing) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return self.samples.rows

    def __getitem__(self, row: int) -> torch.Tensor:
        image = open_image(self.samples, row)
        return torch.from_numpy(self.transform.resize_and_crop(image).copy())


def decoding_rates(
    samples: Decoded | Files,
    transform: Preprocessing,
    *,
    batch: int,
    workers: int,
    rounds: int,
) -> list[tuple[float, float]]:
    """Decode all samples with a DataLoader and with the process decoder, in turn.

    Returns:
        Images/s of the DataLoader and of the process decoder in each round.
    """
    loader = DataLoader(
        Uint8Images(samples, transform),
        batch_size=batch,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )
    decoder = ProcessDecoder(workers=workers, shapes=[(3, *transform.input_size)], rows=batch)
    chunks = [
        RowRange(first, min(first + batch, samples.rows)) for first in range(0, samples.rows, batch)
    ]

    def load() -> int:
        return sum(len(images) for images in loader)

    def decode() -> int:
        images = 0
        for chunk in decoder.run(samples, [transform], chunks):
            images += len(torch.from_numpy(chunk.pixels[0]))
            chunk.release()
        return images

    def rate(run: Callable[[], int]) -> float:
        began = time.perf_counter()
        assert run() == samples.rows
        return samples.rows / (time.perf_counter() - began)

    rates = [(rate(load), rate(decode)) for _ in range(rounds + 1)]
    decoder.close()
    return rates[1:]  # the first starts the workers

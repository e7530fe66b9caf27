from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layercache.cache import open_cache
from layercache.extraction.api import extract
from layercache.extraction.datasets.arrays import ArraySamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.models.loading import load_encoder

ROWS = 23


def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28, 3), np.uint8)


def extract_tokens(folder: Path, **options: Any) -> np.ndarray[Any, Any]:
    """All tokens of an extraction, (S, N, D)."""
    samples = ArraySamples(images, labels=np.arange(ROWS) % 2, prefix="image")
    dataset = InMemoryDataset(name="random", classes=("a", "b"), samples={"train": samples})
    done = extract(
        models=["vit_nano"], dataset=dataset, cache=folder, progress=False, batch_size=8, **options
    )
    split = open_cache(done[0].path).split("train")
    return split.read([(n, token) for n in split.spec.layers for token in split.spec.tokens])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("bf16", 0.15)])
def test_tokens_are_those_of_the_cpu_in_fp32(
    tmp_path: Path, device: torch.device, precision: str, tolerance: float
) -> None:
    expected = extract_tokens(tmp_path / "cpu", device="cpu").astype(np.float32)
    got = extract_tokens(tmp_path / "device", device=str(device), precision=precision)
    difference = np.linalg.norm(got.astype(np.float32) - expected, axis=-1)
    length = np.linalg.norm(expected, axis=-1)
    assert (difference <= tolerance * length).all()
    shuffled = np.roll(expected, 1, axis=1)  # negative control: the tokens of the next image
    assert (np.linalg.norm(shuffled - expected, axis=-1) > tolerance * length).mean() > 0.9


def test_a_deterministic_extraction_repeats_its_bytes(tmp_path: Path, device: torch.device) -> None:
    one, two = (
        extract_tokens(tmp_path / name, device=str(device), deterministic=True) for name in "ab"
    )
    assert one.tobytes() == two.tobytes()


def test_encode_equals_extraction(tmp_path: Path, device: torch.device) -> None:
    encoder = load_encoder("vit_nano", device=str(device))
    pixels = torch.from_numpy(images()).permute(0, 3, 1, 2)
    encoded = encoder.encode(pixels.contiguous(), batch_size=8).numpy()
    stored = extract_tokens(tmp_path, device=str(device)).reshape(encoded.shape)
    np.testing.assert_allclose(encoded, stored, rtol=1e-2, atol=1e-2)

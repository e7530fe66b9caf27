"""`extract` with a real network: the cache against plain timm, run the slow way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from timm.data import create_transform, resolve_data_config

from layercache.cache.find import open_cache
from layercache.cache.reading.split import Split
from layercache.errors import OptionError
from layercache.extraction.api import extract
from layercache.extraction.datasets import open_dataset
from layercache.extraction.models import vit_nano

ROWS = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    safetensors.torch.save_file(vit_nano.create_vit_nano().state_dict(), file)
    return file


def run(cache: Path, weights: Path, **options: Any) -> Split:
    given = {
        "models": ["vit_nano"],
        "weights": {"vit_nano": weights},
        "dataset": "digits",
        "splits": ["test"],
        "limit": ROWS,
        "cache": cache,
    }
    (done,) = extract(progress=False, **(given | options))
    return open_cache(done.path).split("test")


def tokens(split: Split) -> np.ndarray[Any, Any]:
    return split.read(
        [(layer, token) for layer in split.spec.layers for token in split.spec.tokens]
    )


def by_hand(weights: Path, ids: list[str]) -> np.ndarray[Any, Any]:
    """Return float32 (24, N, 96), one image at a time: timm's transform, hooks for token maps."""
    model = vit_nano.create_vit_nano().eval()
    model.load_state_dict(safetensors.torch.load_file(weights))
    maps: list[torch.Tensor] = []
    for module in [*(block.norm2 for block in model.blocks[1:]), model.norm]:
        module.register_forward_hook(lambda _, __, out: maps.append(out))
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    samples = open_dataset("digits").split("test")
    rows = []
    for name in ids:
        maps.clear()
        with torch.no_grad():
            model(transform(samples.load(samples.ids.index(name)).convert("RGB"))[None])
        rows.append(torch.stack([kind for out in maps for kind in (out[0, 0], out[0, 1:].mean(0))]))
    return torch.stack(rows, 1).numpy()


def test_extract_gives_what_plain_timm_gives_image_by_image(tmp_path: Path, weights: Path) -> None:
    split = run(tmp_path, weights, batch_size=5, workers=0)
    right = by_hand(weights, split.ids)
    np.testing.assert_allclose(tokens(split), right, rtol=2e-3, atol=2e-4)
    swapped = right.reshape(12, 2, ROWS, 96)[:, ::-1].reshape(right.shape)
    assert not np.allclose(tokens(split), swapped, rtol=0.1, atol=0.1), (
        "CLS in the place of AP would not pass"
    )


def test_extract_with_another_batch_size_gives_nearly_the_same_tokens(
    tmp_path: Path, weights: Path
) -> None:
    one, two, three = (
        tokens(run(tmp_path / str(n), weights, batch_size=batch, workers=0))
        for n, batch in enumerate((8, 8, 1))
    )
    assert one.tobytes() == two.tobytes()
    np.testing.assert_allclose(one, three, rtol=2e-3, atol=2e-4)


def test_extract_with_another_precision_or_tap_makes_another_cache(
    tmp_path: Path, weights: Path
) -> None:
    half = run(tmp_path, weights, precision="bf16", layers="last", workers=0)
    full = run(tmp_path, weights, layers="last", workers=0)
    block = run(tmp_path, weights, layers="last", tap="block", workers=0)
    assert len({half.spec.fingerprint, full.spec.fingerprint, block.spec.fingerprint}) == 3
    np.testing.assert_allclose(tokens(half), tokens(full), atol=0.15)
    assert not np.array_equal(tokens(half), tokens(full))
    assert not np.allclose(tokens(block), tokens(full), atol=0.15)


def test_extract_on_a_missing_gpu_raises(tmp_path: Path, weights: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(
        OptionError,
        match=r"device cuda: torch .* finds no CUDA device on this machine; use --device cpu",
    ):
        run(tmp_path, weights, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestGpu:
    def test_extract_on_a_gpu_gives_the_tokens_of_the_cpu(
        self, tmp_path: Path, weights: Path
    ) -> None:
        gpu = run(tmp_path / "gpu", weights, device="cuda", batch_size=5, limit=200)
        cpu = run(tmp_path / "cpu", weights, device="cpu", batch_size=5, limit=200)
        assert gpu.ids == cpu.ids
        np.testing.assert_allclose(tokens(gpu), tokens(cpu), rtol=1e-2, atol=1e-2)

    def test_extract_deterministic_on_a_gpu_gives_the_same_bytes(
        self, tmp_path: Path, weights: Path
    ) -> None:
        one, two = (
            run(
                tmp_path / n,
                weights,
                device="cuda",
                deterministic=True,
                precision="bf16",
                limit=200,
            )
            for n in "ab"
        )
        assert tokens(one).tobytes() == tokens(two).tobytes()

    @pytest.mark.slow
    def test_extract_compiled_gives_the_same_tokens_within_rounding(
        self, tmp_path: Path, weights: Path
    ) -> None:
        one, two = (
            run(tmp_path / str(c), weights, device="cuda", compile=c, batch_size=7, limit=200)
            for c in (True, False)
        )
        np.testing.assert_allclose(tokens(one), tokens(two), rtol=1e-2, atol=1e-2)

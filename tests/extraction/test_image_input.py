"""Images of every form to pixels, and through an encoder that is loaded by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import layercache
from layercache.errors import DataError, DataNotFoundError, OptionError
from layercache.extraction.image_input import iter_pixels, list_images


@pytest.fixture(scope="module")
def encoder() -> layercache.Backbone:
    return layercache.load_encoder("vit_nano", layers="last", device="cpu", offline=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("b/1.png", "a/2.png", "a/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 31, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_encode_gives_the_same_tokens_for_every_form_of_an_image(
    encoder: layercache.Backbone, folder: Path
) -> None:
    files = [folder / "a/0.png", folder / "a/2.png", folder / "b/1.png"]
    images = [Image.open(file) for file in files]
    transform = encoder.preprocessing
    (crops,) = iter_pixels(images, preprocessings=[transform], batch_size=9)
    pixels = crops[transform]
    expected = encoder(pixels)
    assert expected.shape == (1, 2, 3, 96)
    for form in (folder, str(folder), files, images, pixels, list(pixels), [images[0], *files[1:]]):
        assert torch.equal(encoder.encode(form), expected)
    assert torch.allclose(encoder.encode(folder, batch_size=2), expected, atol=1e-2)
    assert torch.equal(encoder.encode(images[1]), encoder.encode(files[1:2]))
    assert not torch.equal(encoder.encode(images[::-1]), expected)


def test_list_images_keeps_order_and_repeated_images(folder: Path) -> None:
    file = str(folder / "b/1.png")
    assert list_images([file, folder / "a", file]) == [
        file,
        *(str(folder / name) for name in ("a/0.png", "a/2.png")),
        file,
    ]


def test_encode_of_something_else_is_refused(encoder: layercache.Backbone, folder: Path) -> None:
    with pytest.raises(OptionError, match=r"uint8 \(B, 3, 28, 28\), got torch.float32"):
        encoder.encode(torch.zeros(1, 3, 28, 28))
    with pytest.raises(OptionError, match=r"got torch.uint8 \(1, 3, 30, 28\)"):
        encoder.encode(torch.zeros(3, 30, 28, dtype=torch.uint8))
    with pytest.raises(OptionError, match=r"got ndarray: .*PIL.Image.fromarray"):
        encoder.encode([np.zeros((28, 28, 3), np.uint8)])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="at least one, got none"):
        encoder.encode([])
    with pytest.raises(OptionError, match="batch_size: expected at least 1"):
        encoder.encode(folder, batch_size=0)
    with pytest.raises(DataNotFoundError, match="no such file or folder"):
        encoder.encode("nowhere.png")
    (folder / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"bad\.png"):
        encoder.encode(folder / "bad.png")

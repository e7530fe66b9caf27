"""Images with transparent pixels: counted, said, and composited on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layercache.cache.cache import extract_command
from layercache.cache.find import open_cache
from layercache.errors import OptionError
from layercache.extraction.api import extract
from layercache.extraction.result import Extraction

RNG = np.random.default_rng(3)
COLOURS = RNG.integers(0, 256, (6, 28, 28, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 28, 28, 1), np.uint8)
ALPHA[4:] = 255


def write(folder: Path, pixels: np.ndarray[Any, Any]) -> Path:
    for row, array in enumerate(pixels):
        file = folder / "ab"[row % 2] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(folder: Path, **options: Any) -> Extraction:
        (done,) = extract(
            models=["vit_nano"],
            dataset=f"folder:{folder}",
            layers="last",
            cache=tmp_path / "caches",
            workers=0,
            progress=False,
            device="cpu",
            **options,
        )
        return done

    return run


def read(done: Extraction) -> np.ndarray[Any, Any]:
    cache = open_cache(done.path)
    pairs = [(cache.spec.depth, token) for token in cache.spec.tokens]
    return np.concatenate([cache.split(name).read(pairs) for name in cache.splits], 1)


def test_extract_counts_transparent_images_and_says_what_they_became(
    run: Any, tmp_path: Path
) -> None:
    folder = write(tmp_path / "pets", np.concatenate([COLOURS, ALPHA], 3))
    opaque = write(tmp_path / "opaque/pets", COLOURS)
    dropped = run(folder)
    assert (dropped.transparent, dropped.background) == (4, "drop")
    assert "4 images with transparent pixels: their alpha channel was dropped" in dropped.summary()
    assert "--background white" in dropped.summary()
    assert run(opaque).transparent == 0
    assert "transparent" not in run(opaque).summary()
    np.testing.assert_array_equal(read(dropped), read(run(opaque)))
    again = run(folder)
    assert again.was_complete
    assert "transparent" not in again.summary()


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
def test_extract_with_a_background_composites_and_makes_another_cache(
    run: Any, tmp_path: Path, background: str, level: int
) -> None:
    folder = write(tmp_path / "pets", np.concatenate([COLOURS, ALPHA], 3))
    done = run(folder, background=background)
    assert f"transparent pixels of 4 images became {background}" in done.summary()
    opacity = ALPHA / 255
    composited = np.round(COLOURS * opacity + level * (1 - opacity)).astype(np.uint8)
    right = run(write(tmp_path / "composited", composited))
    np.testing.assert_allclose(read(done), read(right), atol=0.03)
    dropped = run(folder)
    assert dropped.path != done.path
    assert np.abs(read(dropped) - read(right)).max() > 0.3, "negative control"
    assert open_cache(done.path).spec.preprocessing["background"] == background
    assert f"--background {background}" in extract_command(open_cache(done.path))
    assert "background" not in open_cache(dropped.path).spec.preprocessing, "old fingerprints stay"


def test_extract_with_an_unknown_background_raises(run: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="background: expected drop or white or black, got 'red'"):
        run(tmp_path, background="red")

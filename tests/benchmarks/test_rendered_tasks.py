"""The rendered tasks: the same seed gives the same pixels, and a label is what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from benchmarks.rendered_tasks import (
    EYE,
    HORIZON,
    NEAR,
    OUTLINES,
    RED,
    SIZE,
    SPECTRA,
    SPLITS,
    SYMBOLS,
    TASKS,
    random_field,
    render,
    write_task,
)


@pytest.mark.parametrize("task", TASKS)
def test_render_same_seed_gives_same_pixels_and_another_seed_or_split_does_not(task: str) -> None:
    image, label = render(task, split="train", index=5, seed=3)
    again, _ = render(task, split="train", index=5, seed=3)
    other_seed, _ = render(task, split="train", index=5, seed=4)
    other_split, _ = render(task, split="test", index=5, seed=3)
    assert image.size == (SIZE, SIZE)
    assert image.mode == "RGB"
    assert label == 5
    assert image.tobytes() == again.tobytes()
    assert image.tobytes() != other_seed.tobytes()
    assert image.tobytes() != other_split.tobytes()


def test_counting_label_is_the_number_of_red_discs() -> None:
    for index in range(18):
        image, label = render("counting", split="test", index=index)
        red = (np.asarray(image) == RED).all(-1)
        assert ndimage.label(red)[1] == label + 1


def test_distances_label_is_the_kind_and_row_of_the_lowest_object() -> None:
    for index in range(12):
        image, label = render("distances", split="test", index=index)
        pixels = np.asarray(image, dtype=float)
        outline = (pixels.max(-1) < 45)[HORIZON:]
        rows = np.flatnonzero(outline.any(1))
        distance = EYE / rows[-1]
        low, high = list(NEAR.values())[label % 3]
        assert low - 0.3 <= distance <= high + 1.3
        # the lowest row of a box is as wide as the box, that of a ball is a point
        bottom = np.flatnonzero(outline[rows[-1]])
        height = 2 * 45 / distance
        assert (np.ptp(bottom) > 0.5 * height) == (label >= 3)


def test_signs_outline_is_red_or_blue_as_its_class_says() -> None:
    for index in range(len(OUTLINES) * len(SYMBOLS)):
        image, label = render("signs", split="train", index=index)
        r, _, b = np.moveaxis(np.asarray(image, dtype=float), -1, 0)
        outline = OUTLINES[label // len(SYMBOLS)]
        red, blue = int((r > b + 60).sum()), int((b > r + 60).sum())
        assert red > 30 if outline != "disc" else blue > 150


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_random_field_has_unit_variance_and_the_spectrum_of_its_name(spectrum: str) -> None:
    field = random_field(np.random.default_rng(0), spectrum)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    high = power[frequency > 0.2].sum() / power.sum()
    assert field.std() == pytest.approx(1)
    assert (high > 0.12) == (spectrum == "fine")


def test_write_task_folders_are_the_classes(tmp_path: Path) -> None:
    write_task(tmp_path, "textures", train=17, test=16)
    for split, count in zip(SPLITS, (17, 16), strict=True):
        files = sorted((tmp_path / "textures" / split).glob("*/*.png"))
        assert len(files) == count
        assert {file.parent.name for file in files} == set(TASKS["textures"].classes)
    first = tmp_path / "textures" / "train" / TASKS["textures"].classes[0] / "00000.png"
    image, _ = render("textures", split="train", index=0)
    assert Image.open(first).tobytes() == image.tobytes()

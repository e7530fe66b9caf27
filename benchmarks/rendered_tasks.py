"""Render image classification tasks with a known answer, for benchmarks that may download nothing.

They are synthetic: each imitates what decides in one kind of dataset of the paper (arXiv
2601.09322), not the dataset itself, and accuracies on them are not those of real data.

    task       classes  what decides                                     in the place of
    numbers         10  the middle one of three digits on a photograph   house numbers (SVHN)
    signs           15  outline and symbol, at any place and scale       traffic signs (GTSRB)
    fonts           16  the shapes of letters, in any word and size      fine-grained classes
    textures        12  spectrum and palette, no shape at all            textures (DTD), style
    counting         6  how many red discs there are among others        structured scenes
    distances        6  kind and distance of the nearest object          DMLab

    python benchmarks/rendered_tasks.py FOLDER [--task signs] [--train 1000] [--test 1000]
    layercache extract --model vit_nano --dataset folder:FOLDER/signs
    python benchmarks/rendered_tasks.py --sheet sheet.png

Photographs are the two that come with scikit-learn; training and test images show different parts
of them. Fonts are those of matplotlib (3.11 has all). The same seed gives the same pixels (with the
same Pillow); every image has a random generator of its own, so its pixels do not depend on how many
there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 112
"""Side of an image in pixels."""
SCALE = 2
"""Shapes are drawn this much larger, then reduced, so that their edges are smooth."""
SPLITS = ("train", "test")
PHOTO_COLUMNS = {"train": (0.0, 0.6), "test": (0.64, 1.0)}
"""Columns of a photograph that a split's backgrounds are cut from, as fractions of its width."""

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    *("cmr10", "cmss10", "cmtt10", "cmb10", "cmti10"),
)
"""Files of matplotlib's fonts, the classes of `fonts`."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OUTLINES = ("ring", "disc", "triangle")
SYMBOLS = ("up", "left", "right", "bar", "dots")
SPECTRA = ("fine", "coarse", "streaks", "blobs")
PALETTES = {"warm": (150, 120, 90), "cool": (90, 118, 148), "grey": (122, 122, 122)}
"""Name -> mean color (R, G, B) of a texture."""
NEAR = {"near": (2.0, 3.0), "middle": (4.0, 5.5), "far": (7.5, 10.0)}
"""Name -> range of the distance to the nearest object."""
HORIZON, EYE = 40, 120.0
"""Row of the horizon; rows below it at distance 1."""
RED = (205, 35, 35)
OTHER_COLORS = ((40, 90, 200), (40, 150, 60), (235, 195, 30), (120, 60, 160))

Draw = Callable[[Generator, int, str], Image.Image]


@dataclass(frozen=True)
class Task:
    """One task: `draw(rng, label, split)` returns an RGB image, SIZE x SIZE pixels."""

    classes: tuple[str, ...]
    draw: Draw


@cache
def photographs() -> list[Image.Image]:
    """Return scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_image

    return [Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")]


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of matplotlib's fonts, `size` pixels to the em."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def background(rng: Generator, split: str) -> Image.Image:
    """Return a random crop of a photograph, out of the columns of a split."""
    photo = photographs()[rng.integers(2)]
    first, last = (round(part * photo.width) for part in PHOTO_COLUMNS[split])
    side = int(rng.integers(SIZE, 200))
    left = int(rng.integers(first, last - side + 1))
    top = int(rng.integers(0, photo.height - side + 1))
    crop = photo.crop((left, top, left + side, top + side))
    return crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def contrasting(rng: Generator, image: Image.Image) -> tuple[int, int, int]:
    """Return a random color that is clearly lighter or darker than the image's mean."""
    mean = float(np.asarray(image.convert("L")).mean())
    low, high = (0, max(1, int(mean) - 70)) if mean > 127 else (min(254, int(mean) + 70), 255)
    r, g, b = (int(value) for value in rng.integers(low, high, 3))
    return r, g, b


def noisy(rng: Generator, image: Image.Image, *, sigma: float = 6.0) -> Image.Image:
    """Add normal noise to every channel of every pixel."""
    pixels = np.asarray(image, dtype=np.float64)
    return _to_image(pixels + rng.normal(0, sigma, pixels.shape))


def _to_image(pixels: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _canvas(size: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a transparent image and its pen, SCALE times `size`."""
    layer = Image.new("RGBA", (size * SCALE, size * SCALE), (0, 0, 0, 0))
    return layer, ImageDraw.Draw(layer)


def _reduced(layer: Image.Image, angle: float) -> Image.Image:
    """Rotate a layer by an angle in degrees and reduce it to pixels of the image."""
    layer = layer.rotate(angle, Image.Resampling.BICUBIC)
    return layer.resize((layer.width // SCALE, layer.height // SCALE), Image.Resampling.BOX)


def draw_numbers(rng: Generator, label: int, split: str) -> Image.Image:
    """Draw the digit `label` in the middle, part of another to its left and to its right."""
    image = background(rng, split).filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2))))
    height = int(rng.integers(52, 84))
    face = font(FONTS[rng.integers(len(FONTS))], height * SCALE)
    color = contrasting(rng, image)
    layer, pen = _canvas(SIZE)
    center = SIZE * SCALE / 2 + rng.uniform(-6, 6, 2) * SCALE
    step = height * SCALE * rng.uniform(0.62, 0.75)
    left, right = rng.integers(10, size=2)
    for place, digit in ((-1, left), (0, label), (1, right)):
        xy = (float(center[0] + place * step), float(center[1]))
        pen.text(xy, str(digit), font=face, fill=(*color, 255), anchor="mm")
    layer = _reduced(layer, float(rng.uniform(-10, 10)))
    image.paste(layer, mask=layer)
    return noisy(rng, image)


def draw_sign(rng: Generator, label: int, split: str) -> Image.Image:
    """Draw a sign of the class OUTLINES[label // 5], SYMBOLS[label % 5]."""
    outline, symbol = divmod(label, len(SYMBOLS))
    size = int(rng.integers(28, 60))
    layer, pen = _canvas(size)
    plate(pen, OUTLINES[outline], size * SCALE)
    paint_symbol(
        pen,
        SYMBOLS[symbol],
        size * SCALE,
        color=(250, 250, 250) if OUTLINES[outline] == "disc" else (20, 20, 20),
        low=0.08 if OUTLINES[outline] == "triangle" else 0.0,
    )
    layer = _reduced(layer, float(rng.uniform(-8, 8)))
    light = rng.uniform(0.6, 1.1)
    layer = Image.merge(
        "RGBA", [*(c.point(lambda v: int(v * light)) for c in layer.split()[:3]), layer.split()[3]]
    )
    image = background(rng, split)
    x, y = (int(v) for v in rng.integers(0, SIZE - size + 1, 2))
    image.paste(layer, (x, y), mask=layer)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(0.8))
    return noisy(rng, image)


def plate(pen: ImageDraw.ImageDraw, outline: str, side: int) -> None:
    """Draw the plate of a sign: a red ring, a blue disc or a red triangle."""
    edge = side // 9
    if outline == "triangle":
        pen.polygon([(side / 2, 0), (side - 1, side * 0.87), (0, side * 0.87)], fill=RED)
        corners = [(side / 2, 2 * edge), (side - 1 - 1.7 * edge, side * 0.87 - edge)]
        pen.polygon([*corners, (1.7 * edge, side * 0.87 - edge)], fill=(245, 245, 245))
        return
    pen.ellipse((0, 0, side - 1, side - 1), fill=RED if outline == "ring" else (25, 80, 180))
    if outline == "ring":
        pen.ellipse((edge, edge, side - 1 - edge, side - 1 - edge), fill=(245, 245, 245))


def paint_symbol(
    pen: ImageDraw.ImageDraw,
    symbol: str,
    side: int,
    *,
    color: tuple[int, int, int],
    low: float,
) -> None:
    """Draw the symbol of a sign, moved down by `low` of its side."""
    arrow = [(0.5, 0.28), (0.66, 0.48), (0.55, 0.48), (0.55, 0.7), (0.45, 0.7), (0.45, 0.48)]
    arrow.append((0.34, 0.48))
    turned = {"up": arrow, "left": [(y, 1 - x) for x, y in arrow]}
    turned["right"] = [(1 - x, y) for x, y in turned["left"]]
    if symbol in turned:
        pen.polygon([(x * side, (y + low) * side) for x, y in turned[symbol]], fill=color)
    elif symbol == "bar":
        pen.rectangle([side * v for v in (0.3, 0.45 + low, 0.7, 0.56 + low)], fill=color)
    else:
        for x in (0.38, 0.62):
            box = (x - 0.08, 0.42 + low, x + 0.08, 0.58 + low)
            pen.ellipse([side * v for v in box], fill=color)


def draw_font(rng: Generator, label: int, split: str) -> Image.Image:
    """Draw three random letters in the font FONTS[label]."""
    del split  # letters have no background that could be shared
    text = "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=3))
    paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 90))
    layer, pen = _canvas(SIZE)
    size = int(rng.integers(34, 54)) * SCALE
    xy = SIZE * SCALE / 2 + rng.uniform(-10, 10, 2) * SCALE
    face = font(FONTS[label], size)
    pen.text((float(xy[0]), float(xy[1])), text, font=face, fill=(ink,) * 3, anchor="mm")
    layer = _reduced(layer, float(rng.uniform(-4, 4)))
    image = Image.new("RGB", (SIZE, SIZE), (paper, paper, paper))
    image.paste(layer, mask=layer)
    return noisy(rng, image)


def draw_texture(rng: Generator, label: int, split: str) -> Image.Image:
    """Draw noise with the spectrum SPECTRA[label // 3] in the label % 3-th palette."""
    del split
    spectrum, palette = divmod(label, len(PALETTES))
    color = np.array(list(PALETTES.values())[palette], dtype=np.float64) + rng.normal(0, 16, 3)
    fields = np.stack([random_field(rng, SPECTRA[spectrum]) for _ in range(3)], axis=-1)
    mixing = np.full((3, 3), 0.45) + np.eye(3) * 0.55
    return noisy(rng, _to_image(color + rng.uniform(16, 34) * fields @ mixing), sigma=4)


def random_field(rng: Generator, spectrum: str) -> np.ndarray[Any, Any]:
    """Return normal noise of mean 0 and variance 1 with a power spectrum, float64 (SIZE, SIZE)."""
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None]
    frequency = np.maximum(np.hypot(fx, fy), 1 / SIZE)
    if spectrum == "streaks":
        angle = rng.uniform(0, np.pi)
        along, across = (
            fx * np.cos(angle) + fy * np.sin(angle),
            fy * np.cos(angle) - fx * np.sin(angle),
        )
        frequency = np.maximum(np.hypot(4 * along, across), 1 / SIZE)
    exponent = rng.uniform(0.7, 1.1) if spectrum == "fine" else rng.uniform(1.2, 1.6)
    amplitude = frequency**-exponent
    if spectrum == "blobs":
        center = rng.uniform(0.06, 0.12)
        amplitude = np.exp(-(((frequency - center) / 0.02) ** 2))
    noise = np.fft.fft2(rng.normal(size=(SIZE, SIZE)))
    field = np.fft.ifft2(noise * amplitude).real
    return (field - field.mean()) / field.std()


def draw_count(rng: Generator, label: int, split: str) -> Image.Image:
    """Draw `label` + 1 red discs and 2 to 7 discs of other colors, none of which touch."""
    image = background(rng, split).filter(ImageFilter.GaussianBlur(6))
    image = Image.blend(image, Image.new("RGB", image.size, (225, 225, 225)), 0.6)
    image = noisy(rng, image)
    pen = ImageDraw.Draw(image)
    others = rng.integers(len(OTHER_COLORS), size=rng.integers(2, 8))
    colors = [RED] * (label + 1) + [OTHER_COLORS[i] for i in others]
    radii = rng.integers(4, 10, len(colors))
    for color, radius, (x, y) in zip(colors, radii, place_discs(rng, radii), strict=True):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return image


def place_discs(rng: Generator, radii: Sequence[int] | np.ndarray[Any, Any]) -> list[list[int]]:
    """Return centers (x, y) of discs that do not touch each other nor the edge."""
    while True:
        centers: list[list[int]] = []
        for i, radius in enumerate(radii):
            for _ in range(100):
                x, y = (int(v) for v in rng.integers(radius + 1, SIZE - radius - 1, 2))
                if all(
                    np.hypot(x - a, y - b) > radius + r + 3
                    for (a, b), r in zip(centers, radii[:i], strict=True)
                ):
                    centers.append([x, y])
                    break
        if len(centers) == len(radii):
            return centers


def draw_distance(rng: Generator, label: int, split: str) -> Image.Image:
    """Draw objects on a floor; the nearest is a ball (label < 3) or a box, at NEAR[label % 3]."""
    del split
    box, band = divmod(label, len(NEAR))
    floor, wall = rng.integers(60, 150, 3), rng.integers(120, 220, 3)
    image = _to_image(scene(rng, floor=floor, wall=wall))
    nearest = float(rng.uniform(*list(NEAR.values())[band]))
    objects = [(nearest, bool(box))]
    for _ in range(rng.integers(1, 4)):
        objects.append((nearest * float(rng.uniform(1.5, 2.5)), bool(rng.random() < 0.5)))
    pen = ImageDraw.Draw(image)
    columns = rng.permutation(4) * 26 + 17 + rng.integers(-4, 5, 4)
    for (distance, is_box), column in sorted(zip(objects, columns, strict=False), reverse=True):
        radius = 45 * float(rng.uniform(0.8, 1.2)) / distance
        bottom = HORIZON + EYE / distance
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        bounds = (column - radius, bottom - 2 * radius, column + radius, bottom)
        (pen.rectangle if is_box else pen.ellipse)(bounds, fill=color, outline=(15, 15, 15))
    return noisy(rng, image)


def scene(
    rng: Generator, *, floor: np.ndarray[Any, Any], wall: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return a tiled floor below a wall in perspective, float64 (SIZE, SIZE, 3)."""
    pixels = np.empty((SIZE, SIZE, 3))
    pixels[:HORIZON] = wall
    rows = np.arange(HORIZON, SIZE)[:, None]
    distance = EYE / (rows - HORIZON + 1)
    across = (np.arange(SIZE)[None] - SIZE / 2) * distance / EYE
    tiles = (np.floor(distance + rng.uniform(0, 2)) + np.floor(2 * across + rng.uniform(0, 2))) % 2
    pixels[HORIZON:] = floor * (1 + 0.35 * tiles[..., None])
    return pixels


TASKS = {
    "numbers": Task(tuple("0123456789"), draw_numbers),
    "signs": Task(tuple(f"{o} {s}" for o in OUTLINES for s in SYMBOLS), draw_sign),
    "fonts": Task(FONTS, draw_font),
    "textures": Task(tuple(f"{s} {p}" for s in SPECTRA for p in PALETTES), draw_texture),
    "counting": Task(tuple("123456"), draw_count),
    "distances": Task(tuple(f"{o} {d}" for o in ("ball", "box") for d in NEAR), draw_distance),
}


def render(task: str, *, split: str, index: int, seed: int = 0) -> tuple[Image.Image, int]:
    """Return image `index` of a split and its label; classes take turns."""
    label = index % len(TASKS[task].classes)
    key = [seed, list(TASKS).index(task), SPLITS.index(split), index]
    return TASKS[task].draw(np.random.default_rng(key), label, split), label


def write_task(folder: Path, task: str, *, train: int, test: int, seed: int = 0) -> None:
    """Write FOLDER/TASK/SPLIT/CLASS/NUMBER.png, for `layercache extract -d folder:FOLDER/TASK`."""
    for split, count in zip(SPLITS, (train, test), strict=True):
        for index in range(count):
            image, label = render(task, split=split, index=index, seed=seed)
            path = folder / task / split / TASKS[task].classes[label] / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def sheet(*, columns: int = 12, seed: int = 0) -> Image.Image:
    """Return a contact sheet: one row of test images for each task."""
    page = Image.new("RGB", (columns * (SIZE + 4), len(TASKS) * (SIZE + 4)), "white")
    for row, task in enumerate(TASKS):
        for column in range(columns):
            image, _ = render(task, split="test", index=column, seed=seed)
            page.paste(image, (column * (SIZE + 4), row * (SIZE + 4)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--task", action="append", choices=list(TASKS), help="default: all")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet instead of a dataset")
    args = parser.parse_args()
    if args.sheet:
        sheet(seed=args.seed).save(args.sheet)
        return
    if args.folder is None:
        parser.error("give the folder to write to, or --sheet FILE")
    for task in args.task or TASKS:
        write_task(args.folder, task, train=args.train, test=args.test, seed=args.seed)
        print(f"{task}: {args.train} + {args.test} images in {args.folder / task}")


if __name__ == "__main__":
    main()

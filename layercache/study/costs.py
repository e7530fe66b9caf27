"""How long a cell will take, roughly: what weighs the cells of a progress bar against each other.

Counted floating point operations over an assumed rate. A wrong rate scales all cells alike and the bar's own clock corrects it; what matters is
the ratio of an ImageNet extraction to a probe on digits, which is some ten thousand.

Shapes: N images, S tokens, D width, C classes, H attention heads, G settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from layercache.cache.format.selection import parse_layers
from layercache.errors import LayercacheError
from layercache.extraction.datasets.listing import DATASETS
from layercache.extraction.models.registry import MODELS, ModelInfo
from layercache.study.plan import PlannedExtraction, PlannedJob, PlannedProbe

RATE = 5e10
"""Operations per second."""
PER_IMAGE = 1e-3
"""Seconds of decoding and writing an image."""
PER_STEP = 5e-4
"""Seconds of a step of one setting, whatever its size."""
LEAST = 0.1
"""Seconds of the smallest cell."""
UNKNOWN = ModelInfo(
    name="",
    architecture="",
    params_m=86.0,
    width=768,
    depth=12,
    input_size=224,
    patch_size=16,
    note="",
)
"""What is assumed of a model that is not in the catalogue: a ViT-B/16."""
UNKNOWN_ROWS = (8000, 2000)
UNKNOWN_CLASSES = 100


@dataclass(frozen=True)
class Size:
    """What is known of a data set without opening it."""

    train: int
    test: int
    classes: int


def size_of(extraction: PlannedExtraction) -> Size:
    """From the catalogue, shortened by the limit; a guess for a source of one's own."""
    entry = DATASETS.get(str(extraction.options.dataset))
    train, test = (entry.num_train, entry.num_test) if entry else UNKNOWN_ROWS
    most = extraction.options.limit or max(train, test)
    return Size(min(train, most), min(test, most), entry.num_classes if entry else UNKNOWN_CLASSES)


def patches(info: ModelInfo) -> int:
    """Patch tokens of an image."""
    return (info.input_size // info.patch_size) ** 2


def cost(cell: PlannedJob) -> float:
    """Seconds, roughly."""
    return max(LEAST, _extraction(cell) if isinstance(cell, PlannedExtraction) else _training(cell))


def _extraction(cell: PlannedExtraction) -> float:
    info, size = MODELS.get(cell.model, UNKNOWN), size_of(cell)
    operations = (
        2e6 * info.params_m * (patches(info) + 1)
    )  # of one image: two for every parameter and token
    return (size.train + size.test) * (operations / RATE + PER_IMAGE)


def _training(cell: PlannedProbe) -> float:
    """Three times the forward's operations for every setting, then once more for the final fit; a baseline counts as one fit."""
    info, size = MODELS.get(cell.model, UNKNOWN), size_of(cell.cache)
    rows = max(
        size.train
        if cell.head.options.get("shots") is None
        else cell.head.options["shots"] * size.classes,
        2,
    )
    try:
        schedule = cell.head.protocol.schedule(rows)
    except LayercacheError:
        return LEAST  # the probe itself will say why
    tokens, width = tokens_seen(cell, info), info.width
    if cell.head.head == "linear" or not cell.head.settings:
        operations = 2.0 * tokens * width * size.classes
    else:
        heads = cell.head.options.get("heads") or (
            8 if cell.head.head == "attentive-tokens" else tokens
        )
        # two products over the tokens, the value and output maps of width 2D, the classifier
        operations = 4.0 * tokens * width * heads + 8.0 * width**2 + 2.0 * width * size.classes
    fits = len(cell.head.settings) + 1
    return (
        len(cell.seeds)
        * schedule.steps
        * fits
        * (3 * schedule.batch_size * operations / RATE + PER_STEP)
    )


def tokens_seen(cell: PlannedProbe, info: ModelInfo) -> int:
    """S of a head, as far as the words tell."""
    return _count(cell.head.layers, cell.head.tokens, info) + (
        _count(cell.head.options.get("spatial_layers", "last"), cell.head.options["spatial"], info)
        if "spatial" in cell.head.options
        else 0
    )


def _count(layers: str, tokens: str, info: ModelInfo) -> int:
    try:
        n_layers = len(parse_layers(layers, info.depth))
    except LayercacheError:
        n_layers = 1
    sizes = {"cls": 1, "ap": 1, "all": patches(info) + 1, "patch": patches(info)}
    return n_layers * sum(
        int(word[5:]) ** 2 if word.startswith("grid:") else sizes.get(word, 1)
        for word in tokens.split("+")
    )

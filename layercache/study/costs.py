"""Rough duration of a job, which weighs the jobs of a progress bar against each other.

Counts floating point operations and divides by an assumed rate. A wrong rate scales all jobs alike
and the bar's own clock corrects it; what matters is the ratio of an ImageNet extraction to a probe
on digits, about ten thousand.

Shapes: N images, S tokens, D width, C classes, H attention heads, G configurations.
"""

from __future__ import annotations

from dataclasses import dataclass

from layercache.cache.format.layers_and_tokens import parse_layers
from layercache.errors import LayercacheError
from layercache.extraction.datasets.registry import DATASETS
from layercache.extraction.models.registry import MODELS, ModelInfo
from layercache.probing.heads.spec import ALL_TOKEN_HEADS, EFFICIENT_QUERIES, WITHOUT_DROPOUT
from layercache.study.plan import PlannedExtraction, PlannedJob, PlannedProbe

OPERATIONS_PER_S = 5e10
"""Assumed floating point operations per second."""
SECONDS_PER_IMAGE = 1e-3
"""Seconds to decode and write an image."""
SECONDS_PER_STEP = 5e-4
"""Overhead of a training step of one configuration, in seconds."""
MIN_SECONDS = 0.1
"""Smallest duration of a job, in seconds."""
UNKNOWN_MODEL = ModelInfo(
    name="",
    architecture="",
    params_m=86.0,
    width=768,
    depth=12,
    input_size=224,
    patch_size=16,
    note="",
)
"""Model assumed for a name that is not in the catalogue: a ViT-B/16."""
UNKNOWN_ROWS = (8000, 2000)
UNKNOWN_CLASSES = 100


@dataclass(frozen=True)
class Size:
    """Numbers of images and classes of a dataset, known without opening it."""

    train: int
    test: int
    classes: int


def size_of(extraction: PlannedExtraction) -> Size:
    """Return the size from the catalogue, cut to the limit; a guess for a user's own source."""
    entry = DATASETS.get(str(extraction.options.dataset))
    train, test = (entry.num_train, entry.num_test) if entry else UNKNOWN_ROWS
    max_rows = extraction.options.limit or max(train, test)
    return Size(
        min(train, max_rows), min(test, max_rows), entry.num_classes if entry else UNKNOWN_CLASSES
    )


def patches(info: ModelInfo) -> int:
    """Return the number of patch tokens of an image."""
    return (info.input_size // info.patch_size) ** 2


def cost(job: PlannedJob) -> float:
    """Return the rough duration of a job in seconds."""
    seconds = _extraction(job) if isinstance(job, PlannedExtraction) else _training(job)
    return max(MIN_SECONDS, seconds)


def _extraction(job: PlannedExtraction) -> float:
    info, size = MODELS.get(job.model, UNKNOWN_MODEL), size_of(job)
    # Two operations for each parameter and token of an image.
    operations = 2e6 * info.params_m * (patches(info) + 1)
    return (size.train + size.test) * (operations / OPERATIONS_PER_S + SECONDS_PER_IMAGE)


def _training(job: PlannedProbe) -> float:
    """Return the seconds to train all configurations and the refit; a baseline is one fit."""
    info, size = MODELS.get(job.model, UNKNOWN_MODEL), size_of(job.cache)
    shots = job.head.options.get("shots")
    rows = max(2, size.train if shots is None else shots * size.classes)
    try:
        schedule = job.head.train_config.schedule(rows)
    except LayercacheError:
        return MIN_SECONDS  # the probe itself reports the error
    tokens = tokens_seen(job, info)
    width = info.width * (4 if job.cache.options.tap in ("fc1", "act") else 1)
    if job.head.head in WITHOUT_DROPOUT or not job.head.configs:
        operations = 2.0 * tokens * width * size.classes
    else:
        defaults = {"attentive-tokens": ALL_TOKEN_HEADS, "efficient": EFFICIENT_QUERIES}
        heads = job.head.options.get("num_heads") or defaults.get(job.head.head, tokens)
        # two products over the tokens, the value and output maps of width 2D, the classifier
        operations = 4.0 * tokens * width * heads + 8.0 * width**2 + 2.0 * width * size.classes
    n_folds = (job.splits.get("folds") or 1) * (job.splits.get("repeats") or 1)
    fits = len(job.head.configs) * n_folds + 1
    return (
        len(job.seeds)
        * schedule.steps
        * fits
        * (3 * schedule.batch_size * operations / OPERATIONS_PER_S + SECONDS_PER_STEP)
    )


def tokens_seen(job: PlannedProbe, info: ModelInfo) -> int:
    """Return S of a head, as far as the study file determines it."""
    encoders = 1 + len(job.joined)
    return encoders * _count(job.head.layers, job.head.tokens, info) + (
        _count(job.head.options.get("spatial_layers", "last"), job.head.options["spatial"], info)
        if "spatial" in job.head.options
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

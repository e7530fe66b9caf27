"""What the commands of each page find in the reader's folder."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import layercache
from benchmarks import questions
from layercache.testing import write_cache
from tests.docs.session import Session
from tests.objects import server


def empty_folder(_: Session) -> None:
    """Prepare nothing."""


def clip_on_pets(session: Session) -> None:
    """Write a cache of dataset pets, its columns in table.csv, and a probe."""
    rng = np.random.default_rng(0)
    labels = {
        "train": np.arange(60) % 3,
        "test": np.arange(30) % 3,
        "unlabelled_test": np.arange(9),
    }
    means = 2 * rng.normal(size=(3, 8))
    tokens = {
        split: (means[y % 3] + rng.normal(size=(4, 2, len(y), 8))).astype(np.float16)
        for split, y in labels.items()
    }
    labels["unlabelled_test"] = np.full(9, -1)
    cache = write_cache(
        tokens, labels, root=session.home, model="clip_b16", dataset="pets", classes=3
    )
    with Path("table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "split", "breed", "age", "indoors", "leash", "toy", "patient"])
        for split in labels:
            for row, sample in enumerate(cache.split(split).ids):
                flags = rng.integers(0, 2, 3).tolist()
                breed = ("beagle", "boxer", "pug")[row % 3]
                table.writerow([sample, split, breed, f"{rng.gamma(2.0):.2f}", *flags, row // 3])
    layercache.annotate(cache, "table.csv")
    layercache.probe(cache, head="ridge", layers="last", progress=False)


def digits_with_a_probe(session: Session) -> None:
    """Extract digits, train a probe and write images of digits."""
    (extraction,) = layercache.extract(models="vit_nano", dataset="digits", progress=False)
    layercache.probe(extraction.open(), head="ridge", layers="last", progress=False)
    images(session)


def tokens_and_codes(session: Session) -> None:
    """Extract digits: CLS and AP as they are, patch tokens as principal components."""
    extractions = layercache.extract(
        models="vit_nano",
        dataset="digits",
        spatial="patch",
        spatial_layers="quarter",
        store="pca:8",
        progress=False,
    )
    for extraction in extractions:
        name = "SPATIAL_CACHE" if extraction.open().spec.codec else "CACHE"
        session.stand_ins[name] = str(extraction.path)


def images(_: Session) -> None:
    """Write digits: labelled/CLASS/*.png, photos/*.png with photos.csv, and photo.jpg."""
    samples = layercache.open_dataset("digits").split("test")
    Path("photos").mkdir()
    with Path("photos.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for row in range(8):
            label = str(samples.labels[row])
            folder = Path("labelled") / label
            folder.mkdir(parents=True, exist_ok=True)
            samples.load(row).save(folder / f"{row}.png")
            samples.load(row).save(f"photos/{row}.png")
            table.writerow([f"photos/{row}.png", label])
    samples.load(0).convert("RGB").save("photo.jpg")


def digits_as_files(session: Session) -> None:
    """Extract digits as files with splits train, test and night; write images, too."""
    digits = layercache.open_dataset("digits")
    Path("digits").mkdir()
    with Path("digits/table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for split, source in {"train": "train", "test": "test", "night": "test"}.items():
            samples = digits.split(source)
            for row in range(50):
                name = f"{split}-{row}.png"
                samples.load(row).save(Path("digits") / name)
                table.writerow([name, samples.labels[row], split])
    layercache.extract(models="vit_nano", dataset="csv:digits/table.csv", progress=False)
    images(session)


def own_images(_: Session) -> None:
    """Write my-images/SPLIT/CLASS/*.png."""
    rng = np.random.default_rng(0)
    for split, n in {"train": 20, "test": 10}.items():
        for label, name in enumerate(("cat", "dog", "owl")):
            folder = Path("my-images") / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(80 * label, 80 * label + 90, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def images_and_tables(session: Session) -> None:
    """Write images with tables, of which one has other columns than usual."""
    own_images(session)
    files = sorted(Path("my-images").rglob("*.png"))
    rows = [(str(file), file.parts[2], file.parts[1]) for file in files]
    for name, header in {
        "birds.csv": ("path", "label", "split"),
        "birds2.csv": ("file", "species", "part"),
    }.items():
        with Path(name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


def several_test_sets(session: Session) -> None:
    """Write caches with further test splits, and of further datasets of the same encoder."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(3, 8))
    datasets = {
        "main": ("train", "test", "night"),
        "imagenet_v2": ("test",),
        "other_hospital": ("val",),
    }
    for dataset, splits in datasets.items():
        labels = {split: np.arange(60 if split == "train" else 30) % 3 for split in splits}
        tokens = {
            split: (means[y] + rng.normal(size=(2, 2, len(y), 8))).astype(np.float16)
            for split, y in labels.items()
        }
        write_cache(tokens, labels, root=session.home, dataset=dataset, model="vit_b16")


def five_questions(session: Session) -> None:
    """Write the images and tables of benchmarks/questions.py, fewer of them."""
    session.monkeypatch.setattr(questions, "N_TRAIN", 125)
    session.monkeypatch.setattr(questions, "N_TEST", 25)
    questions.write_images(Path("digits"))


def s3_server(session: Session) -> None:
    """Start moto's S3 server, with a bucket."""
    folder = Path("moto")
    folder.mkdir()
    running = session.enter_context(server.running("moto", folder))
    for name, value in server.environment(running).items():
        session.monkeypatch.setenv(name, value)
    session.monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def three_encoders(session: Session) -> None:
    """Write caches of the same images by encoders of other weights and widths."""
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(60) % 3, "test": np.arange(30) % 3}
    for number, (model, width) in enumerate(
        {"dinov2_b14": 16, "clip_b16": 12, "vit_s16": 8}.items()
    ):
        means = 2 * rng.normal(size=(3, width))
        tokens = {
            split: (means[y] + rng.normal(size=(2, 2, len(y), width))).astype(np.float16)
            for split, y in labels.items()
        }
        write_cache(
            tokens,
            labels,
            root=session.home,
            model=model,
            dataset="pets",
            weights=f"{number:02x}" * 32,
        )


def pets_to_share(session: Session) -> None:
    """Write the cache of pets; with the slow commands, start an S3 server to push it to."""
    clip_on_pets(session)
    if session.slow:
        s3_server(session)


@dataclass(frozen=True)
class Stage:
    """How a page is run."""

    prepare: Callable[[Session], None] = empty_folder
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    """Words of the page -> what runs instead: an encoder that needs no download, a folder of the
    test. CACHE and PROBE need none (see `Session`)."""
    slow: tuple[str, ...] = ()
    """First words of commands that only `make slow` runs; "" is the whole page."""
    prints: tuple[str, ...] = ()
    """Parts of what the commands print."""


_BUCKET = f"s3://{server.BUCKET}/caches"
_IMAGES = {"FOLDER": "labelled", "IMAGES": "photos", "TABLE.csv": "photos.csv"}

STAGES: Mapping[str, Stage] = {
    "README.md": Stage(images, {"clip_b16": "vit_nano", "flowers": "digits"}),
    "docs/index.md": Stage(
        own_images, {"vit_b16": "vit_nano", "/data/my-images": "my-images"}, slow=("",)
    ),
    "docs/few-shot.md": Stage(slow=("",)),
    "docs/images.md": Stage(images_and_tables, {"vit_b16": "vit_nano"}),
    "docs/scale.md": Stage(slow=("python benchmarks/cost.py",)),
    "docs/annotations.md": Stage(clip_on_pets),
    "docs/targets.md": Stage(clip_on_pets),
    "docs/heads.md": Stage(clip_on_pets),
    "docs/splits.md": Stage(several_test_sets),
    "docs/scan.md": Stage(digits_with_a_probe),
    "docs/metrics.md": Stage(digits_as_files, _IMAGES),
    "docs/predict.md": Stage(
        digits_with_a_probe, _IMAGES, slow=("layercache export", "import numpy")
    ),
    "docs/models.md": Stage(prints=("Encoder:VisionTransformer(blocks='encoder.layers'",)),
    "docs/cache-format.md": Stage(tokens_and_codes),
    "docs/spatial.md": Stage(
        stand_ins={"clip_b16": "vit_nano", "flowers": "digits", "pca:92": "pca:8"}, slow=("",)
    ),
    "docs/resume.md": Stage(
        own_images,
        {
            "vit_b16": "vit_nano",
            "folder:images": "folder:my-images",
            "--dataset images": "--dataset my-images",
        },
        slow=("timeout",),
    ),
    "docs/several.md": Stage(three_encoders),
    "docs/share.md": Stage(
        pets_to_share,
        {"/mnt/lab/caches": "lab", "s3://my-bucket/caches": _BUCKET},
        slow=(
            "layercache cache push --model clip_b16 --dataset pets --to s3://",
            "layercache cache pull s3://",
        ),
    ),
    "docs/reproduce.md": Stage(
        digits_with_a_probe,
        stand_ins={"clip_b16": "vit_nano", "flowers": "digits"},
        slow=("layercache study one-cell.toml",),
    ),
    "docs/questions.md": Stage(five_questions, prints=("labels updated without an extraction",)),
    "docs/study.md": Stage(slow=("layercache study study.toml",)),
    "docs/objects.md": Stage(
        s3_server,
        {
            "dinov2_b14": "vit_nano",
            "flowers": "digits",
            "s3://my-bucket/caches": _BUCKET,
        },
        slow=("",),
    ),
}
"""By page; a page that is not here begins in an empty folder."""

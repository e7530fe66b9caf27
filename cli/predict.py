"""`layercache predict`: image files through a trained head."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from layercache.deploy import Predictions

Head = Annotated[
    str,
    typer.Argument(
        help="A probe's folder (CACHE/probes/ID; layercache results lists them) or its head.safetensors."
    ),
]
Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE...",
        help="Image files, and folders whose images are taken, subfolders included.",
    ),
]
TopK = Annotated[int, typer.Option("--top-k", "-k", help="Classes shown for each image.")]
Format = Annotated[str, typer.Option(help="table | csv | json.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="The checkpoint that the tokens were extracted with, if it was a local file.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda.")]
Precision = Annotated[str, typer.Option(help="Arithmetic of the backbone: fp32 | bf16 | fp16.")]
BatchSize = Annotated[int, typer.Option(help="Images of one forward.")]
OnError = Annotated[
    str, typer.Option(help="An image that cannot be decoded: stop | skip (and list it at the end).")
]

FORMATS = ("table", "csv", "json")


def predict(
    head: Head,
    images: Images,
    *,
    top_k: TopK = 5,
    format: Format = "table",
    weights: Weights = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: BatchSize = 32,
    on_error: OnError = "stop",
) -> None:
    """Classify images with a trained head.

    Probabilities are a softmax over the classes, or for a multi-label head a sigmoid of each.
    """
    from layercache.deploy import load_head
    from layercache.deploy import predict as classify
    from layercache.errors import UnknownNameError

    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    classifier = load_head(head).with_backbone(weights=weights, device=device, precision=precision)
    found = classify(classifier, images, top_k=top_k, batch_size=batch_size, on_error=on_error)  # type: ignore[arg-type]  # checked there
    {"table": _table, "csv": _csv, "json": _json}[format](found)
    if found.skipped:
        typer.echo(
            f"{len(found.skipped)} of {len(found.skipped) + len(found.images)} images skipped:",
            err=True,
        )
        for why in found.skipped.values():
            typer.echo(f"  {why}", err=True)


def _table(found: Predictions) -> None:
    width = max((len(image.image) for image in found.images), default=0)
    for image in found.images:
        said = "  ".join(
            f"{name} {100 * p:.1f} %"
            for name, p in zip(image.classes, image.probabilities, strict=True)
        )
        typer.echo(f"{image.image:<{width}}  {said}")


def _csv(found: Predictions) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for image in found.images:
        for rank, (name, p) in enumerate(zip(image.classes, image.probabilities, strict=True), 1):
            writer.writerow([image.image, rank, name, f"{p:.6f}"])


def _json(found: Predictions) -> None:
    images = [
        {
            "image": image.image,
            "top": [
                {"class": name, "probability": round(p, 6)}
                for name, p in zip(image.classes, image.probabilities, strict=True)
            ],
        }
        for image in found.images
    ]
    typer.echo(
        json.dumps({"images": images, "skipped": dict(found.skipped)}, indent=1, ensure_ascii=False)
    )

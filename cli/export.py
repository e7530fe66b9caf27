"""`layercache export`: a trained head with its backbone as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Head = Annotated[
    str,
    typer.Argument(
        help="A probe's folder (CACHE/probes/ID; layercache results lists them) or its head.safetensors."
    ),
]
Onnx = Annotated[Path | None, typer.Option(help="Write ONNX here.", show_default=False)]
Torch = Annotated[
    Path | None, typer.Option(help="Write torch.export's .pt2 here.", show_default=False)
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="The checkpoint that the tokens were extracted with, if it was a local file.",
        show_default=False,
    ),
]
Card = Annotated[Path | None, typer.Option(help="Write the card alone here.", show_default=False)]
Check = Annotated[
    list[Path] | None, typer.Option(help="Check on this image too; repeatable.", show_default=False)
]


def export(
    head: Head,
    *,
    onnx: Onnx = None,
    torch: Torch = None,
    card: Card = None,
    weights: Weights = None,
    check: Check = None,
) -> None:
    """Write a trained head with its backbone as ONNX or torch.export.

    The file takes preprocessed float32 images (batch, 3, H, W) and gives logits. It is checked on real images against the original before it is
    put in its place; a card in markdown is written beside it.
    """
    from layercache.deploy import export_onnx, export_torch, load_head
    from layercache.deploy.predict import read_images
    from layercache.errors import OptionError

    if onnx is None and torch is None and card is None:
        raise OptionError(
            "say what to write: --onnx FILE, --torch FILE.pt2, --card FILE.md (or several)"
        )
    loaded = load_head(head)
    if card is not None:
        card.write_text(loaded.card())
        typer.echo(f"card: {card}")
    if onnx is None and torch is None:
        return
    classifier = loaded.with_backbone(weights=weights, device="cpu")
    images = read_images(check or [])
    for write, path in ((export_onnx, onnx), (export_torch, torch)):
        if path is None:
            continue
        done = write(classifier, path, images=images)
        beside = path.with_name(path.name + ".md")
        beside.write_text(loaded.card())
        typer.echo(
            f"{done.path}: {done.bytes / 1e6:.1f} MB; on {done.images} real images, together and one by one, its logits differ by at most "
            f"{done.max_difference:.1g}\ncard: {beside}"
        )

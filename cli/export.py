"""`layercache export`: write a trained head and its backbone as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli._terminal import echo
from layercache_cli.options.shared import (
    MovedModel,
    Offline,
    ProbesRoot,
    RecordedWeights,
    Root,
    SavedHead,
)

Onnx = Annotated[Path | None, typer.Option(help="ONNX file to write.", show_default=False)]
Torch = Annotated[
    Path | None, typer.Option(help="torch.export file (.pt2) to write.", show_default=False)
]
Card = Annotated[
    Path | None, typer.Option(help="Markdown file to write the card to.", show_default=False)
]
Check = Annotated[
    list[Path] | None,
    typer.Option(help="Image to check the file on, too. Repeatable.", show_default=False),
]


def export(
    head: SavedHead,
    *,
    onnx: Onnx = None,
    torch: Torch = None,
    card: Card = None,
    model: MovedModel = None,
    weights: RecordedWeights = None,
    offline: Offline = False,
    check: Check = None,
    cache: Root = None,
    probes: ProbesRoot = None,
) -> None:
    """Export a trained head with its backbone to ONNX or torch.export.

    The file maps preprocessed float32 images (batch, 3, H, W) to logits, or to
    the predicted values of a regression. It is checked on real images against
    the original before it is written, with a model card in markdown next to it.
    """
    from layercache._units import format_bytes
    from layercache.deploy import export_onnx, export_torch, load_model
    from layercache.deploy.card import write_card
    from layercache.deploy.predict import read_images
    from layercache.errors import OptionError
    from layercache.probing.results.head_checkpoint import load_head
    from layercache.probing.results.lookup import find_probe

    if onnx is None and torch is None and card is None:
        raise OptionError(
            "nothing to write: pass --onnx FILE, --torch FILE.pt2 or --card FILE.md (or several)"
        )
    folder = find_probe(head, root=cache, probes_root=probes)
    checkpoint = load_head(folder)
    card_text = write_card(checkpoint, folder)
    if card is not None:
        card.write_text(card_text)
        echo(f"card: {card}")
    if onnx is None and torch is None:
        return
    loaded = load_model(
        checkpoint, model=model, weights=weights, device="cpu", precision="fp32", offline=offline
    )
    images = read_images(check or [])
    for write, path in ((export_onnx, onnx), (export_torch, torch)):
        if path is None:
            continue
        result = write(loaded, path, images=images)
        card_path = path.with_name(path.name + ".md")
        card_path.write_text(card_text)
        echo(
            f"{result.path}: {format_bytes(result.bytes)}; on {result.images} real images, in one "
            "batch and one at a time, the output differs from the original's by at most "
            f"{result.max_difference:.1g}"
        )
        echo(f"card: {card_path}")

"""`layercache models`: which backbones there are, and what one of them offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from layercache.extraction.models.registry import ModelInfo


def models(
    name: Annotated[
        str,
        typer.Argument(
            help="Show this one: a listed name or any ViT of timm by its timm name.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """List the backbones; with NAME, say what that one offers."""
    if name:
        from layercache.extraction.models.timm_source import inspect

        _show(inspect(name))
    else:
        from layercache.extraction.models.registry import MODELS

        _list(list(MODELS.values()))


def _list(infos: list[ModelInfo]) -> None:
    rows = [
        (
            "name",
            "timm architecture",
            "params",
            "width",
            "layers",
            "input",
            "patch",
            "tokens",
            "weights",
        )
    ]
    rows += [
        (
            i.name,
            i.architecture,
            f"{i.params_m:.1f} M",
            f"{i.width}",
            f"{i.depth}",
            f"{i.input_size}",
            f"{i.patch}",
            " ".join(i.tokens),
            i.note,
        )
        for i in infos
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(8)]
    for row in rows:
        cells = [
            cell.rjust(w) if 2 <= k <= 6 else cell.ljust(w)
            for k, (cell, w) in enumerate(zip(row[:8], widths, strict=True))
        ]
        typer.echo("  ".join([*cells, row[8]]))
    typer.echo(
        "\nAny other ViT goes by its timm name: layercache models vit_base_patch16_siglip_224.webli"
    )
    typer.echo(
        "Weights are downloaded by timm on first use; --weights FILE takes a local checkpoint (safetensors or torch)."
    )


def _show(info: ModelInfo) -> None:
    facts = {
        "timm architecture": info.architecture,
        "parameters": f"{info.params_m:.2f} M, without the classifier",
        "width": f"{info.width}",
        "layers": f"{info.depth}",
        "input": f"{info.input_size} x {info.input_size}, patches of {info.patch} x {info.patch}",
        "tokens": ", ".join(info.tokens)
        + ("" if info.class_token else " (no class token: pass --tokens ap)"),
        "weights": info.note,
    }
    typer.echo(info.name)
    for what, value in facts.items():
        typer.echo(f"  {what.ljust(18)} {value}")

"""`layercache models`: list the backbones, describe one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from layercache_cli._terminal import echo, echo_lines

if TYPE_CHECKING:
    from layercache.extraction.models.registry import ModelInfo


def models(
    name: Annotated[
        str,
        typer.Argument(
            help="Backbone to describe: a listed name, any ViT of timm by its timm name, "
            "or by an address: hf-hub:ORG/NAME, local-dir:PATH, hf:ORG/NAME, hf:PATH, "
            "open_clip:NAME/TAG, FILE.py:FUNCTION of an encoder of your own.",
            show_default=False,
        ),
    ] = "",
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Do not download a config.json; also $LAYERCACHE_OFFLINE."),
    ] = False,
) -> None:
    """List the backbones; with NAME, show that one's layers, input and tokens."""
    if name:
        from layercache.extraction.models.sources import describe_model

        _describe(describe_model(name, offline=offline))
    else:
        from layercache.extraction.models.registry import MODELS

        _list(MODELS.values())


def _list(infos: Iterable[ModelInfo]) -> None:
    headings = "name|timm architecture|params|width|layers|input|resize|patch|tokens|weights"
    rows = [tuple(headings.split("|"))]
    rows += [
        (
            info.name,
            info.architecture,
            f"{info.params_m:.1f} M",
            f"{info.width}",
            f"{info.depth}",
            f"{info.input_size}",
            f"{info.resize}" + (f" (timm {info.timm_resize})" if info.timm_resize else ""),
            f"{info.patch_size}",
            " ".join(info.tokens),
            info.note,
        )
        for info in infos
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(9)]
    for row in rows:
        columns = [
            text.rjust(width) if 2 <= i <= 7 else text.ljust(width)
            for i, (text, width) in enumerate(zip(row[:9], widths, strict=True))
        ]
        echo("  ".join([*columns, row[9]]))
    echo_lines(
        "\nresize: pixels of the short edge before the center crop of the input size, as the "
        "model's makers published it\n(with timm's metadata in parentheses where that differs; "
        "layercache models NAME gives the source).\n"
        "Any other ViT goes by its timm name: "
        "layercache models vit_base_patch16_siglip_224.webli\n"
        "or its address: hf-hub:ORG/NAME, or local-dir:PATH of a folder with config.json and "
        "weights as timm saves them.\n"
        "A ViT of transformers goes by hf:ORG/NAME, or hf:PATH of a folder that save_pretrained "
        "wrote,\none of OpenCLIP by open_clip:NAME/TAG, an encoder of your own by "
        "FILE.py:FUNCTION.\n"
        "timm downloads weights on first use; "
        "--weights FILE takes a local checkpoint (safetensors or torch)."
    )


def _describe(info: ModelInfo) -> None:
    no_class_token = "" if info.class_token else " (no class token: pass --tokens ap)"
    size, patch = info.input_size, info.patch_size
    facts = {
        "architecture": info.architecture,
        "parameters": f"{info.params_m:.2f} M, without the classifier",
        "width": f"{info.width}",
        "layers": f"{info.depth}",
        "input": f"{size} x {size}, patches of {patch} x {patch}",
        **_transform_facts(info),
        "tokens": ", ".join(info.tokens) + no_class_token,
        "weights": info.note,
    }
    echo(info.name)
    for heading, fact in facts.items():
        echo(f"  {heading.ljust(18)} {fact}")


def _transform_facts(info: ModelInfo) -> dict[str, str]:
    from layercache.extraction.models.preprocessing.transform import describe_resize

    if info.transform is None:
        return {}
    text = describe_resize(
        resize=(info.resize, info.resize),
        input_size=(info.input_size, info.input_size),
        interpolation=info.transform.interpolation,
        crop_mode=info.transform.crop_mode,
    )
    source = info.transform.source
    if info.timm_resize:
        source += f"; timm's metadata: short edge to {info.timm_resize}"
    return {"preprocessing": text, "source": source}

"""`layercache import`: a cache from tokens that another tool has computed."""

from __future__ import annotations

from typing import Annotated

import typer

from layercache_cli._terminal import echo
from layercache_cli.options.shared import Root

Tokens = Annotated[
    list[str],
    typer.Option(
        "--tokens",
        metavar="[SPLIT=]FILE[#NAME]",
        help=".npy, .npz, .h5, .parquet or .pt, (N, D), (N, T, D) or (N, L, T, D); repeatable. "
        "Several files of one split are its layers. NAME is an array in the file.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        metavar="[SPLIT=]FILE[#NAME]",
        help="Class numbers, names, 0/1 (N, C) or floats.",
        show_default="those in the files of the tokens",
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Option(
        "--ids",
        metavar="[SPLIT=]FILE[#NAME]",
        help="Names of the samples.",
        show_default="those in the files of the tokens, else numbers",
    ),
]


def import_tokens(
    *,
    tokens: Tokens,
    name: Annotated[str, typer.Option("--name", "-d", help="Name of the dataset.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the encoder.")] = "imported",
    labels: Labels = None,
    ids: Ids = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="Names of the classes in order, one a line.",
            show_default="those that occur",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="1,5,9",
            help="Numbers of the layers.",
            show_default="1 to their number",
        ),
    ] = None,
    token_names: Annotated[
        str | None,
        typer.Option(
            "--token-names",
            metavar="cls,ap",
            help="Names of the tokens of a layer: cls, ap, reg, std, max, attn, patch/I.",
            show_default="cls; cls,ap; else patch/0 and so on",
        ),
    ] = None,
    storage_dtype: Annotated[
        str | None,
        typer.Option(
            "--storage-dtype",
            help="float16 or float32.",
            show_default="float16 if the arrays are, else float32",
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Make a cache from tokens of another tool; probe, report and the like work on it as usual.

    A file may hold several splits, as arrays SPLIT/tokens or SPLIT_tokens, with labels and ids next
    to them; "features" and "embeddings" are taken for tokens, "targets" for labels. Nothing in a
    file is executed. predict and export need an encoder and do not work.
    """
    from layercache._units import pluralize
    from layercache.errors import OptionError
    from layercache.importing.api import import_tokens as run
    from layercache.importing.files import read_lines

    try:
        numbers = None if layers is None else [int(number) for number in layers.split(",")]
    except ValueError:
        raise OptionError(f"--layers: expected numbers such as 1,5,9, got {layers!r}") from None
    cache = run(
        _by_split(tokens),
        name=name,
        model=model,
        labels=_single("--labels", labels),
        ids=_single("--ids", ids),
        classes=None if classes is None else read_lines(classes),
        layers=numbers,
        token_names=None if token_names is None else token_names.replace("+", ",").split(","),
        storage_dtype=storage_dtype,  # type: ignore[arg-type]  # checked there
        root=root,
    )
    spec = cache.spec
    rows = ", ".join(f"{split} {n.rows}" for split, n in spec.dataset.splits.items())
    echo(
        f"{cache.path}: {pluralize(len(spec.layers), 'layer')} x {', '.join(spec.tokens[:4])}"
        f"{' ...' if len(spec.tokens) > 4 else ''} of width {spec.width}, {spec.storage_dtype}; "
        f"samples: {rows}"
    )
    echo(f"next: layercache probe --model {spec.model} --dataset {spec.dataset.name}")


def _single(option: str, values: list[str] | None) -> str | dict[str, str] | None:
    """Return the file of all splits, or the one of each split."""
    from layercache.errors import OptionError

    if not values:
        return None
    files = _by_split(values)
    if isinstance(files, str):
        return files
    for split, listed in files.items():
        if len(listed) > 1:
            raise OptionError(
                f"{option}: expected one file of a split, got {len(listed)} of {split}"
            )
    return {split: listed[0] for split, listed in files.items()}


def _by_split(values: list[str]) -> str | dict[str, list[str]]:
    """Return the file of all splits, or the files of each split; a file without one is of train."""
    from pathlib import Path

    files: dict[str, list[str]] = {}
    for value in values:
        split, equals, file = value.partition("=")
        if not equals or Path(value.partition("#")[0]).exists():
            split, file = "", value
        files.setdefault(split, []).append(file)
    if list(files) == [""] and len(values) == 1:
        return values[0]
    if "" in files:
        files["train"] = files.pop("") + files.get("train", [])
    return files

"""`layercache demo`: the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder of the picture.")]
Cache = Annotated[
    str | None,
    typer.Option(
        help="Folder of the caches; default $LAYERCACHE_HOME, else the user's cache folder.",
        show_default=False,
    ),
]


def demo(*, out: Out = Path("layercache-demo"), cache: Cache = None) -> None:
    """The whole thing in a minute, offline: vit_nano on handwritten digits.

    Extracts every layer's tokens, trains the usual probe and two that fuse all layers, and draws where the attentive one looks.
    A second run finds everything there.
    """
    from layercache.demo import demo as run

    done = run(out=out, cache=cache, say=typer.echo)
    typer.echo(f"\n{done.results.to_text()}\n")
    typer.echo(
        f"all layers with attention against the last class token alone: {done.gain:+.2f} points of test balanced accuracy"
    )
    typer.echo(f"attention over layers and token kinds: {done.picture}")

"""`layercache demo`: both stages on bundled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.shared import Root

Out = Annotated[Path, typer.Option(help="Folder of the attention heatmap.")]


def demo(*, out: Out = Path("layercache-demo"), cache: Root = None) -> None:
    """Run both stages in a minute, offline: vit_nano on handwritten digits.

    Extracts the tokens of all layers, trains the usual probe and two that fuse
    all layers, and draws the attention of the attentive one. A second run finds
    everything done.
    """
    from layercache.demo import demo as run
    from layercache_cli._log import hide_probe_log

    with hide_probe_log():
        result = run(out=out, cache=cache)
    echo_lines(f"\n{result.results.to_text()}\n")
    echo(
        "gain in test balanced accuracy of attentive fusion over the last layer's CLS: "
        f"{result.gain:+.2f} points"
    )
    echo(f"attention by layer and token: {result.heatmap}")

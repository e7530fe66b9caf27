"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli.options import panels

Offline = Annotated[
    bool, typer.Option("--offline", help="Download nothing; also $LAYERCACHE_OFFLINE.")
]
ProbesRoot = Annotated[
    str | None,
    typer.Option(
        "--probes",
        metavar="DIR",
        rich_help_panel=panels.CACHE,
        help="Folder of probes outside their caches, for caches that are not writable; "
        "default $LAYERCACHE_PROBES.",
        show_default=False,
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        "--cache",
        rich_help_panel=panels.CACHE,
        help="Folder of all caches, or s3://BUCKET/PREFIX; "
        "default $LAYERCACHE_HOME, else the user's cache folder.",
        show_default=False,
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--export",
        "-o",
        help="Write the table to a file that ends in .csv, .parquet, .tex or .md.",
        show_default=False,
    ),
]
MovedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Where the backbone is, if it is not under its recorded name: FILE.py:FUNCTION of an "
        "encoder from Python, or the address of a folder or file that was moved.",
        show_default=False,
    ),
]
RecordedWeights = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint that the tokens were extracted with, if it was a local file.",
        show_default=False,
    ),
]

"""Options that several commands share."""

from __future__ import annotations

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

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli.options import panels

CacheFolder = Annotated[
    str | None,
    typer.Argument(
        metavar="[CACHE]",
        help="The cache's folder, or choose it by the options.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Only caches of this model.", show_default=False),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        help="Only caches of this dataset: its name, or its source, as in folder:PATH.",
        show_default=False,
    ),
]
Fingerprint = Annotated[
    str | None, typer.Option(help="First digits of the fingerprint.", show_default=False)
]
ProbeId = Annotated[
    str,
    typer.Argument(
        metavar="PROBE",
        help="Id of a probe or the beginning of it (see layercache results), or its folder.",
    ),
]
SavedHead = Annotated[
    str,
    typer.Argument(
        metavar="HEAD",
        help="Id of a probe or the beginning of it (see layercache results), its folder, or its "
        "head.safetensors.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Download nothing; also $LAYERCACHE_OFFLINE.")
]
ProbesRoot = Annotated[
    str | None,
    panels.cache(
        "--probes",
        metavar="DIR",
        help="Folder of probes outside their caches, for caches that are not writable; "
        "default $LAYERCACHE_PROBES.",
        show_default=False,
    ),
]
Root = Annotated[
    str | None,
    panels.cache(
        "--cache",
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
    list[str] | None,
    typer.Option(
        metavar="[MODEL=]FILE",
        help="Checkpoint that the tokens were extracted with, if it was a local file. Repeatable "
        "for a probe of several models.",
        show_default=False,
    ),
]

"""Options of `layercache probe` on the samples that select and test."""

from __future__ import annotations

from typing import Annotated

import typer

from layercache_cli.options import panels

ValSplit = Annotated[
    str,
    typer.Option(
        "--val",
        rich_help_panel=panels.SELECTION,
        help="Split that selects the configuration: auto (val, valid, validation or dev, if there "
        "is one) | none (20 % of train) | loo (leave-one-out: ridge and lda) | SPLIT.",
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=panels.SELECTION,
        help="Select by this many stratified folds of train.",
        show_default="one part of 20 %",
    ),
]
Repeats = Annotated[
    int, typer.Option(rich_help_panel=panels.SELECTION, help="How often to draw the folds.")
]
Group = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SELECTION,
        metavar="COLUMN",
        help="Annotation whose values (patients, videos ...) stay on one side of every cut.",
        show_default=False,
    ),
]
FoldColumn = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SELECTION,
        metavar="COLUMN",
        help="Annotation with the fold of each training sample.",
        show_default=False,
    ),
]
Refit = Annotated[
    str,
    typer.Option(
        rich_help_panel=panels.SELECTION,
        help="With a validation split, train the selected configuration on train | train+val.",
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SELECTION,
        metavar="COLUMN",
        help="Also show the test scores for each value of an annotation, and the worst.",
        show_default=False,
    ),
]
PaperCompat = Annotated[
    bool,
    typer.Option(
        "--paper-compat",
        rich_help_panel=panels.SELECTION,
        help="Of settings with equal validation scores, take the first of the grid, as the paper "
        "does, not the one of the lowest validation loss and largest weight decay.",
    ),
]
TestSplit = Annotated[
    list[str],
    typer.Option(
        "--test",
        rich_help_panel=panels.SELECTION,
        help="Split to test on. Repeatable: one head, several test columns.",
    ),
]
TestCache = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=panels.SELECTION,
        metavar="CACHE[@SPLIT]",
        help="Also test on the cache of another dataset of the same backbone: its folder or the "
        "dataset's name. Classes are matched by name. Repeatable.",
        show_default=False,
    ),
]

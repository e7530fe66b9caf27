"""Options of `layercache probe` on the samples that select and test."""

from __future__ import annotations

from typing import Annotated

from layercache_cli.options import panels

ValSplit = Annotated[
    str,
    panels.selection(
        "--val",
        help="Split that selects the configuration: auto (val, valid, validation or dev, if there "
        "is one) | none (20 % of train) | loo (leave-one-out: ridge and lda) | SPLIT.",
    ),
]
Folds = Annotated[
    int | None,
    panels.selection(
        help="Select by this many stratified folds of train.", show_default="one part of 20 %"
    ),
]
Repeats = Annotated[int, panels.selection(help="How often to draw the folds.")]
Group = Annotated[
    str | None,
    panels.selection(
        metavar="COLUMN",
        help="Annotation such as a patient or video: samples of one value are held out together.",
        show_default=False,
    ),
]
FoldColumn = Annotated[
    str | None,
    panels.selection(
        metavar="COLUMN",
        help="Annotation with the fold of each training sample.",
        show_default=False,
    ),
]
Refit = Annotated[
    str,
    panels.selection(
        help="With a validation split, train the selected configuration on train | train+val."
    ),
]
By = Annotated[
    str | None,
    panels.selection(
        metavar="COLUMN",
        help="Also show the test scores for each value of an annotation, and the worst.",
        show_default=False,
    ),
]
PaperCompat = Annotated[
    bool,
    panels.selection(
        "--paper-compat",
        help="Of configurations with equal validation scores, select the first of the grid, as the "
        "paper does, not the one with the lowest validation loss and largest weight decay.",
    ),
]
TestSplit = Annotated[
    list[str],
    panels.selection(
        "--test", help="Split to test on. Repeatable: one head, several test columns."
    ),
]
TestCache = Annotated[
    list[str] | None,
    panels.selection(
        metavar="CACHE[@SPLIT]",
        help="Also test on the cache of another dataset of the same backbone: its folder or the "
        "dataset's name. Classes are matched by name. Repeatable.",
        show_default=False,
    ),
]

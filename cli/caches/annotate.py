"""`layercache annotate`: columns of a table next to the tokens of a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.shared import Dataset, Fingerprint, Model, Root

if TYPE_CHECKING:
    from layercache.cache import Cache

Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CACHE] [TABLE]",
        help="The cache's folder, or choose it by the options; a .csv or .parquet file.",
        show_default=False,
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option("--id", metavar="COLUMN", help="Column of the ids.", show_default="id, else path"),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="NAME", help="Only this column; repeatable.", show_default="all"
    ),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Allow rows of other samples, and samples without a row: they keep their value.",
    ),
]
List = Annotated[bool, typer.Option("--list", help="List the annotations; change nothing.")]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="NAME", help="Remove this annotation; repeatable.", show_default=False
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Write the annotations with the ids and splits as .csv or .parquet.",
        show_default=False,
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every cache that matches the options.")]


def annotate(
    places: Places = None,
    *,
    id_column: IdColumn = None,
    columns: Columns = None,
    partial: Partial = False,
    list_: List = False,
    drop: Drop = None,
    out: Out = None,
    all_: All = False,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
) -> None:
    """Add columns of a table to a cache: labels, groups, folds, measurements. No forward.

    A row belongs to the sample of its id, and of its split where the table has a column "split".
    Every sample needs a row and every row a sample, unless --partial is given. A column of the same
    name is replaced; probes keep the version that they used.
    """
    from layercache.cache.annotate import annotate as run
    from layercache.cache.annotate import drop_annotations
    from layercache.errors import OptionError

    words = list(places or [])
    table = words.pop() if words and not (list_ or drop or out) else None
    if len(words) > 1 or (table is None and not (list_ or drop or out)):
        raise OptionError(
            "expected [CACHE] TABLE, or [CACHE] with --list, --drop or --out; a cache is chosen "
            "by its folder or by --model, --dataset and --fingerprint"
        )
    caches = _open(
        words[0] if words else None,
        root=root,
        model=model,
        dataset=dataset,
        fingerprint=fingerprint,
        all_=all_,
    )
    for cache in caches:
        if table is not None:
            changes = run(cache, table, id_column=id_column, columns=columns or [], partial=partial)
            echo(f"{cache.path}:")
            for change in changes:
                echo_lines(f"  {change.summary()}")
        if drop:
            drop_annotations(cache, drop)
            echo(f"{cache.path}: dropped {', '.join(drop)}")
            if "label" in drop and "label" in cache.annotation_digests:
                echo("label: that of the dataset again")
        if out:
            _write(cache, out)
        if list_:
            _list(cache)


def _open(
    path: str | None,
    *,
    root: str | None,
    model: str | None,
    dataset: str | None,
    fingerprint: str | None,
    all_: bool,
) -> list[Cache]:
    from layercache.cache.find import matching_caches, open_cache
    from layercache.cache.storage.paths import cache_root
    from layercache.errors import CacheNotFoundError

    if path is not None or not all_:
        return [open_cache(path, root=root, model=model, dataset=dataset, fingerprint=fingerprint)]
    base = cache_root(root)
    caches = matching_caches(base, model=model, dataset=dataset, fingerprint=fingerprint)
    if not caches:
        raise CacheNotFoundError(f"no cache below {base} matches: see `layercache cache ls`")
    return caches


def _list(cache: Cache) -> None:
    from layercache.cache.describe import describe_annotations

    echo(f"{cache.path}:")
    lines = describe_annotations(cache)
    for line in lines or ["no annotations"]:
        echo(f"  {line}")


def _write(cache: Cache, out: str) -> None:
    from layercache._units import pluralize
    from layercache.cache.annotations.table import write_table

    write_table(cache.annotations, out)
    echo(f"{out}: {pluralize(len(cache.annotations), 'row')}")

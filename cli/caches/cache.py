"""`layercache cache`: list, describe, verify, copy and delete caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from layercache_cli._terminal import confirm, echo
from layercache_cli.caches.describe import (
    format_limit,
    format_size,
    format_splits,
    format_tokens,
    list_sources,
    print_json,
    print_table,
)
from layercache_cli.options.shared import (
    CacheFolder,
    Dataset,
    Fingerprint,
    Model,
    ProbesRoot,
    Root,
    Yes,
)

if TYPE_CHECKING:
    from layercache.cache import Cache
    from layercache.cache.storage.paths import CachePath

cache = typer.Typer(no_args_is_help=True)

MAX_SKIPPED_SHOWN = 20
"""Number of skipped samples that `info` lists."""

To = Annotated[
    str,
    typer.Option(
        "--to",
        help="Root to copy it to: a folder, s3://BUCKET/PREFIX or hf://datasets/USER/NAME.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cache.command()
def ls(
    *,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    probes: ProbesRoot = None,
    as_json: AsJson = False,
) -> None:
    """List the caches: dataset, model, fingerprint, splits, size, number of probes."""
    from layercache.cache.describe import describe_all
    from layercache.cache.find import cache_folders, make_command
    from layercache.cache.storage.open import open_source
    from layercache.cache.storage.paths import cache_root
    from layercache.cache.storage.threads import map_threads
    from layercache.errors import CacheSchemaError

    base = cache_root(root)
    results = describe_all(cache_folders(base, model=model, dataset=dataset))
    rows = [d for d in results if isinstance(d, dict)]
    outdated = [e for e in results if isinstance(e, CacheSchemaError)]
    unreadable = [e for e in results if not isinstance(e, dict | CacheSchemaError)]
    threads = open_source(base).requests
    for d, counts in zip(
        rows, map_threads(lambda d: _count_probes(d, probes), rows, threads=threads), strict=True
    ):
        d["probes"] = counts
    if as_json:
        print_json(rows)
    elif rows:
        columns = [
            ("dataset", "model", "fingerprint", "stored", "splits", "size", "probes", "source")
        ]
        columns += [
            (
                d["dataset"],
                d["model"],
                d["fingerprint"][:12],
                format_tokens(d),
                ", ".join(format_splits(d)),
                format_size(d["bytes"]),
                str(sum(d["probes"].values())),
                ", ".join(list_sources(d)),
            )
            for d in rows
        ]
        print_table(columns)
        echo(f"{len(rows)} below {base}, {format_size(sum(d['bytes'] for d in rows))}")
    elif not results:
        command = make_command(base, model=model, dataset=dataset)
        echo(f"no cache below {base}; make one with: {command}")
    for error in outdated:
        echo(f"skipped: {error}", err=True)
    for error in unreadable:
        echo(f"error: {error}", err=True)
    if unreadable:
        raise typer.Exit(1)


@cache.command()
def info(
    path: CacheFolder = None,
    *,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
    probes: ProbesRoot = None,
    as_json: AsJson = False,
) -> None:
    """Describe one cache: what determined its bytes, its splits, how complete they are."""
    from layercache.cache.describe import describe
    from layercache.cache.find import open_cache

    d = describe(open_cache(path, root=root, model=model, dataset=dataset, fingerprint=fingerprint))
    d["probes"] = _count_probes(d, probes)
    if as_json:
        print_json(d)
        return
    print_table(
        [
            ("path", d["path"]),
            ("model", f"{d['model']} ({d['architecture']})"),
            ("weights", d["weights"]),
            ("dataset", f"{d['dataset']}, {d['classes']} classes" + format_limit(d)),
            ("source", ", ".join(list_sources(d))),
            *(("checkpoint", o["weights"]) for o in d["origins"] if o["weights"]),
            ("tokens", format_tokens(d)),
            ("layers", ", ".join(map(str, d["layers"]))),
            ("preprocessing", ", ".join(f"{k} {v}" for k, v in d["preprocessing"].items())),
            ("fingerprint", d["fingerprint"]),
            ("size", f"{format_size(d['bytes'])}; {format_size(d['bytes_per_image'])} an image"),
            *(("probes", f"{n} in {folder}") for folder, n in d["probes"].items()),
            *(
                (f"split {name}", text)
                for name, text in zip(d["splits"], format_splits(d, long=True), strict=True)
            ),
        ]
    )
    for name, split in d["splits"].items():
        for sample, reason in list(split["skipped"].items())[:MAX_SKIPPED_SHOWN]:
            echo(f"skipped in {name}: {sample}: {reason.removeprefix(f'sample {sample!r} ')}")
        if len(split["skipped"]) > MAX_SKIPPED_SHOWN:
            echo(
                f"skipped in {name}: {len(split['skipped']) - MAX_SKIPPED_SHOWN} more, all listed "
                "by --json"
            )


@cache.command()
def verify(
    path: CacheFolder = None,
    *,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
    probes: ProbesRoot = None,
    all_: Annotated[bool, typer.Option("--all", help="Every cache that matches.")] = False,
) -> None:
    """Read every byte of a cache; list what is missing, cut or changed.

    Exit code 1 if anything is, or if a split is not complete.
    """
    from layercache._progress import ProgressBar
    from layercache.cache.describe import describe
    from layercache.cache.find import cache_folders, open_cache
    from layercache.cache.storage.paths import as_cache_path, cache_root
    from layercache.cache.verify import verify as find_corruptions
    from layercache.errors import CacheSchemaError

    if all_:
        folders = [
            folder
            for folder in cache_folders(cache_root(root), model=model, dataset=dataset)
            if folder.name.startswith((fingerprint or "")[:12])
        ]
    elif path:
        folders = [as_cache_path(path)]
    else:
        found = open_cache(root=root, model=model, dataset=dataset, fingerprint=fingerprint)
        folders = [found.path]
    n_checked = n_faulty = 0
    must_delete = must_extract = False
    for folder in folders:
        try:
            with ProgressBar(folder.name, unit="B", leave=False) as bar:
                corruptions = find_corruptions(folder, progress=bar.advance)
                corruptions += _verify_probes_elsewhere(folder, probes, progress=bar.advance)
        except CacheSchemaError as error:
            if not all_:
                raise
            echo(f"skipped: {error}", err=True)
            continue
        n_checked += 1
        n_faulty += bool(corruptions)
        in_splits = [corruption for corruption in corruptions if not corruption.probe]
        must_extract |= bool(in_splits)
        must_delete |= any(corruption.exists for corruption in in_splits)
        for corruption in corruptions:
            problem = corruption.problem.removeprefix(f"{corruption.path}: ")
            echo(f"{corruption.path}: {problem}")
        if not corruptions:
            d = describe(open_cache(folder))
            echo(
                f"{folder}: every byte is as it was written ({', '.join(format_splits(d))}; "
                f"{format_size(d['bytes'])})"
            )
    if not folders:
        echo("no cache matches")
    if n_faulty:
        verb = "has" if n_faulty == 1 else "have"
        delete = "delete the files named above and " if must_delete else ""
        remedy = "follow the lines above"
        if must_extract:
            remedy = f"{delete}run the same extraction again, which makes only what is missing"
        echo(f"{n_faulty} of {n_checked} caches {verb} faults: {remedy}", err=True)
        raise typer.Exit(1)


@cache.command()
def upgrade(
    path: Annotated[str, typer.Argument(help="The cache's folder.", show_default=False)],
) -> None:
    """Make a cache of the current schema from one of schema 2, without a forward."""
    from layercache.cache.upgrade import describe_upgrade, upgrade_cache

    echo(describe_upgrade(path, upgrade_cache(path)))


@cache.command()
def rm(
    path: CacheFolder = None,
    *,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
    probes: ProbesRoot = None,
    yes: Yes = False,
) -> None:
    """Delete one cache with everything in it, and its probes in both places. Asks first."""
    from layercache._units import pluralize
    from layercache.cache.describe import describe
    from layercache.cache.find import open_cache
    from layercache.cache.remove import remove
    from layercache.probing.results.lookup import remove_probes_elsewhere

    found = open_cache(path, root=root, model=model, dataset=dataset, fingerprint=fingerprint)
    size = format_size(describe(found)["bytes"])
    if not yes:
        confirm(f"Delete {found.path} ({size}{_probes(found, probes)})?", abort=True)
    remove(found)
    elsewhere = remove_probes_elsewhere(found, probes)
    more = f" and {pluralize(elsewhere, 'probe')} kept elsewhere" if elsewhere else ""
    echo(f"deleted {found.path} ({size}){more}")


@cache.command()
def push(
    path: CacheFolder = None,
    *,
    to: To,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
) -> None:
    """Copy one cache with its probes to another root.

    Verified on arrival; if stopped, the same command continues. Exit code 1 if a probe is damaged,
    and therefore not copied.
    """
    from layercache.cache.find import open_cache

    _copy(open_cache(path, root=root, model=model, dataset=dataset, fingerprint=fingerprint), to)


@cache.command()
def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="A cache's address, or a root to choose it from by the options: s3://..., "
            "hf://datasets/..., a folder."
        ),
    ],
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Root to copy it to.",
            show_default="$LAYERCACHE_HOME, else the user cache folder",
        ),
    ] = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
) -> None:
    """Copy one cache with its probes from another root.

    Verified on arrival; if stopped, the same command continues. Exit code 1 if a probe is damaged,
    and therefore not copied.
    """
    from layercache.cache.cache import load_cache
    from layercache.cache.find import open_cache
    from layercache.cache.storage.paths import as_cache_path, cache_root
    from layercache.errors import CacheNotFoundError

    try:
        found = load_cache(as_cache_path(source))
    except CacheNotFoundError:
        found = open_cache(root=source, model=model, dataset=dataset, fingerprint=fingerprint)
    _copy(found, cache_root(to))


def _copy(found: Cache, to: Any) -> None:
    from layercache._progress import ProgressBar
    from layercache._units import pluralize
    from layercache.cache.copy import copy_cache

    with ProgressBar(found.path.name, unit="B", leave=False) as bar:
        done = copy_cache(found, to=to, progress=bar.advance, total=bar.restart)
    echo(
        f"{done.path}: {pluralize(done.files, 'file')}, {format_size(done.bytes)}, each verified "
        "where it arrived"
    )
    n_existing = done.files - done.sent_files
    existing = f"; {n_existing} existed already" if n_existing else ""
    echo(f"sent {pluralize(done.sent_files, 'file')}, {format_size(done.sent_bytes)}{existing}")
    if done.damaged_probes:
        for problem in done.damaged_probes.values():
            echo(f"not copied: {problem}", err=True)
        raise typer.Exit(1)


def _probes(found: Cache, probes: str | None) -> str:
    from layercache._units import pluralize

    d = {"path": str(found.path), "fingerprint": found.spec.fingerprint}
    counts = list(_count_probes(d, probes).items())
    elsewhere = "".join(f", {n} of them in {folder}" for folder, n in counts[:-1] if n)
    total = sum(n for _, n in counts)
    return f", with {pluralize(total, 'probe')}{elsewhere}" if total else ""


def _count_probes(d: dict[str, Any], probes: str | None) -> dict[str, int]:
    """Return the number of probes of a cache in each folder where they are kept, its own last."""
    from layercache.cache.storage.open import open_source
    from layercache.cache.storage.paths import as_cache_path
    from layercache.probing.results.locations import folders_of

    folders = folders_of(as_cache_path(d["path"]), d["fingerprint"], probes)
    return {str(folder): len(open_source(folder).list_dirs(".")) for folder in folders}


def _verify_probes_elsewhere(folder: CachePath, probes: str | None, *, progress: Any) -> list[Any]:
    """Return the faults of a cache's probes that are kept outside of it."""
    from layercache.cache.cache import load_cache
    from layercache.cache.storage.open import open_store
    from layercache.cache.verify import verify_probes
    from layercache.errors import CacheCorruptError
    from layercache.probing.results.locations import probe_folders

    try:
        found = load_cache(folder)
    except CacheCorruptError:
        return []  # reported already
    return [
        corruption
        for place in probe_folders(found, probes)[:-1]
        for corruption in verify_probes(found, open_store(place.parent), progress=progress)
    ]

"""`layercache cache`: list, describe, verify, copy and delete caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from layercache.cache import Cache

cache = typer.Typer(no_args_is_help=True)

SHOWN = 20
"""Skipped samples that `info` lists."""

Where = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATH]",
        help="The cache's folder, or choose it by the options.",
        show_default=False,
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        "--cache",
        help="Folder of all caches, or s3://BUCKET/PREFIX; default $LAYERCACHE_HOME, else the user cache folder.",
        show_default=False,
    ),
]
Model = Annotated[str | None, typer.Option(help="Caches of this model.", show_default=False)]
Dataset = Annotated[str | None, typer.Option(help="Caches of this data set.", show_default=False)]
Fingerprint = Annotated[
    str | None, typer.Option(help="First digits of the fingerprint.", show_default=False)
]
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
    *, root: Root = None, model: Model = None, dataset: Dataset = None, as_json: AsJson = False
) -> None:
    """List the caches: data set, model, fingerprint, splits, size."""
    from layercache.cache.find import cache_folders, cache_root
    from layercache.cache.verify import describe_all

    base = cache_root(root)
    found = describe_all(cache_folders(base, model=model, dataset=dataset))
    rows, unreadable = (
        [d for d in found if isinstance(d, dict)],
        [str(d) for d in found if not isinstance(d, dict)],
    )
    if as_json:
        _print_json(rows)
    elif rows:
        columns = [("data set", "model", "fingerprint", "stored", "splits", "size")]
        columns += [
            (
                d["dataset"],
                d["model"],
                d["fingerprint"][:12],
                _stored(d),
                ", ".join(_splits(d)),
                _size(d["bytes"]),
            )
            for d in rows
        ]
        _print_table(columns)
        typer.echo(f"{len(rows)} below {base}, {_size(sum(d['bytes'] for d in rows))}")
    elif not unreadable:
        typer.echo(f"no cache below {base}; make one with: layercache extract")
    for text in unreadable:
        typer.echo(f"error: {text}", err=True)
    if unreadable:
        raise typer.Exit(1)


@cache.command()
def info(
    path: Where = None,
    *,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Describe one cache: what determined its bytes, its splits, how complete they are."""
    from layercache.cache.find import open_cache
    from layercache.cache.verify import describe

    d = describe(open_cache(path, root=root, model=model, dataset=dataset, fingerprint=fingerprint))
    if as_json:
        _print_json(d)
        return
    _print_table(
        [
            ("path", d["path"]),
            ("model", f"{d['model']} ({d['architecture']})"),
            ("weights", d["weights"]),
            ("data set", f"{d['dataset']}, {d['classes']} classes" + _limit(d)),
            ("tokens", _stored(d)),
            ("layers", ", ".join(map(str, d["layers"]))),
            ("preprocessing", ", ".join(f"{k} {v}" for k, v in d["preprocessing"].items())),
            ("fingerprint", d["fingerprint"]),
            ("size", _size(d["bytes"])),
            *(
                (f"split {name}", text)
                for name, text in zip(d["splits"], _splits(d, long=True), strict=True)
            ),
        ]
    )
    for name, split in d["splits"].items():
        for sample, why in list(split["skipped"].items())[:SHOWN]:
            typer.echo(f"skipped in {name}: {sample}: {why.removeprefix(f'sample {sample!r} ')}")
        if len(split["skipped"]) > SHOWN:
            typer.echo(
                f"skipped in {name}: {len(split['skipped']) - SHOWN} more, all listed by --json"
            )


@cache.command()
def verify(
    path: Where = None,
    *,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
    every: Annotated[bool, typer.Option("--all", help="Every cache that matches.")] = False,
) -> None:
    """Read every byte of a cache; list what is missing, cut or changed. Exit code 1 if anything is, or if a split is not complete."""
    from tqdm import tqdm

    from layercache.cache.find import cache_folders, cache_root, open_cache
    from layercache.cache.storage.paths import as_place
    from layercache.cache.verify import describe
    from layercache.cache.verify import verify as find_faults

    if every:
        folders = [
            f
            for f in cache_folders(cache_root(root), model=model, dataset=dataset)
            if f.name.startswith((fingerprint or "")[:12])
        ]
    else:
        folders = [
            as_place(path)
            if path
            else open_cache(root=root, model=model, dataset=dataset, fingerprint=fingerprint).path
        ]
    faulty, damaged = 0, False
    for folder in folders:
        with tqdm(unit="B", unit_scale=True, desc=folder.name, disable=None, leave=False) as bar:
            faults = find_faults(folder, progress=bar.update)
        faulty += bool(faults)
        damaged |= any(fault.there for fault in faults)
        for fault in faults:
            typer.echo(f"{fault.path}: {fault.what.removeprefix(f'{fault.path}: ')}")
        if not faults:
            d = describe(open_cache(folder))
            typer.echo(
                f"{folder}: every byte is as it was written ({', '.join(_splits(d))}; {_size(d['bytes'])})"
            )
    if not folders:
        typer.echo("no cache matches")
    if faulty:
        has, remedy = (
            "has" if faulty == 1 else "have",
            "run the same extraction again, which makes only what is missing",
        )
        typer.echo(
            f"{faulty} of {len(folders)} caches {has} faults: {'delete the files named above and ' if damaged else ''}{remedy}",
            err=True,
        )
        raise typer.Exit(1)


@cache.command()
def rm(
    path: Where = None,
    *,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete one cache with everything in it, the probes kept there too. Asks first."""
    from layercache.cache.find import open_cache
    from layercache.cache.verify import describe, remove

    found = open_cache(path, root=root, model=model, dataset=dataset, fingerprint=fingerprint)
    size = _size(describe(found)["bytes"])
    if not yes:
        typer.confirm(f"Delete {found.path} ({size}{_probes(found)})?", abort=True)
    remove(found)
    typer.echo(f"deleted {found.path} ({size})")


@cache.command()
def push(
    path: Where = None,
    *,
    to: To,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
) -> None:
    """Copy one cache, its probes too, to another root. Verified on arrival; stopped, the same command goes on."""
    from layercache.cache.find import open_cache

    _copy(open_cache(path, root=root, model=model, dataset=dataset, fingerprint=fingerprint), to)


@cache.command()
def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="A cache's address, or a root to choose it from by the options: s3://..., hf://datasets/..., a folder."
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
    """Copy one cache from another root, its probes too. Verified on arrival; stopped, the same command goes on."""
    from layercache.cache.find import cache_root, load_cache, open_cache
    from layercache.cache.storage.paths import as_place
    from layercache.errors import CacheNotFoundError

    try:
        found = load_cache(as_place(source))
    except CacheNotFoundError:
        found = open_cache(root=source, model=model, dataset=dataset, fingerprint=fingerprint)
    _copy(found, cache_root(to))


def _copy(found: Cache, to: Any) -> None:
    from tqdm import tqdm

    from layercache.cache.copy import copy_cache

    with tqdm(unit="B", unit_scale=True, desc=found.path.name, disable=None, leave=False) as bar:
        done = copy_cache(found, to=to, progress=bar.update, total=bar.reset)
    there = done.files - done.sent_files
    typer.echo(
        f"{done.path}: {_count(done.files, 'file')}, {_size(done.bytes)}, every one verified where it arrived"
    )
    typer.echo(
        f"sent {_count(done.sent_files, 'file')}, {_size(done.sent_bytes)}"
        + (f"; {there} were there already" if there else "")
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _limit(d: dict[str, Any]) -> str:
    return (
        ""
        if d["limit"] is None
        else f", limited to {d['limit']} a split, drawn with seed {d['limit_seed']}"
    )


def _probes(found: Cache) -> str:
    count = len(found.store.folders("probes"))
    return "" if count == 0 else ", with 1 probe" if count == 1 else f", with {count} probes"


def _stored(d: dict[str, Any]) -> str:
    kinds = list(dict.fromkeys(t.split("/")[0] for t in d["tokens"]))
    return (
        f"{len(d['layers'])} layers x {'+'.join(kinds)} x {d['width']} {d['store_dtype']}, tap {d['tap']}, {d['precision']}"
        + (", projected" if d["projected"] else "")
    )


def _splits(d: dict[str, Any], *, long: bool = False) -> list[str]:
    texts = []
    for name, s in d["splits"].items():
        state = (
            f"{s['rows']}"
            if s["complete"]
            else f"incomplete, {s['blocks_done']} of {s['blocks']} blocks"
        )
        skipped = f" ({len(s['skipped'])} skipped)" if s["skipped"] else ""
        if long:
            texts.append(
                f"{s['rows']} images{skipped}, {_size(s['bytes'])}{', ' + s['codec'] if s['codec'] else ''}, "
                + ("complete" if s["complete"] else state)
            )
        else:
            texts.append(f"{name} {state}{skipped}")
    return texts


def _size(n: int) -> str:
    value, unit = float(n), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))

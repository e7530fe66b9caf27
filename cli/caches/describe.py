"""Text for people from the description of a cache, as `cache ls` and `cache info` print it.

A description is what `layercache.cache.describe.describe` returns.
"""

from __future__ import annotations

from typing import Any

from layercache_cli._terminal import echo, echo_lines


def format_tokens(d: dict[str, Any]) -> str:
    """Return layers, token kinds, width, dtype, tap and precision in one line."""
    from layercache.cache.format.token_names import kind_words

    kinds = "+".join(kind_words(d["tokens"]))
    projected = ", projected" if d["projected"] else ""
    stored = f"stored as {d['codec']}" if d["codec"] else d["storage_dtype"]
    tokens = f"{len(d['layers'])} layers x {kinds} x {d['width']} {stored}"
    return f"{tokens}, tap {d['tap']}, {d['precision']}{projected}"


def format_splits(d: dict[str, Any], *, long: bool = False) -> list[str]:
    """Return name, number of images and state of each split, with `long` its size too."""
    texts = []
    for name, split in d["splits"].items():
        incomplete = f"incomplete, {split['blocks_done']} of {split['blocks']} blocks"
        skipped = f" ({len(split['skipped'])} skipped)" if split["skipped"] else ""
        if long:
            compressor = f", {split['compressor']}" if split["compressor"] else ""
            compressor += format_saturation(d, split)
            state = "complete" if split["complete"] else incomplete
            images = f"{split['rows']} images{skipped}"
            texts.append(f"{images}, {format_size(split['bytes'])}{compressor}, {state}")
        else:
            texts.append(f"{name} {split['rows'] if split['complete'] else incomplete}{skipped}")
    return texts


def format_saturation(d: dict[str, Any], split: dict[str, Any]) -> str:
    """Return which part of the int8 codes of a split is of clipped numbers, or ""."""
    if split["saturated"] is None:
        return ""
    rows = split["rows"] - len(split["skipped"])
    share = split["saturated"] / max(1, rows * d["codes_per_image"])
    return f", {100 * share:.2g} % of the numbers clipped"


def list_sources(d: dict[str, Any]) -> list[str]:
    """Return where the images came from, each source once."""
    return list(dict.fromkeys(o["dataset"] for o in d["origins"] if o["dataset"])) or [
        "not recorded"
    ]


def format_limit(d: dict[str, Any]) -> str:
    """Return ", limited to ..." for a subset of the dataset, else ""."""
    if d["limit"] is None:
        return ""
    return f", limited to {d['limit']} per split, sampled with seed {d['limit_seed']}"


def format_size(n_bytes: int) -> str:
    """Return a number of bytes as text."""
    from layercache._units import format_bytes

    return format_bytes(n_bytes)


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows of cells with aligned columns."""
    from layercache._printable import escape_control

    rows = [tuple(map(escape_control, row)) for row in rows]
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    import json

    echo_lines(json.dumps(value, indent=2))

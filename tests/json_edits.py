"""Edits of JSON values at any place, for tests of hostile files."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

Path = tuple[Any, ...]
"""Keys and indices from the outermost value to the place."""


def json_paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the places in a value, except the value itself."""
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from json_paths(inner, (*path, key))


def edited(value: dict[str, Any], path: Path, new: Any) -> dict[str, Any]:
    """Return a copy with another value at a place."""
    copy = deepcopy(value)
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return copy

"""The place of a model's tensors in a checkpoint: a wrapper, a prefix of names, or both.

Nested mappings are joined by dots, so that {"teacher": {"backbone.norm.bias": ...}} holds the model
under the prefix "teacher.backbone.".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layercache.errors import BackboneError

MAX_DEPTH = 8
"""Levels of nested mappings that are searched for tensors."""
MAX_CONVERTED_PARTS = 4
"""Parts of the longest prefix that is tried with a converter of original names."""
RANKS = ((r"(^|_)ema(_|$)", 0), (r"teacher|target", 1), (r"student|momentum|^encoder_k$", 3))
"""Patterns of a prefix's parts, for a checkpoint that holds the model several times.

The lowest rank is taken; a prefix without such a part has rank 2.
"""

Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Maps a state dict with original names to the model's own."""


@dataclass(frozen=True, kw_only=True)
class StateMatch:
    """The part of a checkpoint that is most like the model."""

    prefix: str
    """"" or a prefix that ends with a dot."""
    state: dict[str, Tensor]
    """The tensors under the prefix, by the rest of their names, before any conversion."""
    n_found: int
    """Number of the wanted keys among them, after conversion."""
    others: tuple[str, ...]
    """Further prefixes under which all wanted keys exist."""


def flatten(value: Any, *, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return the tensors of nested mappings; anything else is left out.

    Args:
        value: A mapping; others hold no tensors.
        prefix: Prefix of the names.
        depth: Level of `value`; deeper than MAX_DEPTH is left out.
    """
    tensors: dict[str, Tensor] = {}
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        for key, entry in value.items():
            if isinstance(entry, Tensor):
                tensors[f"{prefix}{key}"] = entry
            else:
                tensors |= flatten(entry, prefix=f"{prefix}{key}.", depth=depth + 1)
    return tensors


def find_state(
    tensors: Mapping[str, Tensor],
    wanted: Collection[str],
    *,
    convert: Convert | None = None,
    source: str,
) -> StateMatch:
    """Return the tensors under the prefix with all wanted keys, or with the most of them.

    If several prefixes have all keys, an average of the weights (EMA) goes before a teacher, and a
    student or momentum encoder comes last (RANKS).

    Args:
        tensors: The checkpoint's tensors, with names as `flatten` returns them.
        wanted: The model's keys, without those of its head.
        convert: Converter of original names, tried where no prefix has all keys.
        source: Name of the checkpoint, for errors.

    Raises:
        BackboneError: Several prefixes of one rank hold different weights.
    """
    n_found = _count_by_prefix(tensors, wanted)
    if convert is not None and len(wanted) not in n_found.values():
        converted_whole: tuple[str, ...] = ()
        for prefix in _prefixes(tensors):
            if prefix.startswith(converted_whole):
                continue
            try:
                converted = convert(_below(tensors, prefix))
            except Exception:  # converters expect the tensors of their own files
                continue
            n_found[prefix] = max(n_found[prefix], sum(key in converted for key in wanted))
            if n_found[prefix] == len(wanted):
                converted_whole += (prefix,)
    complete = [prefix for prefix, n in n_found.items() if n == len(wanted)]
    if complete:
        best = _choose(complete, tensors, wanted, source=source)
    else:
        best = max(n_found, key=lambda prefix: (n_found[prefix], -len(prefix)), default="")
    return StateMatch(
        prefix=best,
        state=_below(tensors, best),
        n_found=n_found[best],
        others=tuple(sorted(set(complete) - {best})),
    )


def count_parts(keys: Iterable[str], *, prefix: str = "") -> dict[str, int]:
    """Count tensors by the part of a checkpoint that they belong to.

    Args:
        keys: Names of tensors.
        prefix: A part is named up to where it departs from this prefix.
    """
    return dict(Counter(_part(key, prefix) for key in keys))


def _part(key: str, prefix: str) -> str:
    parts, own = key.split("."), prefix.split(".")[:-1]
    shared = next(
        (i for i, (a, b) in enumerate(zip(parts, own, strict=False)) if a != b),
        min(len(parts) - 1, len(own)),
    )
    return ".".join(parts[: shared + 1])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: v for key, v in tensors.items() if key.startswith(prefix)}


def _count_by_prefix(tensors: Iterable[str], wanted: Collection[str]) -> Counter[str]:
    """Count the wanted keys under every prefix."""
    wanted = frozenset(wanted)
    n_found: Counter[str] = Counter()
    for key in tensors:
        start = 0
        while True:
            if key[start:] in wanted:
                n_found[key[:start]] += 1
            start = key.find(".", start) + 1
            if not start:
                break
    return n_found


def _prefixes(tensors: Iterable[str]) -> list[str]:
    """Return the prefixes without numbers of up to MAX_CONVERTED_PARTS parts, short ones first."""
    prefixes = {""}
    for key in tensors:
        parts = key.split(".")[:-1]
        for n in range(1, min(len(parts), MAX_CONVERTED_PARTS) + 1):
            if parts[n - 1].isdigit():
                break
            prefixes.add(".".join(parts[:n]) + ".")
    return sorted(prefixes, key=lambda prefix: (prefix.count("."), prefix))


def _choose(
    prefixes: list[str], tensors: Mapping[str, Tensor], wanted: Collection[str], *, source: str
) -> str:
    ranks = {prefix: _rank(prefix) for prefix in prefixes}
    best = [prefix for prefix in prefixes if ranks[prefix] == min(ranks.values())]
    best.sort(key=lambda prefix: (len(prefix), prefix))
    for other in best[1:]:
        if not _equal(_below(tensors, best[0]), _below(tensors, other), wanted):
            raise BackboneError(
                f"{source}: holds the model under {best[0]!r} and, with other weights, under "
                f"{other!r}: save the state dict that you mean alone, with torch.save or as "
                "safetensors"
            )
    return best[0]


def _rank(prefix: str) -> int:
    parts = prefix.lower().split(".")
    return min((rank for pattern, rank in RANKS for p in parts if re.search(pattern, p)), default=2)


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor], wanted: Collection[str]) -> bool:
    """Return whether the wanted tensors are equal; with original names, whether all are."""
    keys = wanted if all(key in a and key in b for key in wanted) else a.keys() | b.keys()
    return all(key in a and key in b and torch.equal(a[key], b[key]) for key in keys)

"""Tokens, labels and ids of each split, from arrays and files.

Shapes: N samples, L layers, T tokens of a layer, D width, C classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from layercache.errors import DataError, OptionError
from layercache.importing.files import PAIRS, Array, read_arrays

Source = Any
"""An array, anything that numpy takes for one, or a file (see `files.read_arrays`)."""
Sources = Source | Mapping[str, Source | Sequence[Source]]
"""A source of one or all splits, or the sources of each split."""

ROLES = {
    "tokens": ("tokens", "features", "feats", "embeddings", "x", ""),
    "labels": ("labels", "label", "targets", "target", "y", ""),
    "ids": ("ids", "id", "paths", "path", "filenames", ""),
    "pairs": (PAIRS,),
}
"""Role of an array -> names that it may have."""
NAMED = re.compile(r"(?P<split>[^/]+)[/](?P<name>[^/]+)|(?P<split2>\w+?)_(?P<name2>[a-z]+)")
DEFAULT_SPLIT = "train"


@dataclass(kw_only=True, eq=False)
class SplitArrays:
    """One split."""

    parts: list[Array] = field(default_factory=list)
    """Arrays (N, L', T, D) whose layers follow each other."""
    labels: Array | None = None
    """(N,) text, integers or floats, or 0/1 (N, C); None if there are none."""
    ids: list[str] | None = None
    """N names; None if there are none."""
    pairs: tuple[tuple[int, str], ...] | None = None
    """(layer, token name) of each token, layer by layer, if the file names them."""

    @property
    def rows(self) -> int:
        """N."""
        return len(self.parts[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, T, D)."""
        _, _, tokens, width = self.parts[0].shape
        return sum(part.shape[1] for part in self.parts), tokens, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 if all parts are, else float32."""
        is_half = all(part.dtype == np.float16 for part in self.parts)
        return np.dtype(np.float16 if is_half else np.float32)

    def block(self, start: int, stop: int) -> Array:
        """Return the tokens of some rows, (L, T, n, D), in the dtype of the arrays."""
        x_nltd = np.concatenate([part[start:stop] for part in self.parts], axis=1)
        return x_nltd.transpose(1, 2, 0, 3)


def read_splits(
    tokens: Sources, *, labels: Sources | None = None, ids: Sources | None = None
) -> dict[str, SplitArrays]:
    """Return the splits of arrays and files, each checked.

    A file may hold several splits, as "SPLIT/tokens" or "SPLIT_tokens", and labels and ids next to
    the tokens; `labels` and `ids` replace these.

    Raises:
        DataError: Shapes, dtypes or lengths do not fit.
        OptionError: An array is not found.
    """
    splits: dict[str, SplitArrays] = {}
    for split, sources in _by_split(tokens, role="tokens"):
        for source in sources:
            found = _arrays_of(source, split, "tokens")
            for name, roles in found.items():
                where = f"tokens of split {name!r}"
                if "tokens" not in roles:
                    continue
                entry = splits.setdefault(name, SplitArrays())
                x_nltd = _as_nltd(roles["tokens"], where=where)
                if "pairs" in roles and not entry.parts:
                    entry.pairs = _as_pairs(roles["pairs"])
                    x_nltd = _split_layers(x_nltd, entry.pairs)
                entry.parts.append(x_nltd)
                entry.labels = roles.get("labels", entry.labels)
                if "ids" in roles:
                    entry.ids = _as_ids(roles["ids"])
    if not splits:
        raise OptionError(
            "expected arrays of tokens, got none: name the array, as in FILE#NAME; known names are "
            f"{', '.join(filter(None, ROLES['tokens']))}"
        )
    for role, given in (("labels", labels), ("ids", ids)):
        for split, sources in _by_split(given, role=role):
            for name, roles in _arrays_of(sources[0], split, role).items():
                if role in roles:
                    _check_split(splits, name, role=role)
                    if role == "labels":
                        splits[name].labels = roles[role]
                    else:
                        splits[name].ids = _as_ids(roles[role])
    # one order, since that of files and dicts varies
    names = sorted(splits, key=lambda name: (name != "train", name == "test", name))
    for name in names:
        _check(name, splits[name], first=splits[names[0]])
    return {name: splits[name] for name in names}


def _check_split(splits: Mapping[str, SplitArrays], name: str, *, role: str) -> None:
    if name not in splits:
        raise OptionError(
            f"{role} of split {name!r}, but there are no tokens of it: expected "
            f"{', '.join(splits)}; name the split, as in SPLIT=FILE"
        )


def _by_split(sources: Sources | None, *, role: str) -> list[tuple[str | None, list[Source]]]:
    """Return (split, its sources); None for a source that may hold several splits."""
    if sources is None:
        return []
    if not isinstance(sources, Mapping):
        return [(None, [sources])]
    return [(split, _listed(given, role=role)) for split, given in sources.items()]


def _listed(value: Source | Sequence[Source], *, role: str) -> list[Source]:
    """Return the sources of one split: of tokens a list of files is several, else it is values."""
    is_list = isinstance(value, list | tuple) and len(value) > 0
    if is_list and role == "tokens" and isinstance(value[0], str | os.PathLike):
        return list(value)
    return [value]


def _arrays_of(source: Source, split: str | None, role: str) -> dict[str, dict[str, Array]]:
    """Return split -> role -> array of one source."""
    if not isinstance(source, str | os.PathLike):
        return {split or DEFAULT_SPLIT: {role: np.asarray(source)}}
    arrays = read_arrays(os.fspath(source))
    grouped: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        found_split, found_role = _classify(name, role, single=len(arrays) == 1)
        if found_role:
            grouped.setdefault(found_split, {})[found_role] = array
    if not grouped:
        raise OptionError(
            f"{source}: expected an array named {', '.join(filter(None, ROLES[role]))}, got "
            f"{', '.join(sorted(arrays))}: name it, as in {source}#{min(arrays)}"
        )
    if split is None:
        return {name or DEFAULT_SPLIT: roles for name, roles in grouped.items()}
    if split not in grouped and "" not in grouped:
        raise OptionError(f"{source}: expected split {split!r}, got {', '.join(grouped)}")
    return {split: grouped[split] if split in grouped else grouped[""]}


def _classify(name: str, role: str, *, single: bool) -> tuple[str, str]:
    """Return split and role of an array by its name, each "" if there is none."""
    roles = {alias: known for known, aliases in ROLES.items() for alias in aliases if alias}
    lower = name.lower()
    if lower in roles:
        return "", roles[lower]
    match = NAMED.fullmatch(name)
    if match:
        split = match["split"] or match["split2"]
        last = (match["name"] or match["name2"]).lower()
        if last in roles:
            return split, roles[last]
    return ("", role) if single else ("", "")


def _as_nltd(array: Array, *, where: str) -> Array:
    """Return (N, D) as (N, 1, 1, D), and (N, T, D) as (N, 1, T, D)."""
    if array.dtype.kind != "f":
        raise DataError(f"{where}: expected floats, got {array.dtype}")
    if array.ndim == 2:
        return array[:, None, None]
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4:
        return array
    raise DataError(
        f"{where}: expected (N, D), (N, T, D) or (N, L, T, D), for N samples, L layers, T tokens "
        f"of a layer and width D; got {array.shape}"
    )


def _as_pairs(names: Array) -> tuple[tuple[int, str], ...] | None:
    """Return (layer, token) of names such as "12:cls"; None unless every layer has all tokens."""
    try:
        pairs = [(int(layer), token) for layer, token in (str(n).split(":") for n in names)]
    except ValueError:
        return None
    layers, tokens = dict.fromkeys(p[0] for p in pairs), dict.fromkeys(p[1] for p in pairs)
    product = [(layer, token) for layer in layers for token in tokens]
    return tuple(pairs) if pairs == product else None


def _split_layers(x_nltd: Array, pairs: tuple[tuple[int, str], ...] | None) -> Array:
    """Return (N, 1, L * T, D) as (N, L, T, D)."""
    if pairs is None or x_nltd.shape[1:3] != (1, len(pairs)):
        return x_nltd
    n_layers = len({layer for layer, _ in pairs})
    return x_nltd.reshape(len(x_nltd), n_layers, -1, x_nltd.shape[3])


def _as_ids(values: Array) -> list[str]:
    return [str(value) for value in np.asarray(values).tolist()]


def _check(name: str, split: SplitArrays, *, first: SplitArrays) -> None:
    """Raise DataError unless the parts, labels and ids of a split fit together and the others."""
    where = f"split {name!r}"
    for part in split.parts:
        if part.shape[0] != split.rows or part.shape[2:] != split.parts[0].shape[2:]:
            raise DataError(
                f"{where}: expected layers of the same samples, tokens and width, got arrays "
                f"{', '.join(str(p.shape) for p in split.parts)} (N, L, T, D)"
            )
    if split.shape != first.shape:
        raise DataError(
            f"{where}: expected (L, T, D) = {first.shape} as in the first split, got {split.shape}"
        )
    if not split.rows:
        raise DataError(f"{where}: expected samples, got none")
    for role, values in (("labels", split.labels), ("ids", split.ids)):
        if values is not None and len(values) != split.rows:
            raise DataError(f"{where}: expected {split.rows} {role}, got {len(values)}")
    if split.ids is not None and len(set(split.ids)) < split.rows:
        seen: set[str] = set()
        repeated = next(name for name in split.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"{where}: expected distinct ids, got {repeated!r} more than once")

"""Combinations of a backbone and a dataset: the caches that a report treats as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from layercache.cache.cache import Cache
from layercache.cache.format.spec import sha256_json


@dataclass(frozen=True, eq=False, kw_only=True)
class Combination:
    """One backbone on one dataset: caches that differ only in their layers and tokens."""

    key: str
    """Digest of everything that the caches have in common."""
    name: str
    """Name for people: "vit_nano on digits"."""
    caches: tuple[Cache, ...]
    """Caches, the one with most layers first."""

    @property
    def cache(self) -> Cache:
        """The cache with most layers."""
        return self.caches[0]

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return self.cache.spec.model

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.cache.spec.dataset.name

    @property
    def depth(self) -> int:
        """Number of the last layer."""
        return self.cache.spec.depth

    @property
    def slug(self) -> str:
        """Name in file names and element ids."""
        words = re.findall(r"[a-z0-9_.]+", self.name.replace(" on ", " ").lower())
        return "-".join(words).replace(".", "-")

    @property
    def has_class_token(self) -> bool:
        """True if a cache stores CLS; without it there is no baseline."""
        return any("cls" in cache.spec.tokens for cache in self.caches)


def find_combinations(caches: Sequence[Cache]) -> list[Combination]:
    """Group caches that differ only in layers and tokens."""
    by_key: dict[str, list[Cache]] = {}
    for cache in caches:
        common = {k: v for k, v in cache.spec.to_json().items() if k not in ("layers", "tokens")}
        by_key.setdefault(sha256_json(common), []).append(cache)
    for group in by_key.values():
        group.sort(key=lambda c: (-len(c.spec.layers), "cls" not in c.spec.tokens, c.path))
    names = {key: f"{c[0].spec.model} on {c[0].spec.dataset.name}" for key, c in by_key.items()}
    duplicated = {name for name in names.values() if list(names.values()).count(name) > 1}
    return [
        Combination(
            key=key,
            name=f"{name} ({by_key[key][0].path.name})" if name in duplicated else name,
            caches=tuple(by_key[key]),
        )
        for key, name in names.items()
    ]

"""Combinations of a backbone and a dataset: the caches that a report treats as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from layercache.cache.cache import Cache
from layercache.cache.format.spec import sha256_json
from layercache.probing.spec import describe_extraction
from layercache.reporting.labels import DIGEST_LENGTH, label_datasets, label_models, slugify


@dataclass(frozen=True, eq=False, kw_only=True)
class Combination:
    """One backbone on one dataset: caches that differ only in their layers and tokens."""

    key: str
    """Digest of everything that the caches have in common."""
    name: str
    """Name for people: "vit_nano on digits"."""
    slug: str
    """Name in file names and element ids."""
    model_label: str
    """Name of the backbone; no other weights of the report have it."""
    dataset_label: str
    """Name of the dataset; no other data of the report have it."""
    caches: tuple[Cache, ...]
    """Caches, the one with most layers first."""

    @property
    def cache(self) -> Cache:
        """The cache with most layers."""
        return self.caches[0]

    @property
    def model(self) -> str:
        """Name of the backbone, as given to `extract`."""
        return self.cache.spec.model

    @property
    def dataset(self) -> str:
        """Name of the dataset, as given to `extract`."""
        return self.cache.spec.dataset.name

    @property
    def source(self) -> str:
        """Source of the dataset, as in "folder:PATH"; its name if that is not recorded."""
        sources = (cache.source for cache in self.caches)
        return next((source for source in sources if source), self.dataset)

    @property
    def weights_digest(self) -> str:
        """Digest of the backbone's weights, as in the results table."""
        return weights_digest(self.cache)

    @property
    def dataset_digest(self) -> str:
        """Digest of the dataset's identity, as in the results table."""
        return dataset_digest(self.cache)

    @property
    def depth(self) -> int:
        """Number of the last layer."""
        return self.cache.spec.depth

    @property
    def has_class_token(self) -> bool:
        """True if a cache stores CLS; without it there is no baseline."""
        return any("cls" in cache.spec.tokens for cache in self.caches)


def find_combinations(caches: Sequence[Cache]) -> list[Combination]:
    """Group caches that differ only in layers and tokens."""
    by_key: dict[str, list[Cache]] = {}
    for cache in caches:
        by_key.setdefault(sha256_json(describe_extraction(cache.spec)), []).append(cache)
    for group in by_key.values():
        group.sort(key=lambda c: (-len(c.spec.layers), "cls" not in c.spec.tokens, c.path))
    first = {key: group[0] for key, group in by_key.items()}
    models = label_models({weights_digest(c): c.spec.model for c in first.values()})
    datasets = label_datasets({dataset_digest(c): c.spec.dataset for c in first.values()})
    names = {
        key: f"{models[weights_digest(c)]} on {datasets[dataset_digest(c)]}"
        for key, c in first.items()
    }
    n_namesakes = Counter(names.values())
    names = {
        key: f"{name} ({first[key].path.name})" if n_namesakes[name] > 1 else name
        for key, name in names.items()
    }
    slugs = {key: slugify(name) for key, name in names.items()}
    n_slugs = Counter(slugs.values())
    return [
        Combination(
            key=key,
            name=name,
            slug=f"{slugs[key]}-{key[:DIGEST_LENGTH]}" if n_slugs[slugs[key]] > 1 else slugs[key],
            model_label=models[weights_digest(first[key])],
            dataset_label=datasets[dataset_digest(first[key])],
            caches=tuple(by_key[key]),
        )
        for key, name in names.items()
    ]


def weights_digest(cache: Cache) -> str:
    """Return the digest of the backbone's weights, 12 hex digits."""
    return str(describe_extraction(cache.spec)["weights"])


def dataset_digest(cache: Cache) -> str:
    """Return the digest of the dataset's identity, 12 hex digits."""
    return str(describe_extraction(cache.spec)["dataset"])

"""Combinations of a backbone, a dataset and a target: the caches that a report treats as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from layercache.cache.cache import Cache
from layercache.cache.format.cache_spec import sha256_json
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL
from layercache.probing.results.identity import LABEL
from layercache.probing.spec import describe_extraction
from layercache.reporting.data.display_names import (
    DIGEST_LENGTH,
    label_datasets,
    label_models,
    slugify,
)
from layercache.reporting.data.targets import ProbeTarget


@dataclass(frozen=True, eq=False, kw_only=True)
class Combination:
    """One backbone on one dataset, and what its probes predict.

    Its caches differ only in their layers and tokens.
    """

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
    target: ProbeTarget
    """Target of its probes."""

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
        """Digest of the dataset's identity, as in the results table, and of the target."""
        digest = dataset_digest(self.cache)
        return digest if self.target.is_label else sha256_json([digest, vars(self.target)])[:12]

    def with_target(self, target: ProbeTarget) -> Combination:
        """Return the same backbone and dataset with another target, which is in all names."""
        if target.is_label:
            return self
        digits = sha256_json(vars(target))[:DIGEST_LENGTH]
        return replace(
            self,
            key=f"{self.key}-{digits}",
            name=f"{self.name} ({target.name})",
            slug=f"{self.slug}-{slugify(target.name)}-{digits}",
            dataset_label=f"{self.dataset_label} ({target.name})",
            target=target,
        )

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
            target=label_of(first[key]),
        )
        for key, name in names.items()
    ]


def label_of(cache: Cache) -> ProbeTarget:
    """Return the dataset's own label as a target."""
    task = MULTI_LABEL if cache.multi_label else CLASSIFICATION
    return ProbeTarget(name=LABEL, task=task)


def weights_digest(cache: Cache) -> str:
    """Return the digest of the backbone's weights, 12 hex digits."""
    return str(describe_extraction(cache.spec)["weights"])


def dataset_digest(cache: Cache) -> str:
    """Return the digest of the dataset's identity, 12 hex digits."""
    return str(describe_extraction(cache.spec)["dataset"])

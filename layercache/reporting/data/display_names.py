"""Names for people of datasets and backbones, distinct wherever what they name is distinct.

Two tables called labels.csv, a pilot with `limit` and the whole dataset, or superseded and
corrected labels share the name that was given to `extract`. A report keeps them apart by their
digests, so each digest gets its own label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from layercache._units import pluralize
from layercache.cache.format.cache_spec import DatasetIdentity

DIGEST_LENGTH = 6
"""Number of hex digits of a digest in a label."""


def label_datasets(datasets: Mapping[str, DatasetIdentity]) -> dict[str, str]:
    """Return a distinct label for each dataset: "flowers (limit 200)", "labels.csv (5 classes)".

    Args:
        datasets: Digest of the whole identity -> identity.
    """
    names = {digest: dataset.name for digest, dataset in datasets.items()}
    labels = {}
    for name, digests in _group(names).items():
        if len(digests) == 1:
            labels[digests[0]] = name
            if datasets[digests[0]].limit is not None:
                labels[digests[0]] += f" ({_limit(datasets[digests[0]])})"
            continue
        features = _distinguishing_features([datasets[digest] for digest in digests])
        for digest in digests:
            described = [feature(datasets[digest]) for feature in features]
            labels[digest] = f"{name} ({', '.join(described or [digest[:DIGEST_LENGTH]])})"
    return labels


def label_models(names: Mapping[str, str]) -> dict[str, str]:
    """Return a distinct label for each backbone: its name, with digits of the weights if needed.

    Args:
        names: Digest of the weights -> name.
    """
    return {
        digest: name if len(digests) == 1 else f"{name} (weights {digest[:DIGEST_LENGTH]})"
        for name, digests in _group(names).items()
        for digest in digests
    }


def slugify(text: str) -> str:
    """Return a name for files and element ids: "vit_nano on digits" is vit_nano-digits."""
    words = re.findall(r"[a-z0-9_.]+", text.replace(" on ", " ").lower())
    return "-".join(words).replace(".", "-")


def _group(names: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for digest, name in names.items():
        groups.setdefault(name, []).append(digest)
    return groups


def _distinguishing_features(
    datasets: Sequence[DatasetIdentity],
) -> list[Callable[[DatasetIdentity], str]]:
    """Return as few features as tell these datasets apart; none if no feature does."""
    features = [_limit, _images]
    for chosen in (*([feature] for feature in features), features):
        if len({tuple(feature(d) for feature in chosen) for d in datasets}) == len(datasets):
            return list(chosen)
    return []


def _limit(dataset: DatasetIdentity) -> str:
    if dataset.limit is None:
        return "all images"
    seed = f", seed {dataset.limit_seed}" if dataset.limit_seed else ""
    return f"limit {dataset.limit}{seed}"


def _images(dataset: DatasetIdentity) -> str:
    return pluralize(sum(split.rows for split in dataset.splits.values()), "image")

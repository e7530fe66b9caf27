"""What a data set contributes to a cache's fingerprint."""

from __future__ import annotations

from layercache.cache.format.spec import DatasetIdentity, SplitIdentity, digest_ids, digest_labels
from layercache.extraction.datasets.base import Dataset, Samples
from layercache.extraction.datasets.limit import limit as limited


def identity(dataset: Dataset, limit: int | None = None, *, seed: int = 0) -> DatasetIdentity:
    """Rows, ids, labels and content of every split of limit(dataset, limit, seed=seed); a data set already so limited gives the same.

    Reads the images' bytes once where they are few enough to be hashed in full (see SplitIdentity.content). Raises OptionError, DataError.
    """
    kept = limited(dataset, limit, seed=seed)
    return DatasetIdentity(
        name=kept.name,
        classes=kept.classes,
        multi_label=kept.multi_label,
        limit=limit,
        limit_seed=0 if limit is None else seed,
        splits={split: _split(kept.open(split)) for split in kept.splits},
    )


def _split(samples: Samples) -> SplitIdentity:
    ids = samples.ids
    return SplitIdentity(
        rows=len(ids),
        ids=digest_ids(ids),
        labels=digest_labels(samples.labels),
        content=samples.content,
    )

"""The part of a cache's fingerprint that a dataset determines."""

from __future__ import annotations

from layercache.cache.format.cache_spec import DatasetIdentity, SplitIdentity, digest_ids
from layercache.extraction.datasets.base import Dataset, Samples
from layercache.extraction.datasets.subsampling import limit_samples


def dataset_identity(
    dataset: Dataset, limit: int | None = None, *, seed: int = 0
) -> DatasetIdentity:
    """Return the rows, ids and image digests of every split of a dataset.

    Reads the images' bytes once, unless there are too many to be hashed in full (see
    `Samples.content_digest`).

    Args:
        dataset: The whole dataset, or one that `limit_samples` has shortened with the same `limit`
            and `seed`.
        limit: Maximum number of samples per split; None keeps all.
        seed: Seed of the draw.

    Raises:
        OptionError: `limit` or `seed` is out of range.
        DataError: An image cannot be read.
    """
    dataset = limit_samples(dataset, limit, seed=seed)
    return DatasetIdentity(
        name=dataset.name,
        limit=limit,
        limit_seed=0 if limit is None else seed,
        splits={name: _split_identity(dataset.split(name)) for name in dataset.splits},
    )


def _split_identity(samples: Samples) -> SplitIdentity:
    return SplitIdentity(
        rows=len(samples.ids),
        ids=digest_ids(samples.ids),
        content=samples.content_digest,
    )

"""--limit: fewer samples of every split, the same ones everywhere."""

from __future__ import annotations

from layercache.errors import OptionError
from layercache.extraction.datasets import subsampling
from layercache.extraction.datasets.base import Dataset, Samples
from layercache.extraction.datasets.in_memory import InMemoryDataset


def limit(dataset: Dataset, n: int | None, *, seed: int = 0) -> Dataset:
    """At most `n` samples of every split, in the source's order; None keeps all.

    Each class keeps its share (and one sample at least where n suffices); a multi-label set is drawn without regard to labels.
    The draw depends on the seed, the split's name and the labels alone. A split with no more than n samples stays as it is.
    Raises OptionError.
    """
    if n is None:
        return dataset
    if n < 1:
        raise OptionError(f"limit: expected at least 1 sample, got {n}")
    if seed < 0:
        raise OptionError(f"limit: expected a seed of at least 0, got {seed}")
    samples = {
        split: _some(
            dataset.open(split), n, seed=seed, split=split, multi_label=dataset.multi_label
        )
        for split in dataset.splits
    }
    return InMemoryDataset(
        name=dataset.name, classes=dataset.classes, multi_label=dataset.multi_label, samples=samples
    )


def _some(samples: Samples, n: int, *, seed: int, split: str, multi_label: bool) -> Samples:
    total = len(samples.labels)
    if n >= total:
        return samples
    return samples.take(
        subsampling.plain(total, n, seed=seed, key=split)
        if multi_label
        else subsampling.stratified(samples.labels, n, seed=seed, key=split)
    )

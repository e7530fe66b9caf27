"""Sources of labelled images: `open_dataset` gives one by its name, `limit` shortens it, `identity` says what it is to a cache."""

from layercache.extraction.datasets.base import Dataset, Samples
from layercache.extraction.datasets.identity import identity
from layercache.extraction.datasets.limit import limit
from layercache.extraction.datasets.listing import DATASETS
from layercache.extraction.datasets.registry import data_root, dataset_name, open_dataset

__all__ = [
    "DATASETS",
    "Dataset",
    "Samples",
    "data_root",
    "dataset_name",
    "identity",
    "limit",
    "open_dataset",
]

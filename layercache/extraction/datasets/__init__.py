"""Labelled image datasets: `open_dataset` returns one by its name."""

from layercache.cache.format.origin import dataset_name
from layercache.extraction.datasets.base import Dataset, Samples
from layercache.extraction.datasets.description import describe_dataset
from layercache.extraction.datasets.identity import dataset_identity
from layercache.extraction.datasets.in_memory import check_labels, rename_dataset
from layercache.extraction.datasets.open import data_root, open_dataset
from layercache.extraction.datasets.registry import DATASETS
from layercache.extraction.datasets.subsampling import limit_samples

__all__ = [
    "DATASETS",
    "Dataset",
    "Samples",
    "check_labels",
    "data_root",
    "dataset_identity",
    "dataset_name",
    "describe_dataset",
    "limit_samples",
    "open_dataset",
    "rename_dataset",
]

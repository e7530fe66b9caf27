"""Arrays read straight from torchvision's files, so that decoding processes need not import torch.

Each function takes the folder that torchvision reads and the split ("train" or "test"), and returns
uint8 (N, H, W) or (N, H, W, 3). torchvision has checked before that the files are complete.
"""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from layercache.errors import MissingExtraError

Array = np.ndarray[Any, Any]


def fashion_mnist(root: str, split: str) -> Array:
    """Return (N, 28, 28), memory-mapped, so that processes share it."""
    stem = "train" if split == "train" else "t10k"
    file = Path(root, "FashionMNIST/raw", f"{stem}-images-idx3-ubyte")
    return np.memmap(file, np.uint8, "r", offset=16).reshape(-1, 28, 28)


def cifar10(root: str, split: str) -> Array:
    """Return (N, 32, 32, 3)."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    return _cifar(Path(root, "cifar-10-batches-py"), names)


def cifar100(root: str, split: str) -> Array:
    """Return (N, 32, 32, 3)."""
    return _cifar(Path(root, "cifar-100-python"), [split])


def _cifar(folder: Path, names: list[str]) -> Array:
    batches = [pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in names]
    channels_first = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(channels_first.transpose(0, 2, 3, 1))


def svhn(root: str, split: str) -> Array:
    """Return (N, 32, 32, 3)."""
    from scipy.io import loadmat

    images_last = loadmat(str(Path(root, f"{split}_32x32.mat")))["X"]
    return np.ascontiguousarray(images_last.transpose(3, 0, 1, 2))


def stl10(root: str, split: str) -> Array:
    """Return (N, 96, 96, 3), memory-mapped; the file holds (N, channel, column, row)."""
    file = Path(root, "stl10_binary", f"{split}_X.bin")
    return np.memmap(file, np.uint8, "r").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)


def fer2013(root: str, split: str) -> Array:
    """Return (N, 48, 48), from fer2013.csv, else icml_face_data.csv, else <split>.csv."""
    folder = Path(root, "fer2013")
    path = next(
        (p for p in (folder / "fer2013.csv", folder / "icml_face_data.csv") if p.exists()),
        folder / f"{split}.csv",
    )
    images = []
    with open(path, newline="") as file:
        for padded_row in csv.DictReader(file):
            row = {column.strip(): value for column, value in padded_row.items()}
            if "Usage" not in row or (row["Usage"] == "Training") == (split == "train"):
                images.append(np.fromstring(row["pixels"], np.uint8, sep=" ").reshape(48, 48))
    return np.stack(images)


def pcam(root: str, split: str) -> Any:
    """Return (N, 96, 96, 3): an h5py dataset, read row by row."""
    return _open_h5(root, f"camelyonpatch_level_2_split_{split}_x.h5")["x"]


def pcam_labels(root: str, split: str) -> Array:
    """Return PCam's labels, int64 (N,)."""
    with _open_h5(root, f"camelyonpatch_level_2_split_{split}_y.h5") as file:
        return file["y"][:].reshape(-1).astype(np.int64)  # type: ignore[no-any-return]


def _open_h5(root: str, name: str) -> Any:
    return import_h5py().File(Path(root, "pcam", name))


def import_h5py() -> Any:
    """Return the module h5py.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "pcam") from error
    return h5py

"""Arrays straight from the files that hold them, without torch: what a decoding process reads instead of importing torchvision.

Each function takes the folder that torchvision reads and the split ("train" or "test"), and gives uint8 (N, H, W) or (N, H, W, 3).
Whether the files are complete is torchvision's to check, before.
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
    """(N, 28, 28), mapped from disk: processes share it."""
    stem = "train" if split == "train" else "t10k"
    return np.memmap(
        Path(root, "FashionMNIST/raw", f"{stem}-images-idx3-ubyte"), np.uint8, "r", offset=16
    ).reshape(-1, 28, 28)


def cifar10(root: str, split: str) -> Array:
    """(N, 32, 32, 3)."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    return _cifar(Path(root, "cifar-10-batches-py"), names)


def cifar100(root: str, split: str) -> Array:
    """(N, 32, 32, 3)."""
    return _cifar(Path(root, "cifar-100-python"), [split])


def _cifar(folder: Path, names: list[str]) -> Array:
    planes = [
        pickle.loads((folder / name).read_bytes(), encoding="latin1")["data"] for name in names
    ]
    return np.ascontiguousarray(np.concatenate(planes).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def svhn(root: str, split: str) -> Array:
    """(N, 32, 32, 3)."""
    from scipy.io import loadmat

    return np.ascontiguousarray(
        loadmat(str(Path(root, f"{split}_32x32.mat")))["X"].transpose(3, 0, 1, 2)
    )


def stl10(root: str, split: str) -> Array:
    """(N, 96, 96, 3), mapped from disk; the file holds (N, channel, column, row)."""
    return (
        np.memmap(Path(root, "stl10_binary", f"{split}_X.bin"), np.uint8, "r")
        .reshape(-1, 3, 96, 96)
        .transpose(0, 3, 2, 1)
    )


def fer2013(root: str, split: str) -> Array:
    """(N, 48, 48), from the first that is there of fer2013.csv, icml_face_data.csv and <split>.csv."""
    folder = Path(root, "fer2013")
    path = next(
        (p for p in (folder / "fer2013.csv", folder / "icml_face_data.csv") if p.exists()),
        folder / f"{split}.csv",
    )
    with open(path, newline="") as file:
        rows = ({key.strip(): value for key, value in row.items()} for row in csv.DictReader(file))
        kept = (
            row["pixels"]
            for row in rows
            if "Usage" not in row or (row["Usage"] == "Training") == (split == "train")
        )
        return np.stack(
            [np.fromstring(pixels, np.uint8, sep=" ").reshape(48, 48) for pixels in kept]
        )


def pcam(root: str, split: str) -> Any:
    """(N, 96, 96, 3): an h5py data set, read row by row."""
    return _h5(Path(root, "pcam", f"camelyonpatch_level_2_split_{split}_x.h5"))["x"]


def pcam_labels(root: str, split: str) -> Array:
    """int64 (N,)."""
    with _h5(Path(root, "pcam", f"camelyonpatch_level_2_split_{split}_y.h5")) as file:
        return file["y"][:].reshape(-1).astype(np.int64)  # type: ignore[no-any-return]


def _h5(path: Path) -> Any:
    return h5py().File(path)


def h5py() -> Any:
    """The module. Raises MissingExtraError."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "pcam") from error
    return h5py

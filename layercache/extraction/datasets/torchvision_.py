"""Data sets that torchvision reads, from the folder that it reads them from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from layercache.errors import DataNotFoundError
from layercache.extraction.datasets.arrays import ArraySamples
from layercache.extraction.datasets.labelled import Labelled

Array = np.ndarray[Any, Any]


def fashion_mnist(root: Path, *, download: bool = False) -> Labelled:
    """ROOT/FashionMNIST/raw/*-ubyte."""

    def split(train: bool) -> ArraySamples:
        made = _made("fashion_mnist", "FashionMNIST", root, download=download, train=train)
        return ArraySamples(partial(_idx, str(root), train), labels=made.targets.numpy().astype(np.int64), prefix="train" if train else "test")

    from torchvision.datasets import FashionMNIST

    return Labelled(name="fashion_mnist", classes=tuple(FashionMNIST.classes), samples={"train": split(True), "test": split(False)})


def _idx(root: str, train: bool) -> Array:
    return _made("fashion_mnist", "FashionMNIST", Path(root), train=train).data.numpy()  # type: ignore[no-any-return]


def _made(name: str, kind: str, root: Path, *, download: bool = False, **options: Any) -> Any:
    """The data set object of torchvision. Raises DataNotFoundError when its files are not there."""
    import torchvision

    try:
        return getattr(torchvision.datasets, kind)(str(root), download=download, **options)
    except (RuntimeError, FileNotFoundError) as error:
        raise DataNotFoundError(
            f"{name}: torchvision found no complete copy below {root.absolute()} ({_first_line(error)}); give --data-root, "
            f'or fetch it: python -c "import torchvision; torchvision.datasets.{kind}({str(root)!r}, download=True)"'
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


READERS: dict[str, Callable[..., Labelled]] = {"fashion_mnist": fashion_mnist}

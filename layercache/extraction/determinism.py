"""Settings of torch that hold for a whole process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def determinism(wanted: bool) -> None:
    """Only deterministic algorithms from now on, if wanted."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """As `determinism`, for as long as the context lasts."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    determinism(wanted)
    try:
        yield
    finally:
        if wanted:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]

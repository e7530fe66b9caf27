"""Deterministic algorithms of torch, which are switched on for a whole process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_deterministic_algorithms() -> None:
    """Use only deterministic algorithms from now on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Use only deterministic algorithms within the context, if enabled."""
    if not enabled:
        yield
        return
    algorithms = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    use_deterministic_algorithms()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms)
        torch.backends.cudnn.benchmark = benchmark

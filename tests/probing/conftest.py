"""Small cached splits in memory, for what reads features and nothing else of a cache."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


class MemorySplit:
    """A Split over an array (L, T, N, D) in memory, which counts reads."""

    def __init__(
        self,
        x_ltnd: np.ndarray[Any, Any],
        labels: np.ndarray[Any, Any],
        *,
        block: int,
        tokens: tuple[str, ...],
    ) -> None:
        layers, _, self.rows, width = x_ltnd.shape
        self.name = "train"
        self.x = x_ltnd
        self.labels = labels
        self.ids = [f"sample-{i}" for i in range(self.rows)]
        self.blocks = [(a, min(a + block, self.rows)) for a in range(0, self.rows, block)]
        self.tokens = tokens
        self.reads: list[tuple[int, int]] = []
        self.readers = 2
        self.remote = False
        dataset = SimpleNamespace(name="made-up", classes=("a", "b", "c"))
        self.spec = SimpleNamespace(
            width=width,
            depth=layers,
            storage_dtype=str(x_ltnd.dtype),
            codec=None,
            code_width=width,
            code_dtype=x_ltnd.dtype,
            model="nobody",
            dataset=dataset,
        )

        self.codec = None

    def read_stored(
        self,
        pairs: Any,
        *,
        rows: tuple[int, int],
        out: np.ndarray[Any, Any],
        verify: bool = True,
        threads: int | None = None,
    ) -> np.ndarray[Any, Any]:
        self.reads.append(rows)
        for s, (layer, token) in enumerate(pairs):
            out[s] = self.x[layer - 1, self.tokens.index(token), rows[0] : rows[1]]
        return out


@pytest.fixture
def memory_split() -> Callable[..., MemorySplit]:
    """memory_split(rows=, block=, ...): random tokens of kinds cls and ap, labels 0 to 2."""

    def make(
        *, rows: int = 100, block: int = 16, layers: int = 3, width: int = 8, dtype: str = "float16"
    ) -> MemorySplit:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(layers, 2, rows, width)).astype(dtype)
        return MemorySplit(x, rng.integers(0, 3, rows), block=block, tokens=("cls", "ap"))

    return make

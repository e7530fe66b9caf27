"""Attention on each of several joined encoders.

Shapes: H attention heads, S tokens of all encoders, E encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.probing.results.probe_store import Probe

MODEL_MARK = "+"
"""Joins the names of the encoders in the column `model`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EncoderAttention:
    """Attention weights on the tokens of one encoder."""

    name: str
    """Name of the model, with a number where a model was joined twice."""
    pairs: tuple[tuple[int, str], ...]
    """(layer, token) of its tokens."""
    mean: NDArray[Any]
    """Mean weight over test images, (H, S_e)."""
    std: NDArray[Any]
    """Standard deviation over test images, (H, S_e)."""

    @property
    def share_h(self) -> NDArray[Any]:
        """Part of each attention head's weight that is on this encoder, (H,)."""
        return np.asarray(self.mean.sum(1))

    @property
    def share(self) -> float:
        """Mean part over attention heads; those of all encoders sum to 1."""
        return float(self.share_h.mean())


def encoder_names(probe: Probe) -> list[str]:
    """Return a distinct name for each source of a probe that joins encoders."""
    n_sources = len(probe.spec["sources"])
    names = str(probe.row["model"]).split(MODEL_MARK)
    if len(names) != n_sources:  # a name has the mark in itself
        return [f"encoder {i + 1}" for i in range(n_sources)]
    return [
        f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def attention_by_encoder(probe: Probe) -> list[EncoderAttention]:
    """Return the attention on each joined encoder; none for other probes and heads.

    Raises:
        CacheCorruptError: The predictions are damaged.
    """
    if not probe.row.get("join"):
        return []
    stored = probe.predictions()
    if stored.attention_mean is None or stored.attention_std is None:
        return []
    parts, first = [], 0
    for name, source in zip(encoder_names(probe), probe.spec["sources"], strict=True):
        columns = slice(first, first + len(source["pairs"]))
        parts.append(
            EncoderAttention(
                name=name,
                pairs=probe.pairs[columns],
                mean=stored.attention_mean[:, columns],
                std=stored.attention_std[:, columns],
            )
        )
        first = columns.stop
    return parts

"""Nearest neighbors as a trained model: votes as logits, or means of a regression's targets.

Shapes: B samples, S tokens, D width, P = S D, C classes or columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.probing.closed_form.neighbors import Neighbors, Setting, ranks_among_ties
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION

MIN_PROB = 1e-12
"""Lower bound of a probability before its logarithm."""
TIE_STEP = 1e-5
"""Difference of the logarithms of two equal vote shares: smaller than that of two unequal ones."""

Config = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class NeighborModel:
    """Training samples, and predictions from them for every configuration."""

    neighbors: Neighbors
    """The training samples."""
    head: HeadSpec
    """A linear head on the same tokens, with the task."""

    def outputs(self, x: Tensor, configs: Iterable[Config]) -> Iterator[Tensor]:
        """Yield outputs (B, C), float32, for each configuration.

        They are the logarithms of the shares of the votes, with several labels their log-odds, in a
        regression the mean of the neighbors' targets. Of classes with equal shares, also none, the
        one with the nearest sample ranks first, so that no metric depends on the numbers of the
        classes; its value is larger by TIE_STEP, without votes by 1.

        Args:
            x: Concatenated tokens (B, P).
            configs: Values of k and, unless the votes are equal, temperature.
        """
        settings = [read_setting(config) for config in configs]
        shares, nearest = self.neighbors.votes(x, settings)
        for share in shares:
            yield vote_outputs(share, nearest, task=self.head.task)


@dataclass(frozen=True, eq=False)
class NeighborClassifier:
    """The selected nearest-neighbor model."""

    model: NeighborModel
    """Training samples."""
    config: Config
    """Selected configuration."""

    diverged = False

    def predict(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Return outputs (B, C) of normalized tokens (B, S, D); see `NeighborModel.outputs`."""
        x = torch.as_tensor(tokens).flatten(1)
        (outputs,) = self.model.outputs(x, [self.config])
        return outputs


def read_setting(config: Config) -> Setting:
    """Return k and temperature of a configuration."""
    return int(config["k"]), config.get("temperature")


def vote_outputs(shares: Tensor, nearest: Tensor, *, task: str) -> Tensor:
    """Return the outputs (B, C) of the shares of votes; see `NeighborModel.outputs`.

    Args:
        shares: (B, C).
        nearest: Similarity of the nearest sample of each class (B, C).
        task: classification, multi-label or regression.
    """
    if task == REGRESSION:
        return shares
    logs = shares.clamp_min(MIN_PROB).log()
    if task == CLASSIFICATION:  # with several labels, ties change no metric
        steps = torch.where(shares > 0, TIE_STEP, 1.0)
        return logs - ranks_among_ties(shares, nearest) * steps
    return logs - (1 - shares).clamp_min(MIN_PROB).log()  # its sigmoid is the share

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
        settings = [_setting(config) for config in configs]
        shares, nearest = self.neighbors.votes(x, settings)
        for share in shares:
            if self.head.task == REGRESSION:
                yield share
                continue
            logs = share.clamp_min(MIN_PROB).log()
            if self.head.task == CLASSIFICATION:  # with several labels, ties change no metric
                steps = torch.where(share > 0, TIE_STEP, 1.0)
                yield logs - ranks_among_ties(share, nearest) * steps
            else:  # the sigmoid of the output is the share
                yield logs - (1 - share).clamp_min(MIN_PROB).log()


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


def _setting(config: Config) -> Setting:
    return int(config["k"]), config.get("temperature")

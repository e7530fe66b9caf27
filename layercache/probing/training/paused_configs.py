"""Configurations whose training a search has stopped, kept in memory to be continued.

They may continue in a pass of other configurations than they were trained with: all passes of a
fold share batches, noise and the random numbers of dropout.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layercache._devices import free_memory
from layercache.probing.training.config import HParams

logger = logging.getLogger(__name__)

MEMORY_FRACTION = 0.25
"""Part of the free memory for configurations that may be continued."""


@dataclass(frozen=True, kw_only=True)
class PausedConfig:
    """One configuration after some epochs; tensors are on the CPU."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """Parameters and both moments of AdamW, without the axis G."""
    shared: Mapping[str, Any]
    """Values common to all configurations at this step: steps, epochs, state of dropout."""
    own: Mapping[str, Any]
    """Its losses, validation curve and best epoch."""
    score: float
    """Validation score, the higher the better."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.nbytes for values in self.tensors.values() for t in values.values())


class PausedConfigs:
    """The paused configurations of one fold, the best ones if memory does not hold all."""

    def __init__(self, *, memory_fraction: float = MEMORY_FRACTION) -> None:
        """Start with none.

        Args:
            memory_fraction: Part of the free memory that they may take.
        """
        self._memory_fraction = memory_fraction
        self._configs: dict[HParams, PausedConfig] = {}

    def __contains__(self, hparams: HParams) -> bool:
        return hparams in self._configs

    def keep(self, paused: Mapping[HParams, PausedConfig]) -> None:
        """Keep more configurations; if memory is short, the worst of all are dropped."""
        configs = self._configs | dict(paused)
        held = sum(config.nbytes for config in configs.values())
        budget = self._memory_fraction * (free_memory(torch.device("cpu")) + held)
        best = sorted(configs.items(), key=lambda item: -item[1].score)
        self._configs, used = {}, 0
        for hparams, config in best:
            used += config.nbytes
            if used > budget:
                logger.info(
                    "%d of %d configurations stay in memory; the others train from the start if "
                    "they continue",
                    len(self._configs),
                    len(best),
                )
                break
            self._configs[hparams] = config

    def take(self, configs: Sequence[HParams]) -> list[PausedConfig] | None:
        """Return and forget these configurations; None if one of them is not kept."""
        if any(hparams not in self._configs for hparams in configs):
            return None
        return [self._configs.pop(hparams) for hparams in configs]

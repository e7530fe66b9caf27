"""What the search of one fold keeps in memory: paused configurations and trained branches.

Paused configurations may continue in a pass of other configurations than they were trained with:
all passes of a fold share batches, noise and the random numbers of dropout.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layercache._devices import free_memory
from layercache.probing.heads.spec import LAYERS, SPATIAL
from layercache.probing.training.config import HParams

logger = logging.getLogger(__name__)

MEMORY_FRACTION = 0.25
"""Part of the free memory for configurations that may be continued."""
KEPT_BRANCHES = 3
"""Branches of each kind that are kept: several may have the best score."""


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


@dataclass(frozen=True)
class _TrainedBranch:
    """One branch at the end of its training; the parameters are on the CPU."""

    hparams: HParams
    parameters: dict[str, Tensor]
    score: tuple[float, ...]


class TrainedBranches:
    """The best branches of fusion heads that were trained to the end.

    With them, a pair of branches of two configurations is evaluated without training it again: no
    branch depends on the other one.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[_TrainedBranch]] = {LAYERS: [], SPATIAL: []}

    def keep(
        self,
        branch: str,
        hparams: HParams,
        parameters: Mapping[str, Tensor],
        *,
        score: tuple[float, ...],
    ) -> None:
        """Keep a copy of a branch if it is among the KEPT_BRANCHES best.

        Args:
            branch: LAYERS or SPATIAL.
            hparams: Hyperparameters that it was trained with.
            parameters: Its parameters by their names in the whole head.
            score: Validation scores, the higher the better; later ones break ties.
        """
        kept = self._kept[branch]
        if len(kept) == KEPT_BRANCHES and score <= kept[-1].score:
            return
        copies = {name: value.to("cpu", copy=True) for name, value in parameters.items()}
        kept.append(_TrainedBranch(hparams, copies, score))
        kept.sort(key=lambda trained: trained.score, reverse=True)
        del kept[KEPT_BRANCHES:]

    def pair(self, configs: Sequence[HParams]) -> dict[str, Tensor] | None:
        """Return the parameters of both branches of a pair; None if one of them is not kept.

        Args:
            configs: Configurations of a pass; None is returned unless the pair is its only one.
        """
        if len(configs) != 1 or configs[0].spatial is None:
            return None
        parameters: dict[str, Tensor] = {}
        for branch, kept in self._kept.items():
            wanted = configs[0].of_branch(branch)
            found = [trained for trained in kept if trained.hparams == wanted]
            if not found:
                return None
            parameters |= found[0].parameters
        return parameters


class SearchMemory:
    """What the search of one fold keeps: paused configurations, the best ones if memory is short.

    Attributes:
        branches: Trained branches of fusion heads.
    """

    def __init__(self, *, memory_fraction: float = MEMORY_FRACTION) -> None:
        """Start with none.

        Args:
            memory_fraction: Part of the free memory that they may take.
        """
        self.branches = TrainedBranches()
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

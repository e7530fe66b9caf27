"""Nearest neighbors of all subsets: cosine similarities of tokens, added up over a subset.

Concatenated tokens of unit length have the mean of their cosines, so each token is compared once.

Shapes: B queries, R reference rows, S tokens, D width, C classes or columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from layercache.probing.baselines.neighbors import read_setting, vote_outputs
from layercache.probing.closed_form.neighbors import Neighbors
from layercache.probing.scan.plan import Subset
from layercache.probing.scan.stream import Kept

Config = Mapping[str, float]

GRID: tuple[Config, ...] = tuple(
    {"k": k} | ({} if t is None else {"temperature": t})
    for k in (5, 20, 100)
    for t in (None, 0.03, 0.1)
)
"""Settings that are tried."""


class Voter:
    """Reference rows, by which all subsets classify queries."""

    def __init__(
        self, references: Kept, y: Tensor, *, chosen: Tensor, classes: int, task: str
    ) -> None:
        """Normalize the reference rows.

        Args:
            references: Tokens of training rows.
            y: Their class numbers (R,), or targets (R, C).
            chosen: Positions of those to use.
            classes: C.
            task: classification, multi-label or regression.
        """
        if y.ndim == 1:
            chosen = chosen[torch.argsort(y[chosen], stable=True)]
        self._x = [references.normalized(s)[chosen] for s in range(len(references.x_snd))]
        self._neighbors = Neighbors(self._x[0], y[chosen], classes)
        self._task = task

    def outputs(
        self,
        x_sbd: Sequence[Tensor],
        subsets: Sequence[Subset],
        configs: Sequence[Sequence[Config]],
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the number of each subset and its outputs (B, C), one for each of its settings.

        Args:
            x_sbd: Normalized tokens of queries, S times (B, D).
            subsets: The subsets, those of one token first.
            configs: Settings of each subset.
        """
        totals: dict[int, Tensor] = {}
        for s, x_bd in enumerate(x_sbd):
            similarity = x_bd @ self._x[s].t()
            for number, subset in enumerate(subsets):
                if subset.tokens == (s,):
                    yield number, self._vote(similarity, configs[number])
                elif s in subset.tokens:
                    if number in totals:
                        totals[number].add_(similarity, alpha=1 / len(subset.tokens))
                    else:
                        totals[number] = similarity / len(subset.tokens)
                    if s == subset.tokens[-1]:
                        yield number, self._vote(totals.pop(number), configs[number])

    def _vote(self, similarity: Tensor, configs: Sequence[Config]) -> list[Tensor]:
        shares = self._neighbors.shares(similarity, [read_setting(config) for config in configs])
        nearest = self._neighbors.nearest(similarity)
        return [vote_outputs(share, nearest, task=self._task) for share in shares]

"""Moments of every token, and of the pairs of tokens that subsets need.

Shapes: N samples of a block, S tokens, D width, M targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from layercache.probing.closed_form.moments import Moments

MAX_ONE_HOT = 256
"""Targets up to which a product with one-hot targets is faster than adding rows by class."""
COLUMNS = 128
"""Columns of a tile of x x', of which those above the diagonal are not computed."""


class TokenMoments:
    """Sums over weighted samples, as `Moments`, with x x' of chosen pairs of tokens only."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        targets: int,
        subsets: Iterable[Sequence[int]],
        device: torch.device,
    ) -> None:
        """Start without samples.

        Args:
            tokens: S.
            width: D.
            targets: M.
            subsets: Tokens whose moments are needed together.
            device: Device of the sums.
        """

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        pairs = {(s, t) for subset in subsets for s in subset for t in subset if s <= t}
        self._partners = [sorted(t for a, t in pairs if a == s) for s in range(tokens)]
        self._xx = {pair: zeros(width, width) for pair in sorted(pairs)}
        self._x, self._xy = zeros(tokens, width), zeros(tokens, width, targets)
        self._y, self._weight = zeros(targets), zeros()
        self.shift: Tensor | None = None
        """Point that each token is measured from, float32 (S, D)."""

    def add(self, x_snd: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add samples.

        Args:
            x_snd: Normalized tokens, float32 (S, N, D); overwritten.
            y: Targets, float64 (N, M).
            weight: Weight of each sample, float64 (N,).
        """
        if self.shift is None:
            self.shift = x_snd.mean(1)
        root = weight.sqrt()
        right = (torch.cat([torch.ones_like(y[:, :1]), y], dim=1) * root[:, None]).float()
        scaled = x_snd.sub_(self.shift[:, None]).mul_(root.float()[:, None])
        self._weight += weight.sum()
        self._y += weight @ y
        by_class = y.shape[1] > MAX_ONE_HOT and bool((y.sum(1) == 1).all())
        classes = y.argmax(1)
        for s, x_nd in enumerate(scaled):
            if by_class:
                self._x[s] += x_nd.t() @ right[:, 0]
                sums = torch.zeros(self._xy.shape[:0:-1], device=y.device)
                sums.index_add_(0, classes, x_nd * right[:, :1])
                self._xy[s] += sums.t()
            else:
                sums = x_nd.t() @ right
                self._x[s] += sums[:, 0]
                self._xy[s] += sums[:, 1:]
            for t in self._partners[s]:
                if s == t:
                    _add_lower(self._xx[s, s], x_nd)
                else:
                    self._xx[s, t] += x_nd.t() @ scaled[t]

    def of(self, subset: Sequence[int]) -> Moments:
        """Return the moments of the concatenated tokens of a subset, ascending.

        Those of one token share its sums: they are valid until more samples are added.
        """
        assert self.shift is not None
        if len(subset) == 1:
            xx = self._product(subset[0], subset[0])
        else:
            rows = [torch.cat([self._product(s, t) for t in subset], dim=1) for s in subset]
            xx = torch.cat(rows)
        index = torch.as_tensor(subset, device=self._x.device)
        return Moments.of_sums(
            shift=self.shift[index].double().flatten(),
            weight=self._weight,
            x=self._x[index].flatten(),
            y=self._y,
            xx=xx,
            xy=self._xy[index].flatten(0, 1),
        )

    def _product(self, s: int, t: int) -> Tensor:
        """Return the sum of x_s x_t', (D, D)."""
        if s == t:
            _fill_upper(self._xx[s, s])
        return self._xx[s, t] if s <= t else self._xx[t, s].t()


def _add_lower(total: Tensor, x_nd: Tensor) -> None:
    """Add x' x to `total` (D, D), at least below and on its diagonal: it is symmetric."""
    width = len(total)
    step = COLUMNS if width >= 2 * COLUMNS else width
    for start in range(0, width, step):
        columns = slice(start, start + step)
        total[start:, columns] += x_nd[:, start:].t() @ x_nd[:, columns]


def _fill_upper(total: Tensor) -> None:
    """Copy what is below the diagonal of a symmetric matrix (D, D) to above it, in tiles."""
    for start in range(0, len(total), COLUMNS):
        columns, rest = slice(start, start + COLUMNS), slice(start + COLUMNS, None)
        total[columns, rest] = total[rest, columns].t()

"""Hidden states to tokens: the class token, the average of the patch tokens (AP), a grid of averages, or every token.

Shapes: B images, N = prefix + P tokens of a hidden state (P = h x w patches, row by row), D width, T stored tokens.
Prefix tokens are the class token, if there is one, then registers or a distillation token; these latter are in no result.
Everything is pooled in float32, whatever the forward's precision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.errors import BackboneError, OptionError, UnknownNameError

KINDS = ("cls", "ap", "grid:K", "all")


def class_token(hidden_bnd: Tensor) -> Tensor:
    """(B, N, D) -> float32 (B, D): token 0."""
    return hidden_bnd[:, 0].float()


def average_patch(hidden_bnd: Tensor, prefix: int) -> Tensor:
    """(B, N, D) -> float32 (B, D): the mean of the patch tokens alone."""
    return hidden_bnd[:, prefix:].mean(1, dtype=torch.float32)


def grid_patches(hidden_bnd: Tensor, prefix: int, *, grid: tuple[int, int], k: int) -> Tensor:
    """(B, N, D) -> float32 (B, K*K, D): patch tokens averaged to K x K cells, row by row.

    Cell i of a side of h patches covers patches floor(i h / K) to ceil((i + 1) h / K): adaptive average pooling, so that K need not divide h.
    """
    b, _, d = hidden_bnd.shape
    patches = hidden_bnd[:, prefix:].float().transpose(1, 2).reshape(b, d, *grid)
    return F.adaptive_avg_pool2d(patches, k).flatten(2).transpose(1, 2)


def patches(hidden_bnd: Tensor, prefix: int) -> Tensor:
    """(B, N, D) -> float32 (B, P, D)."""
    return hidden_bnd[:, prefix:].float()


@dataclass(frozen=True, kw_only=True)
class TokenPlan:
    """Which tokens of a hidden state are kept, for one geometry."""

    kinds: tuple[str, ...]
    """Out of "cls", "ap", "grid:K" and "all", as asked for, in order."""
    class_token: bool
    """Token 0 is a class token."""
    prefix: int
    """Tokens before the first patch token."""
    grid: tuple[int, int]
    """(h, w): P = h * w patch tokens."""

    def __post_init__(self) -> None:
        for kind in self.kinds:
            match = re.fullmatch(r"grid:(\d+)", kind)
            if kind not in ("cls", "ap", "all") and not match:
                raise UnknownNameError("token kind", kind, KINDS)
            if match and not 1 <= int(match[1]) <= min(self.grid):
                raise OptionError(
                    f"tokens {kind!r}: this model has {self.grid[0]} x {self.grid[1]} patches, so K must be 1 to {min(self.grid)}"
                )
        if "cls" in self.kinds and not self.class_token:
            raise BackboneError(
                f"tokens 'cls': this model has no class token ({self._geometry()}): pass --tokens ap"
            )
        if not self.kinds or len(set(self.names)) != len(self.names):
            raise OptionError(
                f"tokens {'+'.join(self.kinds)!r}: name at least one kind, and each token once (all holds cls)"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The T stored names: "cls", "ap", "grid:K/0".., "patch/0".. ."""
        out: list[str] = []
        for kind in self.kinds:
            if kind == "all":
                out += (["cls"] if self.class_token else []) + [
                    f"patch/{i}" for i in range(self.grid[0] * self.grid[1])
                ]
            elif kind.startswith("grid:"):
                out += [f"{kind}/{i}" for i in range(int(kind[5:]) ** 2)]
            else:
                out.append(kind)
        return tuple(out)

    def pool(self, hidden_bnd: Tensor) -> Tensor:
        """(B, N, D) -> float32 (T, B, D), in the order of `names`. Raises BackboneError if N is not prefix + P."""
        expected = self.prefix + self.grid[0] * self.grid[1]
        if hidden_bnd.ndim != 3 or hidden_bnd.shape[1] != expected:
            raise BackboneError(
                f"a tap gave a tensor of shape {tuple(hidden_bnd.shape)}, expected (images, {expected}, width): {self._geometry()}; "
                "its class token does not run through every block, or it is no plain ViT: choose another model"
            )
        return torch.cat([self._read(kind, hidden_bnd) for kind in self.kinds])

    def _read(self, kind: str, hidden_bnd: Tensor) -> Tensor:
        if kind == "cls":
            return class_token(hidden_bnd)[None]
        if kind == "ap":
            return average_patch(hidden_bnd, self.prefix)[None]
        if kind.startswith("grid:"):
            return grid_patches(hidden_bnd, self.prefix, grid=self.grid, k=int(kind[5:])).transpose(
                0, 1
            )
        every = [class_token(hidden_bnd)[:, None]] if self.class_token else []
        return torch.cat([*every, patches(hidden_bnd, self.prefix)], 1).transpose(0, 1)

    def _geometry(self) -> str:
        return f"{self.prefix} prefix tokens and {self.grid[0]} x {self.grid[1]} patches"


def parse_kinds(tokens: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds in "cls+ap", "cls,ap" or ("cls", "ap")."""
    words = re.split(r"[+,]", tokens) if isinstance(tokens, str) else list(tokens)
    return tuple(word.strip() for word in words)

"""Hidden states to tokens: the class token, the average patch (AP), a grid of averages, or all.

Shapes: B images, N = prefix + P tokens of a hidden state (P = h x w patches, row by row), D width,
T stored tokens. Prefix tokens are the class token, if there is one, then registers or a
distillation token, which are never stored. Pooling is in float32, whatever the forward's precision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.errors import BackboneError, OptionError, UnknownNameError

TOKEN_KINDS = ("cls", "ap", "grid:K", "all")
"""Forms of a token kind, for errors."""


def class_token(hidden_bnd: Tensor) -> Tensor:
    """Return token 0: (B, N, D) -> float32 (B, D)."""
    return hidden_bnd[:, 0].float()


def average_patch(hidden_bnd: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return the mean of the patch tokens: (B, N, D) -> float32 (B, D)."""
    return hidden_bnd[:, num_prefix_tokens:].mean(1, dtype=torch.float32)


def grid_patches(
    hidden_bnd: Tensor, num_prefix_tokens: int, *, grid_size: tuple[int, int], k: int
) -> Tensor:
    """Average the patch tokens to K x K cells, row by row: (B, N, D) -> float32 (B, K*K, D).

    Cell i of a side of h patches covers patches floor(i h / K) to ceil((i + 1) h / K): adaptive
    average pooling, so K need not divide h.
    """
    b, _, d = hidden_bnd.shape
    patches = hidden_bnd[:, num_prefix_tokens:].float().transpose(1, 2).reshape(b, d, *grid_size)
    return F.adaptive_avg_pool2d(patches, k).flatten(2).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class TokenPooling:
    """The tokens to keep of a hidden state, for one model's geometry.

    Raises:
        UnknownNameError: A kind is unknown.
        OptionError: A grid is finer than the patches, or a token is named twice.
        BackboneError: The class token is requested of a model that has none.
    """

    kinds: tuple[str, ...]
    """Kinds out of "cls", "ap", "grid:K" and "all", in order."""
    has_class_token: bool
    """True if token 0 is a class token."""
    num_prefix_tokens: int
    """Number of tokens before the first patch token."""
    grid_size: tuple[int, int]
    """(h, w) patches: P = h * w."""

    def __post_init__(self) -> None:
        for kind in self.kinds:
            grid = re.fullmatch(r"grid:(\d+)", kind)
            if kind not in ("cls", "ap", "all") and not grid:
                raise UnknownNameError("token kind", kind, TOKEN_KINDS)
            if grid and not 1 <= int(grid[1]) <= min(self.grid_size):
                raise OptionError(
                    f"tokens {kind!r}: this model has {self.grid_size[0]} x {self.grid_size[1]} "
                    f"patches, so K must be 1 to {min(self.grid_size)}"
                )
        if "cls" in self.kinds and not self.has_class_token:
            raise BackboneError(
                f"tokens 'cls': this model has no class token ({self._geometry()}): use tokens 'ap'"
            )
        if not self.kinds or len(set(self.names)) != len(self.names):
            raise OptionError(
                f"tokens {'+'.join(self.kinds)!r}: expected at least one kind, "
                "and each token once ('all' includes 'cls')"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The T stored names: "cls", "ap", "grid:K/0".., "patch/0".. ."""
        names: list[str] = []
        for kind in self.kinds:
            if kind == "all":
                num_patches = self.grid_size[0] * self.grid_size[1]
                names += ["cls"] if self.has_class_token else []
                names += [f"patch/{i}" for i in range(num_patches)]
            elif kind.startswith("grid:"):
                names += [f"{kind}/{i}" for i in range(int(kind[5:]) ** 2)]
            else:
                names.append(kind)
        return tuple(names)

    def pool(self, hidden_bnd: Tensor) -> Tensor:
        """Return the tokens in the order of `names`: (B, N, D) -> float32 (T, B, D).

        Raises:
            BackboneError: N is not prefix + P.
        """
        expected = self.num_prefix_tokens + self.grid_size[0] * self.grid_size[1]
        if hidden_bnd.ndim != 3 or hidden_bnd.shape[1] != expected:
            raise BackboneError(
                f"expected a hidden state of shape (images, {expected}, width), "
                f"got {tuple(hidden_bnd.shape)}: {self._geometry()}; its class token does not run "
                "through every block, or it is no plain ViT: choose another model"
            )
        return torch.cat([self._pool_kind(kind, hidden_bnd) for kind in self.kinds])

    def _pool_kind(self, kind: str, hidden_bnd: Tensor) -> Tensor:
        prefix = self.num_prefix_tokens
        if kind == "cls":
            return class_token(hidden_bnd)[None]
        if kind == "ap":
            return average_patch(hidden_bnd, prefix)[None]
        if kind.startswith("grid:"):
            cells = grid_patches(hidden_bnd, prefix, grid_size=self.grid_size, k=int(kind[5:]))
            return cells.transpose(0, 1)
        tokens = [class_token(hidden_bnd)[:, None]] if self.has_class_token else []
        tokens.append(hidden_bnd[:, prefix:].float())
        return torch.cat(tokens, 1).transpose(0, 1)

    def _geometry(self) -> str:
        height, width = self.grid_size
        return f"{self.num_prefix_tokens} prefix tokens and {height} x {width} patches"


def parse_kinds(tokens: str | Sequence[str]) -> tuple[str, ...]:
    """Return the kinds in "cls+ap", "cls,ap" or ("cls", "ap")."""
    words = re.split(r"[+,]", tokens) if isinstance(tokens, str) else list(tokens)
    return tuple(word.strip() for word in words)

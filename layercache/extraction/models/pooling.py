"""Hidden states to tokens: the class token, the average patch (AP), other statistics, or all.

Shapes: B images, N = prefix + P tokens of a hidden state (P = h x w patches, row by row), D width,
T stored tokens. Prefix tokens are the class token, if there is one, then registers or a
distillation token, of which only the registers' mean can be stored. Pooling is in float32, whatever
the forward's precision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.cache.format.cache_spec import POOLED_KINDS
from layercache.errors import BackboneError, OptionError, UnknownNameError

TOKEN_KINDS = (*POOLED_KINDS, "grid:K", "patch", "all")
"""Forms of a token kind, for errors."""


def class_token(hidden_bnd: Tensor, index: int = 0) -> Tensor:
    """Return the class token: (B, N, D) -> float32 (B, D)."""
    return hidden_bnd[:, index].float()


def average_patch(hidden_bnd: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return the mean of the patch tokens: (B, N, D) -> float32 (B, D)."""
    return hidden_bnd[:, num_prefix_tokens:].mean(1, dtype=torch.float32)


def register_mean(hidden_bnd: Tensor, num_prefix_tokens: int, num_registers: int) -> Tensor:
    """Return the mean of the registers, the last prefix tokens: (B, N, D) -> float32 (B, D)."""
    first = num_prefix_tokens - num_registers
    return hidden_bnd[:, first:num_prefix_tokens].mean(1, dtype=torch.float32)


def patch_std(hidden_bnd: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return each channel's standard deviation over the P patches: (B, N, D) -> float32 (B, D).

    It divides by P, so that it is defined for one patch.
    """
    patches = hidden_bnd[:, num_prefix_tokens:].float()
    # two passes along the channels: torch.std over this dimension is several times slower on a CPU
    centred = patches - patches.mean(1, keepdim=True)
    return centred.square_().mean(1).sqrt_()


def patch_max(hidden_bnd: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return each channel's maximum over the patch tokens: (B, N, D) -> float32 (B, D)."""
    return hidden_bnd[:, num_prefix_tokens:].amax(1).float()


def attention_average(hidden_bnd: Tensor, num_prefix_tokens: int, attention_bp: Tensor) -> Tensor:
    """Average the patch tokens by the class token's attention: (B, N, D) -> float32 (B, D).

    Args:
        hidden_bnd: Hidden state.
        num_prefix_tokens: Number of tokens before the first patch.
        attention_bp: Weights of the patches, float32 (B, P), which add up to one.
    """
    patches = hidden_bnd[:, num_prefix_tokens:].float()
    return (attention_bp[:, None] @ patches)[:, 0]


def grid_patches(
    hidden_bnd: Tensor, num_prefix_tokens: int, *, grid_size: tuple[int, int], k: int
) -> Tensor:
    """Average the patch tokens to K x K cells, row by row: (B, N, D) -> float32 (B, K*K, D).

    Cell i of a side of h patches covers patches floor(i h / K) to ceil((i + 1) h / K): adaptive
    average pooling, so K need not divide h.
    """
    b, _, d = hidden_bnd.shape
    patches = hidden_bnd[:, num_prefix_tokens:].float().transpose(1, 2).reshape(b, d, *grid_size)
    # on Apple GPUs torch pools only where K divides the sides
    pooled = F.adaptive_avg_pool2d(patches.cpu() if patches.device.type == "mps" else patches, k)
    return pooled.to(patches.device).flatten(2).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class TokenPooling:
    """The tokens to keep of a hidden state, for one model's geometry.

    Raises:
        UnknownNameError: A kind is unknown.
        OptionError: A grid is finer than the patches, or a token is named twice.
        BackboneError: The class token or registers are requested of a model that has none.
    """

    kinds: tuple[str, ...]
    """Kinds out of TOKEN_KINDS, in order."""
    class_token: int | None
    """Index of the class token, or None if there is none."""
    num_prefix_tokens: int
    """Number of tokens before the first patch token."""
    grid_size: tuple[int, int]
    """(h, w) patches: P = h * w."""
    num_registers: int = 0
    """Number of registers, the last of the prefix tokens."""

    def __post_init__(self) -> None:
        for kind in self.kinds:
            grid = re.fullmatch(r"grid:(\d+)", kind)
            if kind not in (*POOLED_KINDS, "patch", "all") and not grid:
                raise UnknownNameError("token kind", kind, TOKEN_KINDS)
            if grid and not 1 <= int(grid[1]) <= min(self.grid_size):
                raise OptionError(
                    f"tokens {kind!r}: this model has {self.grid_size[0]} x {self.grid_size[1]} "
                    f"patches, so K must be 1 to {min(self.grid_size)}"
                )
        for kind in ("cls", "attn"):
            if kind in self.kinds and self.class_token is None:
                raise BackboneError(
                    f"tokens {kind!r}: this model has no class token ({self._geometry()}): use "
                    "tokens 'ap'"
                )
        if "reg" in self.kinds and not self.num_registers:
            raise BackboneError(
                f"tokens 'reg': this model has no registers ({self._geometry()}): leave 'reg' out"
            )
        if not self.kinds or len(set(self.names)) != len(self.names):
            raise OptionError(
                f"tokens {'+'.join(self.kinds)!r}: expected at least one kind, "
                "and each token once ('all' includes 'cls' and 'patch')"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The T stored names: "cls", "ap", "reg" .., "grid:K/0".., "patch/0".. ."""
        names: list[str] = []
        for kind in self.kinds:
            if kind in ("patch", "all"):
                num_patches = self.grid_size[0] * self.grid_size[1]
                names += [] if kind == "patch" or self.class_token is None else ["cls"]
                names += [f"patch/{i}" for i in range(num_patches)]
            elif kind.startswith("grid:"):
                names += [f"{kind}/{i}" for i in range(int(kind[5:]) ** 2)]
            else:
                names.append(kind)
        return tuple(names)

    def pool(self, hidden_bnd: Tensor, attention_bp: Tensor | None = None) -> Tensor:
        """Return the tokens in the order of `names`: (B, N, D) -> float32 (T, B, D).

        Args:
            hidden_bnd: Hidden state.
            attention_bp: Weights of the patches for the kind "attn", float32 (B, P).

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
        return torch.cat([self._pool_kind(kind, hidden_bnd, attention_bp) for kind in self.kinds])

    def _pool_kind(self, kind: str, hidden_bnd: Tensor, attention_bp: Tensor | None) -> Tensor:
        prefix = self.num_prefix_tokens
        if kind == "cls":
            assert self.class_token is not None
            return class_token(hidden_bnd, self.class_token)[None]
        if kind == "ap":
            return average_patch(hidden_bnd, prefix)[None]
        if kind == "reg":
            return register_mean(hidden_bnd, prefix, self.num_registers)[None]
        if kind == "std":
            return patch_std(hidden_bnd, prefix)[None]
        if kind == "max":
            return patch_max(hidden_bnd, prefix)[None]
        if kind == "attn":
            assert attention_bp is not None
            return attention_average(hidden_bnd, prefix, attention_bp)[None]
        if kind.startswith("grid:"):
            cells = grid_patches(hidden_bnd, prefix, grid_size=self.grid_size, k=int(kind[5:]))
            return cells.transpose(0, 1)
        tokens = [hidden_bnd[:, prefix:].float()]
        if kind == "all" and self.class_token is not None:
            tokens.insert(0, class_token(hidden_bnd, self.class_token)[:, None])
        return torch.cat(tokens, 1).transpose(0, 1)

    def _geometry(self) -> str:
        height, width = self.grid_size
        return f"{self.num_prefix_tokens} prefix tokens and {height} x {width} patches"


def parse_kinds(tokens: str | Sequence[str]) -> tuple[str, ...]:
    """Return the kinds in "cls+ap", "cls,ap" or ("cls", "ap")."""
    words = re.split(r"[+,]", tokens) if isinstance(tokens, str) else list(tokens)
    return tuple(word.strip() for word in words)


def parse_spatial_kinds(tokens: str) -> tuple[str, ...]:
    """Return the kinds of spatial tokens in "patch", "all" (with CLS) or "grid:4+grid:2".

    Raises:
        OptionError: A kind is one token of a layer.
    """
    kinds = parse_kinds(tokens)
    for kind in kinds:
        if kind not in ("patch", "all") and not kind.startswith("grid:"):
            raise OptionError(
                f"spatial: expected patch, all or grid:K, got {kind!r}: name other tokens in tokens"
            )
    return kinds


def check_storable(store: str, kinds: Sequence[str]) -> None:
    """Check that a codec can store these kinds of spatial tokens.

    Raises:
        OptionError: CLS is among them: the tables of a codec are fitted on all tokens of a layer
            together, which are patches but for one.
    """
    if "all" in kinds:
        raise OptionError(
            f"store {store!r} is for patch and grid:K, and spatial 'all' has CLS, too: leave store "
            "out, or take spatial 'patch'"
        )

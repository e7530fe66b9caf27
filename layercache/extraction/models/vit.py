"""Description of a loaded ViT, the same for every library that it may come from.

A source (`layercache.extraction.models.sources`) fills this in; taps, pooling and the backbone read
nothing else of the module.

Shapes: B images of H x W pixels, N = prefix + P tokens of a hidden state (P = h x w patches, row by
row), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from layercache.cache.format.cache_spec import Tap
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.models.registry import EvalTransform, ModelInfo


class ClassAttention(Protocol):
    """Hooks on one attention module that keep the class token's attention of every forward."""

    weights_bp: Tensor | None
    """Attention to the patches in the last forward, float32 (B, P): the mean over attention heads,
    divided by its sum, as prefix tokens have their share as well."""

    def clear(self) -> None:
        """Free the last forward's weights."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A module at whose output a hidden state is read."""

    module: nn.Module
    """Module whose output it is."""
    width: int
    """D there."""
    is_input: bool = False
    """The hidden state is the module's first input instead."""
    index: int | None = None
    """Index of the hidden state in the tuple that the module returns; None if it returns it
    alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """One transformer block."""

    output: Place
    """The residual stream after the block."""
    places: Mapping[str, Place]
    """Places inside it by their tap: "norm1", "attn", "norm2", "fc1", "act", "mlp"; those that it
    has."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why it lacks a place, for errors; without one, a general text is used."""
    class_attention: Callable[[int], ClassAttention] | None = None
    """Registers the hooks that keep the class token's attention, given the number of prefix
    tokens; None if its weights cannot be computed."""

    @property
    def kind(self) -> str:
        """Class of the block's module, for errors."""
        return type(self.output.module).__name__


@dataclass(frozen=True, kw_only=True)
class ViT:
    """A ViT's module, and where its parts are."""

    module: nn.Module
    """The module; its head may be missing."""
    forward: Callable[[Tensor], object]
    """Runs every block, given normalised images (B, 3, H, W); its result is ignored."""
    architecture: str
    """Name of the architecture, part of a cache's identity: with all options that are in no tensor,
    such as an activation."""
    blocks: tuple[Block, ...]
    """The B blocks."""
    blocks_path: str
    """Dotted path of the module's list of blocks (nn.ModuleList or nn.Sequential)."""
    is_own: bool = False
    """True for a module of the user's own. Its forward may need the list of blocks at its length:
    blocks after the last tap are replaced by ones that do nothing, else removed. And it is tried
    once on the device, in the precision of the extraction."""
    width: int
    """D of the residual stream."""
    final_norm: nn.Module | None
    """Norm after the last block, if there is one."""
    norm_in_forward: bool
    """True if `forward` itself applies the final norm to every token of the last block's output."""
    num_prefix_tokens: int
    """Number of tokens before the first patch."""
    class_token: int | None
    """Index of the class token, or None if there is none."""
    num_registers: int = 0
    """Number of registers, the last of the prefix tokens."""
    grid_size: tuple[int, int]
    """(h, w) patches at the input size."""
    batch_first: bool = True
    """Hidden states are (B, N, D); False: (N, B, D)."""

    @property
    def kind(self) -> str:
        """Architecture without its options, for errors."""
        return self.architecture.partition("(")[0]

    def info(
        self,
        *,
        name: str,
        params_m: float,
        input_size: int,
        patch_size: int,
        note: str,
        transform: EvalTransform | None,
    ) -> ModelInfo:
        """Return its figures; for the arguments see ModelInfo."""
        return ModelInfo(
            name=name,
            architecture=self.architecture,
            params_m=params_m,
            width=self.width,
            depth=len(self.blocks),
            input_size=input_size,
            patch_size=patch_size,
            note=note,
            transform=transform,
            class_token=self.class_token is not None,
            class_attention=all(block.class_attention is not None for block in self.blocks),
            registers=self.num_registers > 0,
        )


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A frozen ViT with its weights."""

    vit: ViT
    """Float32, evaluation mode, no gradients."""
    projection: nn.Linear | None = None
    """CLIP's map into the joint space, if requested."""
    weights_digest: str
    """SHA-256, hex, of the checkpoint's own weights (before positions are resampled).

    The projection is included only if it is used.
    """
    preprocessing: Preprocessing
    """The weights' own preprocessing, with the requested options."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, e.g. that positions were resampled."""


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """Model to load; see `load_encoder`."""

    weights: str | Path | None = None
    """A checkpoint file; by default the bundled one, that of the address, or a download."""
    projected: bool = False
    """Also load CLIP's projection into the joint space."""
    paper_compat: bool = False
    """Use the paper's preprocessing for DINOv2 and MAE."""
    preprocessing: Preprocessing | PreprocessingOptions | None = None
    """Options that replace parts of the weights' own preprocessing, or one to use instead."""
    tap: Tap = "norm2"
    """Tap that will be read."""
    offline: bool = False
    """Forbid downloads, as $LAYERCACHE_OFFLINE does."""


Check = Callable[[ViT], object]
"""Called with the bare architecture; may raise before weights are read or downloaded."""

"""`Encoder`: a ViT of the user's own, described by the names of its parts.

This file imports no torch, so that the options of an extraction can hold an Encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from layercache.errors import OptionError
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.registry import MODELS

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURE_PREFIX = "Encoder:"
"""Beginning of the architecture of every Encoder."""
INNER_PLACES = ("norm1", "attn", "norm2", "fc1", "act", "mlp")
"""Fields that name a place in a block, which are also taps."""
_PLACE = re.compile(r"([A-Za-z_][\w.]*?)(?:\[(\d+)\])?")


@dataclass(frozen=True, eq=False)
class Encoder:
    """A ViT of your own, for `extract(models=[...])`.

        encoder = layercache.Encoder(
            module,
            name="my_vit",
            blocks="encoder.layers",
            final_norm="encoder.ln",
            norm2="ln_2",
            preprocessing=layercache.PreprocessingOptions(
                input_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
            ),
        )

    Parts are named by their dotted paths. A part that returns a tuple is named with the index of
    the hidden state: "self_attention[0]". Hidden states are (images, tokens, width): the prefix
    tokens, then one token per square patch, row by row. One forward of two images checks this
    before anything is extracted.

    The module is copied when it is loaded, and stays as it is.

    Raises:
        OptionError: A value is out of range.
    """

    module: nn.Module
    """The module, with its weights. `module(images)` runs all blocks; its result is not used."""
    name: str
    """Name of its caches. A FILE.py:FUNCTION on the command line is called by this address
    instead."""
    blocks: str
    """List of the blocks in the module: an nn.ModuleList or nn.Sequential."""
    preprocessing: PreprocessingOptions
    """How images are preprocessed: `input_size`, `mean` and `std` are needed. By default nothing is
    cropped off a square image (`crop_pct` 1, `crop_mode` "center"), `interpolation` is
    "bicubic"."""
    final_norm: str | None = None
    """Norm after the last block, for the taps "norm2" and "block-norm"."""
    prefix_tokens: int = 1
    """Number of tokens before the first patch: class token and registers."""
    class_token: int | None = 0
    """Index of the class token among them; None if there is none."""
    registers: int = 0
    """Number of registers, the last of the prefix tokens."""
    norm1: str | None = None
    """Path in a block: the norm whose output the attention reads."""
    attn: str | None = None
    """Path in a block: the attention, before the residual connection."""
    norm2: str | None = None
    """Path in a block: the norm whose output the MLP reads."""
    fc1: str | None = None
    """Path in a block: the MLP's first linear layer."""
    act: str | None = None
    """Path in a block: the module whose output is the MLP's inner activation."""
    mlp: str | None = None
    """Path in a block: the MLP, before the residual connection."""
    block_output: int | None = None
    """Index of the hidden state in the tuple that a block returns; None if it returns it alone."""
    batch_first: bool = True
    """False for hidden states (tokens, images, width)."""
    forward: str = "forward"
    """Method of the module to call with the images."""

    def __post_init__(self) -> None:
        if not isinstance(self.preprocessing, PreprocessingOptions):
            raise OptionError(
                "Encoder: preprocessing: expected layercache.PreprocessingOptions, got "
                f"{type(self.preprocessing).__name__}"
            )
        given = self.preprocessing.given()
        if missing := [key for key in ("input_size", "mean", "std") if key not in given]:
            raise OptionError(f"Encoder: preprocessing: expected also {', '.join(missing)}")
        if not self.name or ":" in self.name or self.name in MODELS:
            raise OptionError(
                "Encoder: name: expected a text without ':' that is no short name of `layercache "
                f"models`, got {self.name!r}"
            )
        for field in ("prefix_tokens", "registers"):
            if getattr(self, field) < 0:
                raise OptionError(
                    f"Encoder: {field}: expected at least 0, got {getattr(self, field)}"
                )
        self._check_prefix()
        for field in INNER_PLACES:
            if getattr(self, field) is not None:
                parse_place(getattr(self, field), field=field)

    def _check_prefix(self) -> None:
        before_registers = self.prefix_tokens - self.registers
        if before_registers < 0:
            raise OptionError(
                f"Encoder: registers: {self.registers} of {self.prefix_tokens} prefix tokens"
            )
        if self.class_token is not None and not 0 <= self.class_token < before_registers:
            raise OptionError(
                "Encoder: class_token: expected an index among the prefix tokens before the "
                f"registers, 0 to {before_registers - 1}, or None, got {self.class_token}"
                if before_registers
                else f"Encoder: class_token: expected None, as there are {self.prefix_tokens} "
                f"prefix tokens and {self.registers} registers, got {self.class_token}"
            )

    def architecture(self, tap: str) -> str:
        """Return the module's class and all options that tokens depend on, for their identity.

        Args:
            tap: Tap that is read: further places do not change its tokens.
        """
        left_out = {"module", "name", "preprocessing", *INNER_PLACES} - {tap}
        options = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        given = [
            f"{key}={value!r}"
            for key, (value, default) in options.items()
            if key not in left_out and value != default
        ]
        return f"{ARCHITECTURE_PREFIX}{type(self.module).__qualname__}({', '.join(given)})"


def parse_place(place: str, *, field: str) -> tuple[str, int | None]:
    """Return the dotted path and the index in "PATH" or "PATH[INDEX]".

    Raises:
        OptionError: It is neither.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        raise OptionError(
            f"Encoder: {field}: expected a dotted path in a block, as 'mlp.fc1', or with an index, "
            f"as 'attn[0]', got {place!r}"
        )
    return match[1], None if match[2] is None else int(match[2])

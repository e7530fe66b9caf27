"""What a head is, apart from its numbers."""

from __future__ import annotations

from dataclasses import dataclass

from layercache.errors import OptionError, UnknownNameError

KINDS = ("linear", "attentive", "attentive-tokens", "hybrid")
ALL_TOKEN_HEADS = 8
"""Attention heads of `attentive-tokens` (the paper's all-token baseline)."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """A head's kind and shape; with a state dict it is a trained head."""

    kind: str
    """"linear", "attentive", "attentive-tokens" or "hybrid"."""
    tokens: int
    """S, tokens per image."""
    width: int
    """D, length of one token."""
    classes: int
    """C."""
    attention_heads: int | None = None
    """H; None takes the paper's: S for "attentive" and "hybrid", 8 for "attentive-tokens"."""
    multi_label: bool = False
    """Targets are 0/1 per class (binary cross-entropy) instead of one class number."""
    groups: tuple[int, ...] | None = None
    """Only "hybrid": the embedding group (one per layer and kind of token) of each of the S tokens, numbered from 0; None learns no embedding."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("head", self.kind, KINDS)
        for name in ("tokens", "width", "classes"):
            if getattr(self, name) < 1:
                raise OptionError(f"a head's {name} is at least 1, came {getattr(self, name)}")
        if self.classes < 2 and not self.multi_label:
            raise OptionError(
                f"a single-label head tells at least 2 classes apart, came {self.classes}"
            )
        if self.kind == "linear":
            if self.attention_heads is not None:
                raise OptionError(
                    "the linear head has no attention heads: leave attention_heads out"
                )
        elif not 1 <= self.heads <= self.width:
            raise OptionError(
                f"attention heads lie between 1 and the width {self.width}, came {self.heads}: set --heads"
            )
        if self.groups is not None:
            if self.kind != "hybrid":
                raise OptionError(
                    f"only the hybrid head learns embeddings, this is {self.kind!r}: leave groups out"
                )
            if len(self.groups) != self.tokens or sorted(set(self.groups)) != list(
                range(max(self.groups) + 1)
            ):
                raise OptionError(
                    f"groups names a group numbered from 0 without gaps for each of the {self.tokens} tokens, came {self.groups}"
                )

    @property
    def heads(self) -> int:
        """H, the attention heads in use; 0 for the linear head."""
        if self.kind == "linear":
            return 0
        return self.attention_heads or (
            ALL_TOKEN_HEADS if self.kind == "attentive-tokens" else self.tokens
        )

    @property
    def head_width(self) -> int:
        """The length d = 2 floor(D / H) of one attention head, twice the usual; 0 for the linear head."""
        return 2 * (self.width // self.heads) if self.heads else 0

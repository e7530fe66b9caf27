"""Kind and shape of a head."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from layercache.errors import OptionError, UnknownNameError

CLASSIFICATION, MULTI_LABEL, REGRESSION = "classification", "multi-label", "regression"
TASKS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)
"""Output of a head: one class, 0/1 for each class, or floats."""
KINDS = ("linear", "attentive", "attentive-tokens", "hybrid")
ALL_TOKEN_HEADS = 8
"""Attention heads of `attentive-tokens`, the paper's all-token baseline."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Kind and shape of a head; together with a state dict, a trained head."""

    kind: str
    """"linear", "attentive", "attentive-tokens" or "hybrid"."""
    tokens: int
    """S, tokens per image."""
    width: int
    """D, length of one token."""
    classes: int
    """C, classes; columns of a regression's targets."""
    num_heads: int = 0
    """H, attention heads. 0 is replaced by the paper's number: S for "attentive" and "hybrid", 8
    for "attentive-tokens"; it stays 0 for "linear", which has none."""
    multi_label: bool = False
    """Targets are 0/1 per class (binary cross-entropy) instead of one class index."""
    embedding_ids: tuple[int, ...] | None = None
    """Only "hybrid": index of the learned embedding of each of the S tokens, counted from 0 (tokens
    of the same layer and kind share one); None learns no embedding."""
    regression: bool = False
    """Targets are floats (mean squared error) instead of classes."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("head", self.kind, KINDS)
        for name in ("tokens", "width", "classes"):
            if getattr(self, name) < 1:
                raise OptionError(
                    f"expected a head's {name} to be at least 1, got {getattr(self, name)}"
                )
        if self.regression and self.multi_label:
            raise OptionError("expected a multi-label head or one for regression, got both")
        if self.classes < 2 and self.task == CLASSIFICATION:
            raise OptionError(
                f"expected at least 2 classes for a single-label head, got {self.classes}"
            )
        if self.kind == "linear":
            if self.num_heads:
                raise OptionError(
                    f"the linear head has no attention heads, got num_heads={self.num_heads}: "
                    "leave it out"
                )
        else:
            self._resolve_num_heads()
        if self.embedding_ids is not None:
            self._check_embedding_ids(self.embedding_ids)

    def _resolve_num_heads(self) -> None:
        default = ALL_TOKEN_HEADS if self.kind == "attentive-tokens" else self.tokens
        num_heads = self.num_heads or default
        if not 1 <= num_heads <= self.width:
            raise OptionError(
                f"expected a number of attention heads between 1 and the width {self.width}, got "
                f"{num_heads}: set num_heads (--heads)"
            )
        object.__setattr__(self, "num_heads", num_heads)

    def _check_embedding_ids(self, ids: tuple[int, ...]) -> None:
        if self.kind != "hybrid":
            raise OptionError(
                f"only the hybrid head learns embeddings, got embedding_ids for {self.kind!r}: "
                "leave them out"
            )
        if len(ids) != self.tokens or sorted(set(ids)) != list(range(len(set(ids)))):
            raise OptionError(
                "expected embedding_ids to hold one index for each of the "
                f"{self.tokens} tokens, counted from 0 without gaps, got {ids}"
            )

    @property
    def task(self) -> str:
        """One of TASKS."""
        if self.regression:
            return REGRESSION
        return MULTI_LABEL if self.multi_label else CLASSIFICATION

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON; `regression` only if it is true."""
        # absent, so that heads for classes keep the ids that they had before there were others
        return {
            name: value
            for name, value in asdict(self).items()
            if not (name == "regression" and not value)
        }

    @property
    def head_width(self) -> int:
        """Length d = 2 floor(D / H) of one attention head, twice the usual; 0 if linear."""
        return 2 * (self.width // self.num_heads) if self.num_heads else 0

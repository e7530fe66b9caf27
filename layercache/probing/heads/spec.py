"""Kind and shape of a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from layercache.errors import OptionError, UnknownNameError

CLASSIFICATION, MULTI_LABEL, REGRESSION = "classification", "multi-label", "regression"
TASKS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)
"""Output of a head: one class, 0/1 for each class, or floats."""
KINDS = ("linear", "scalar-mix", "attentive", "attentive-tokens", "hybrid", "efficient", "fusion")
"""Heads that are trained in batches, by gradient descent."""
BASELINES = ("knn", "logreg", "ridge", "lda")
"""Heads that are fitted to all training samples at once."""
HEADS = (*KINDS, *BASELINES)
ALL_TOKEN_HEADS = 8
"""Attention heads of `attentive-tokens`, the paper's all-token baseline."""
EFFICIENT_QUERIES = 32
"""Queries of `efficient`, the default of arXiv 2506.10178; fewer if the width is smaller."""
SPATIAL_HEADS = ("hybrid", "fusion")
"""Heads over pooled and spatial tokens."""
GATES = ("scalar", "class", "sample")
"""Gates of "fusion": one weight, one for each class, or one for each image."""
LAYERS, SPATIAL = "layers", "spatial"
"""Branches of "fusion": over pooled tokens of the layers, and over spatial tokens."""
WITHOUT_DROPOUT = ("linear", "scalar-mix")
"""Heads without attention weights that could be dropped in training."""
ADDED: dict[str, Any] = {
    "regression": False,
    "mix_ids": None,
    "spatial_tokens": 0,
    "gate": "",
    "branch": "",
    "encoder_tokens": None,
    "encoder_widths": None,
    "layer_ids": None,
    "kind_ids": None,
}
"""Fields that the first probes did not have, with the value that they stand for."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Kind and shape of a head; together with a state dict, a trained head."""

    kind: str
    """One of KINDS."""
    tokens: int
    """S, tokens per image."""
    width: int
    """D, length of one token."""
    classes: int
    """C, classes; columns of a regression's targets."""
    num_heads: int = 0
    """H, attention heads; of "fusion" those over pooled tokens, besides 8 over spatial ones. 0 is
    replaced by the paper's number: S for "attentive" and "hybrid", the number of pooled tokens for
    "fusion", 8 for "attentive-tokens", 32 for "efficient", whose heads are its queries; it stays 0
    for "linear" and "scalar-mix", which have none."""
    multi_label: bool = False
    """Targets are 0/1 per class (binary cross-entropy) instead of one class index."""
    embedding_ids: tuple[int, ...] | None = None
    """Only "hybrid" and "fusion": index of the learned embedding of each of the S tokens, of
    "fusion" each spatial token, counted from 0 (tokens of the same layer and kind share one); None
    learns no embedding."""
    regression: bool = False
    """Targets are floats (mean squared error) instead of classes."""
    mix_ids: tuple[int, ...] | None = None
    """Only "scalar-mix": index of the weighted mean that each of the S tokens belongs to, counted
    from 0 (tokens of the same kind in different layers are mixed); None mixes all tokens."""
    spatial_tokens: int = 0
    """Q, only "fusion": the last Q of the S tokens are spatial ones."""
    gate: str = ""
    """Only "fusion": one of GATES."""
    branch: str = ""
    """Only "fusion": LAYERS or SPATIAL if the head consists of this branch alone, without effect of
    the other tokens and of the gate; "" for both branches."""
    encoder_tokens: tuple[int, ...] | None = None
    """Only "attentive": tokens of each of several encoders that are mapped to width D; None: all
    tokens have width D."""
    encoder_widths: tuple[int, ...] | None = None
    """Width of the tokens of each encoder."""
    layer_ids: tuple[int, ...] | None = None
    """Index of the layer of each of the S tokens, ascending with depth, for training that leaves
    out layers or prefers the last one; None where it does neither."""
    kind_ids: tuple[int, ...] | None = None
    """Index of the kind of each of the S tokens, likewise."""

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
        if self.kind == "fusion":
            self._check_fusion()
        elif self.spatial_tokens or self.gate or self.branch:
            raise OptionError(
                "only the fusion head has spatial_tokens, a gate and branches, got "
                f"{self.kind!r}: leave them out"
            )
        if not self.has_dropout:
            if self.num_heads:
                raise OptionError(
                    f"the {self.kind} head has no attention heads, got num_heads={self.num_heads}: "
                    "leave it out"
                )
        else:
            self._resolve_num_heads()
        if self.encoder_tokens is not None or self.encoder_widths is not None:
            self._check_encoders()
        if self.embedding_ids is not None:
            self._check_ids("embedding_ids", self.embedding_ids, kinds=("hybrid", "fusion"))
        for name in ("layer_ids", "kind_ids"):
            ids = getattr(self, name)
            if ids is not None and (len(ids) != self.tokens or min(ids) < 0):
                raise OptionError(
                    f"expected {name} to hold one index for each of the {self.tokens} tokens, "
                    f"counted from 0, got {ids}"
                )
        if self.mix_ids is not None:
            self._check_ids("mix_ids", self.mix_ids, kinds=("scalar-mix",))

    def _check_fusion(self) -> None:
        if not 1 <= self.spatial_tokens < self.tokens:
            raise OptionError(
                "expected spatial_tokens of a fusion head to be at least 1 and less than all "
                f"{self.tokens} tokens, got {self.spatial_tokens}"
            )
        if self.gate not in GATES:
            raise UnknownNameError("gate", self.gate, GATES)
        if self.branch not in ("", LAYERS, SPATIAL):
            raise UnknownNameError("branch", self.branch, (LAYERS, SPATIAL))

    def _check_encoders(self) -> None:
        tokens, widths = self.encoder_tokens or (), self.encoder_widths or ()
        if (
            self.kind != "attentive"
            or len(tokens) != len(widths)
            or sum(tokens) != self.tokens
            or min((*tokens, *widths), default=0) < 1
        ):
            raise OptionError(
                f"expected encoder_tokens and encoder_widths of an attentive head, whose tokens "
                f"sum to {self.tokens}, got {tokens} and {widths} for {self.kind!r}"
            )

    def _resolve_num_heads(self) -> None:
        defaults = {
            "attentive-tokens": ALL_TOKEN_HEADS,
            "efficient": min(EFFICIENT_QUERIES, self.width),
        }
        num_heads = self.num_heads or defaults.get(self.kind, self.tokens - self.spatial_tokens)
        if not 1 <= num_heads <= self.width:
            raise OptionError(
                f"expected a number of attention heads between 1 and the width {self.width}, got "
                f"{num_heads}: set num_heads (--heads)"
            )
        object.__setattr__(self, "num_heads", num_heads)

    def _check_ids(self, name: str, ids: tuple[int, ...], *, kinds: tuple[str, ...]) -> None:
        if self.kind not in kinds:
            raise OptionError(
                f"only the {' or the '.join(kinds)} head has {name}, got some for {self.kind!r}: "
                "leave them out"
            )
        n_tokens = self.spatial_tokens or self.tokens
        if len(ids) != n_tokens or sorted(set(ids)) != list(range(len(set(ids)))):
            raise OptionError(
                f"expected {name} to hold one index for each of the "
                f"{n_tokens} tokens, counted from 0 without gaps, got {ids}"
            )

    @property
    def branches(self) -> tuple[HeadSpec, HeadSpec]:
        """Heads of the two branches of "fusion": over pooled tokens, and over spatial ones."""
        n_pooled = self.tokens - self.spatial_tokens
        common: dict[str, Any] = {
            "spatial_tokens": 0,
            "gate": "",
            "branch": "",
            "layer_ids": None,
            "kind_ids": None,
        }
        layers = replace(self, kind="attentive", tokens=n_pooled, embedding_ids=None, **common)
        spatial = replace(
            self,
            kind="attentive-tokens" if self.embedding_ids is None else "hybrid",
            tokens=self.spatial_tokens,
            num_heads=min(ALL_TOKEN_HEADS, self.width),
            **common,
        )
        return layers, spatial

    def branch_tokens(self, branch: str) -> slice:
        """Return the positions of one branch's tokens of "fusion": the pooled ones come first."""
        n_pooled = self.tokens - self.spatial_tokens
        return slice(0, n_pooled) if branch == LAYERS else slice(n_pooled, self.tokens)

    def at_share(self, share: float | None) -> HeadSpec:
        """Return the fusion head with this share of its spatial branch: of one branch at 0 and 1.

        Args:
            share: The share; None leaves any head as it is.
        """
        if share is None:
            return self
        return replace(self, branch={0.0: LAYERS, 1.0: SPATIAL}.get(share, ""))

    @property
    def input_width(self) -> int:
        """Width of the tokens that the head gets: D, or the largest of several encoders."""
        return self.width if self.encoder_widths is None else max(self.encoder_widths)

    @property
    def task(self) -> str:
        """One of TASKS."""
        if self.regression:
            return REGRESSION
        return MULTI_LABEL if self.multi_label else CLASSIFICATION

    @property
    def has_dropout(self) -> bool:
        """True if the head has attention weights that are dropped in training."""
        return self.kind not in WITHOUT_DROPOUT

    @property
    def has_attention(self) -> bool:
        """True if the head weights its tokens, by attention or by a learned mean of the layers."""
        return self.kind != "linear"

    @property
    def num_mixes(self) -> int:
        """Number of weighted means of a "scalar-mix" head."""
        return 1 if self.mix_ids is None else max(self.mix_ids) + 1

    @property
    def attention_rows(self) -> int:
        """Rows of the weights that `attention` returns: attention heads, or means of layers."""
        if self.kind == "scalar-mix":
            return self.num_mixes
        if self.kind == "fusion":
            layers, spatial = (branch.num_heads for branch in self.branches)
            return {LAYERS: layers, SPATIAL: spatial}.get(self.branch, layers + spatial)
        return self.num_heads

    @property
    def token_groups(self) -> tuple[int, ...]:
        """Numbers of consecutive tokens whose noise is drawn as if each group were alone.

        Those of "fusion" are the pooled and the spatial tokens; other heads have one group.
        """
        if self.kind == "fusion":
            return self.tokens - self.spatial_tokens, self.spatial_tokens
        return (self.tokens,)

    @property
    def dropout_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of the attention weights of one image that may be dropped, one for each branch."""
        if self.kind == "fusion":
            branches = zip((LAYERS, SPATIAL), self.branches, strict=True)
            return tuple(
                (shape.tokens, shape.num_heads)
                for name, shape in branches
                if self.branch in ("", name)
            )
        return ((self.tokens, self.num_heads),)

    @property
    def activation_size(self) -> int:
        """Elements of the largest activation of one image: outputs, weights or mixed tokens."""
        if self.kind == "scalar-mix":
            return max(self.classes, self.num_mixes * self.width)
        if self.kind == "fusion":
            return max(branch.activation_size for branch in self.branches)
        return max(self.classes, self.num_heads * max(self.width, self.tokens))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HeadSpec:
        """Return the spec that `to_json` wrote, whose tuples JSON reads as lists."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON, without newer ones that have their default."""
        # absent, so that heads keep the ids that they had before these fields existed
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ADDED or value != ADDED[name]
        }

    @property
    def head_width(self) -> int:
        """Length d of one attention head, 0 without any.

        2 floor(D / H), twice the usual, as in arXiv 2601.09322; floor(D / H) for "efficient", whose
        D values are split over the queries.
        """
        if not self.num_heads:
            return 0
        return (1 if self.kind == "efficient" else 2) * (self.width // self.num_heads)

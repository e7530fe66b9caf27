"""The paper's heads as ordinary modules, for any training loop (arXiv 2601.09322).

    head = layercache.heads.AttentiveHead(tokens=24, width=768, classes=10)
    logits = head(x)                 # x: (B, 24, 768), such as CLS and AP of 12 layers
    weights = head.attention(x)      # (B, 24 heads, 24 tokens)
    head = layercache.heads.load("CACHE/probes/ID")      # a trained one

`layercache.probe` trains a whole grid of configurations of these heads in one pass
(`layercache.probing.heads`); the parameters have the same names there, in checkpoints and here.

Shapes: B images, T tokens of an image, D width of a token, C classes, H attention heads of width
E = 2 floor(D / H), which is d in the formulas, K embeddings.

The attentive head has one learned query u for all images:

    q = W_Q LN_q(u),  k_t = W_K LN_k(x_t),  v_t = W_V LN_v(x_t)
    a_ht = softmax_t(q_h . k_ht / sqrt(d)),  o_h = sum_t a_ht v_ht
    logits = W_C BatchNorm(W_O [o_1 ... o_H] + b_O) + b_C

`forward_reference` computes it like this. `forward` forms no key and no value. With
z = (x - mean) / std, which LN_k and LN_v share, LN(x) = gamma z + beta, and

    q_h . k_ht = (gamma_k W_K,h^T q_h) . z_t + the same for every t, which softmax ignores
    o_h        = (W_V,h gamma_v) sum_t a_ht z_t + (W_V,h beta_v) sum_t a_ht

These are the same logits and gradients for 1 / (2 d) of the products in the two large maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache.errors import HeadMismatchError
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.attentive import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    LAYER_NORM_EPS,
    QUERY_STD,
)
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.hybrid import EMBEDDING_STD
from layercache.probing.results.checkpoint import HeadPath, load_head
from layercache.probing.results.lookup import find_probe
from layercache.probing.results.probe_store import Probe

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType

__all__ = ["AttentiveHead", "HybridHead", "LinearHead", "load"]


class LinearHead(nn.Module):
    """One affine map of the concatenated tokens."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the parameters as torch.nn.Linear does.

        Args:
            tokens: T.
            width: D.
            classes: C, the number of outputs.
            normalize: L2-normalize each token first, as `layercache.probe` does. Switch it off for
                tokens that are normalized already, such as those with noise added afterwards.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__()
        _spec("linear", tokens=tokens, width=width, classes=classes)
        self.tokens, self.width, self.classes = tokens, width, classes
        self.normalize = normalize
        self.classifier = nn.Linear(tokens * width, classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C)."""
        x = _input(self, x, dtype=self.classifier.weight.dtype)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return f"tokens={self.tokens}, width={self.width}, normalize={self.normalize}"


class AttentiveHead(nn.Module):
    """Attentive Multi-Layer Fusion: each attention head mixes the tokens by weights of its own."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        num_heads: int | None = None,
        dropout: float = 0.0,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the query from N(0, 0.02), and the maps as torch.nn.Linear does.

        Args:
            tokens: T.
            width: D.
            classes: C, the number of outputs.
            num_heads: H; by default one for each token. For all tokens of the last layer the paper
                takes 8.
            dropout: Rate at which attention weights are dropped in training.
            normalize: L2-normalize each token first, as `layercache.probe` does. Switch it off for
                tokens that are normalized already, such as those with noise added afterwards.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__()
        spec = _spec("attentive", tokens=tokens, width=width, classes=classes, num_heads=num_heads)
        self.tokens, self.width, self.classes = tokens, width, classes
        self.num_heads, self.head_width = spec.num_heads, spec.head_width
        self.normalize = normalize
        inner_width = self.num_heads * self.head_width
        self.query = nn.Parameter(torch.empty(width, device=device, dtype=dtype))
        nn.init.normal_(self.query, std=QUERY_STD)
        self.norm_query = nn.LayerNorm(width, eps=LAYER_NORM_EPS, device=device, dtype=dtype)
        self.norm_key = nn.LayerNorm(width, eps=LAYER_NORM_EPS, device=device, dtype=dtype)
        self.norm_value = nn.LayerNorm(width, eps=LAYER_NORM_EPS, device=device, dtype=dtype)
        self.to_query = nn.Linear(width, inner_width, bias=False, device=device, dtype=dtype)
        self.to_key = nn.Linear(width, inner_width, bias=False, device=device, dtype=dtype)
        self.to_value = nn.Linear(width, inner_width, bias=False, device=device, dtype=dtype)
        self.attention_dropout = nn.Dropout(dropout)
        self.output = nn.Linear(inner_width, width, device=device, dtype=dtype)
        self.batch_norm = nn.BatchNorm1d(
            width, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM, device=device, dtype=dtype
        )
        self.classifier = nn.Linear(width, classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C).

        In training mode BatchNorm needs at least two images.
        """
        z_btd = self._standardize(x)
        weights_bth = self.attention_dropout(self._scores(z_btd).softmax(1))
        mixed_hbd = (weights_bth.transpose(1, 2) @ z_btd).transpose(0, 1)
        maps_hed = self.to_value.weight.view(self.num_heads, self.head_width, self.width)
        values_hbe = mixed_hbd @ (maps_hed * self.norm_value.weight).transpose(1, 2)
        shift_h1e = (maps_hed @ self.norm_value.bias)[:, None]
        values_hbe = values_hbe + weights_bth.sum(1).t()[..., None] * shift_h1e
        return self._classify(values_hbe.transpose(0, 1).flatten(1))

    def forward_reference(self, x: Tensor) -> Tensor:
        """Compute `forward` as the paper writes it, with a key and a value of every token."""
        x_btd = self._embed(_input(self, x, dtype=self.query.dtype))
        by_head = (*x_btd.shape[:2], self.num_heads, self.head_width)
        query = self.to_query(self.norm_query(self.query)).view(self.num_heads, 1, self.head_width)
        keys_bhtd = self.to_key(self.norm_key(x_btd)).view(by_head).transpose(1, 2)
        values_bhtd = self.to_value(self.norm_value(x_btd)).view(by_head).transpose(1, 2)
        scores = query @ keys_bhtd.transpose(2, 3) * self.head_width**-0.5  # (B, H, 1, T)
        weights_bth = self.attention_dropout(scores.squeeze(2).softmax(-1).transpose(1, 2))
        mixed = weights_bth.transpose(1, 2)[:, :, None] @ values_bhtd  # (B, H, 1, d)
        return self._classify(mixed.flatten(1))

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention weights (B, H, T) of tokens (B, T, D), before dropout.

        The weights of each attention head sum to 1 over the tokens.
        """
        return self._scores(self._standardize(x)).softmax(1).transpose(1, 2)

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return (
            f"tokens={self.tokens}, width={self.width}, num_heads={self.num_heads}, "
            f"normalize={self.normalize}"
        )

    def _embed(self, x_btd: Tensor) -> Tensor:
        return x_btd

    def _standardize(self, x: Tensor) -> Tensor:
        """Return z, (B, T, D)."""
        x_btd = self._embed(_input(self, x, dtype=self.query.dtype))
        return F.layer_norm(x_btd, (self.width,), eps=LAYER_NORM_EPS)

    def _scores(self, z_btd: Tensor) -> Tensor:
        """Return the scores before softmax, (B, T, H), without what is the same for every token."""
        query = self.to_query(self.norm_query(self.query)).view(self.num_heads, 1, self.head_width)
        maps_hed = self.to_key.weight.view(self.num_heads, self.head_width, self.width)
        directions_hd = (query @ maps_hed).squeeze(1) * self.norm_key.weight * self.head_width**-0.5
        # The bias has no effect, but DistributedDataParallel expects a gradient of every parameter.
        no_effect = 0 * self.norm_key.bias.sum()
        return F.linear(z_btd, directions_hd) + no_effect

    def _classify(self, values: Tensor) -> Tensor:
        """Map the joined outputs of the attention heads, (B, H d), to logits (B, C)."""
        logits: Tensor = self.classifier(self.batch_norm(self.output(values)))
        return logits


class HybridHead(AttentiveHead):
    """An attentive head over pooled and spatial tokens, with a learned embedding added to each.

    Tokens of the same layer and kind (all patches of the last layer, say) share an embedding.
    """

    embedding: nn.Parameter | None
    """(K, D), or None."""
    embedding_ids: Tensor | None
    """Index of the embedding of each token, int64 (T,), or None."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        num_heads: int,
        embedding_ids: Sequence[int] | None = None,
        dropout: float = 0.0,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the embeddings from N(0, 0.02), and the rest as AttentiveHead does.

        Args:
            tokens: T, pooled and spatial ones together.
            width: D.
            classes: C, the number of outputs.
            num_heads: H; `layercache.probe` takes the number of pooled tokens.
            embedding_ids: Index of the embedding of each of the T tokens, from 0 without gaps; None
                adds none.
            dropout: See AttentiveHead.
            normalize: See AttentiveHead; the embedding is added afterwards.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__(
            tokens=tokens,
            width=width,
            classes=classes,
            num_heads=num_heads,
            dropout=dropout,
            normalize=normalize,
            device=device,
            dtype=dtype,
        )
        self.register_parameter("embedding", None)
        self.register_buffer("embedding_ids", None, persistent=False)
        if embedding_ids is None:
            return
        _spec(
            "hybrid",
            tokens=tokens,
            width=width,
            classes=classes,
            num_heads=num_heads,
            embedding_ids=tuple(embedding_ids),
        )
        self.embedding_ids = torch.tensor(tuple(embedding_ids), device=device)
        self.embedding = nn.Parameter(
            torch.empty(max(embedding_ids) + 1, width, device=device, dtype=dtype)
        )
        nn.init.normal_(self.embedding, std=EMBEDDING_STD)

    def _embed(self, x_btd: Tensor) -> Tensor:
        if self.embedding is None or self.embedding_ids is None:
            return x_btd
        return x_btd + self.embedding[self.embedding_ids]


def load(probe: Probe | FittedHead | str | HeadPath) -> LinearHead | AttentiveHead | HybridHead:
    """Load the trained head of a probe as a module in evaluation mode, float32 on the CPU.

    The names of its classes and tokens are those of `layercache.load_head(probe)`. To train it
    further, call `train()`.

    Args:
        probe: A probe, its id or the beginning of it (of probes in the default root), its folder
            (CACHE/probes/ID), its head.safetensors, or a loaded head.

    Raises:
        ProbeNotFoundError: There is no such probe, or it has no head (knn).
        HeadMismatchError: The file is damaged, or not a head that layercache wrote.
    """
    if isinstance(probe, Probe):
        head: FittedHead = load_head(probe.path)
    else:
        head = probe if isinstance(probe, FittedHead) else load_head(find_probe(probe))
    if not head.state_dict:
        raise HeadMismatchError(
            f"this {head.spec.kind} head has no parameters, because its training diverged"
        )
    module = _untrained(head.spec)
    module.load_state_dict(dict(head.state_dict))
    return module.eval()


def _untrained(spec: HeadSpec) -> LinearHead | AttentiveHead | HybridHead:
    if spec.kind == "linear":
        return LinearHead(tokens=spec.tokens, width=spec.width, classes=spec.classes)
    if spec.kind == "hybrid":
        return HybridHead(
            tokens=spec.tokens,
            width=spec.width,
            classes=spec.classes,
            num_heads=spec.num_heads,
            embedding_ids=spec.embedding_ids,
        )
    return AttentiveHead(
        tokens=spec.tokens, width=spec.width, classes=spec.classes, num_heads=spec.num_heads
    )


def _spec(
    kind: str,
    *,
    tokens: int,
    width: int,
    classes: int,
    num_heads: int | None = None,
    embedding_ids: tuple[int, ...] | None = None,
) -> HeadSpec:
    """Return the checked shape of a head, whose logits may be any number of outputs.

    Raises:
        OptionError: A size is out of range.
    """
    return HeadSpec(
        kind=kind,
        tokens=tokens,
        width=width,
        classes=classes,
        num_heads=num_heads or 0,
        multi_label=True,
        embedding_ids=embedding_ids,
    )


def _input(head: LinearHead | AttentiveHead, x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return checked tokens (B, T, D) in the dtype of the parameters, normalized if requested."""
    if x.ndim != 3 or x.shape[1] != head.tokens or x.shape[2] != head.width:
        raise HeadMismatchError(
            f"expected tokens (images, {head.tokens}, {head.width}), got {tuple(x.shape)}"
        )
    x = x.to(dtype)
    return F.normalize(x, dim=-1) if head.normalize else x

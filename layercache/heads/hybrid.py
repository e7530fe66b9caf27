"""The attentive head over pooled and spatial tokens, with learned embeddings, as a module.

Shapes: B images, T tokens of an image, D width of a token, C classes, H attention heads, K
embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layercache.heads.attentive import AttentiveHead
from layercache.heads.shape import check_shape
from layercache.probing.heads.hybrid import EMBEDDING_STD

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType


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
        check_shape(
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

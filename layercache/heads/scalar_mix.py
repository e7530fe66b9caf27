"""The scalar mix as a module: one learned weight a layer, then a linear classifier.

Shapes: B images, T tokens of an image, K means, D width of a token, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layercache.heads.shape import check_input, check_shape

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType


class ScalarMixHead(nn.Module):
    """A linear classifier on weighted means of the layers, as in ELMo (arXiv 1802.05365, eq. 1).

    The weights of a mean are the softmax of `mix`, the same for every image; `scale` multiplies the
    mean.
    """

    members: Tensor
    """1 for the tokens of each mean, else 0; float (K, T)."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        mix_ids: Sequence[int] | None = None,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start with equal weights and a classifier drawn as torch.nn.Linear does.

        Args:
            tokens: T.
            width: D.
            classes: C, the number of outputs.
            mix_ids: Index of the mean of each of the T tokens, from 0 without gaps; None mixes all
                tokens. `layercache.probe` mixes the layers of each kind of token: [0, 1, 0, 1] for
                CLS and AP of two layers.
            normalize: L2-normalize each token first, as `layercache.probe` does.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__()
        ids = (0,) * tokens if mix_ids is None else tuple(mix_ids)
        spec = check_shape("scalar-mix", tokens=tokens, width=width, classes=classes, mix_ids=ids)
        self.tokens, self.width, self.classes = tokens, width, classes
        self.normalize = normalize
        number = torch.arange(spec.num_mixes, device=device)
        members = (torch.tensor(ids, device=device) == number[:, None]).to(
            dtype or torch.get_default_dtype()
        )
        self.register_buffer("members", members, persistent=False)
        self.mix = nn.Parameter(torch.zeros(tokens, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.ones(spec.num_mixes, device=device, dtype=dtype))
        self.classifier = nn.Linear(spec.num_mixes * width, classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C)."""
        x = check_input(self, x, dtype=self.mix.dtype)
        means_bkd = self.scale[:, None] * (self._weights() @ x)
        logits: Tensor = self.classifier(means_bkd.flatten(1))
        return logits

    def attention(self, x: Tensor) -> Tensor:
        """Return the weights of the means, (B, K, T), which are the same for every image.

        Those of each mean sum to 1 over its tokens and are 0 elsewhere.
        """
        x = check_input(self, x, dtype=self.mix.dtype)
        return self._weights().expand(len(x), -1, -1)

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return (
            f"tokens={self.tokens}, width={self.width}, means={len(self.scale)}, "
            f"normalize={self.normalize}"
        )

    def _weights(self) -> Tensor:
        """Return the weights of the means, (K, T)."""
        others = self.members == 0
        return self.mix.expand_as(self.members).masked_fill(others, float("-inf")).softmax(1)

"""The linear head as a module.

Shapes: B images, T tokens of an image, D width of a token, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layercache.heads.shape import check_input, check_shape

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType


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
        check_shape("linear", tokens=tokens, width=width, classes=classes)
        self.tokens, self.width, self.classes = tokens, width, classes
        self.normalize = normalize
        self.classifier = nn.Linear(tokens * width, classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C)."""
        x = check_input(self, x, dtype=self.classifier.weight.dtype)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return f"tokens={self.tokens}, width={self.width}, normalize={self.normalize}"

"""Loss of held-out samples, which decides between configurations of equal validation score.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOSS = "loss"
"""Name of the loss among the validation metrics of a configuration."""


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each sample, float64 (..., N), without class weights.

    It is the cross-entropy, or for multi-label samples the binary cross-entropy, averaged over
    classes.

    Args:
        logits: (..., N, C).
        labels: Class numbers (N,), or 0/1 targets (N, C).
    """
    logits = logits.float()
    if labels.dim() == 2:
        targets = labels.to(logits.dtype).expand(logits.shape)
        return (
            F.binary_cross_entropy_with_logits(logits, targets, reduction="none").double().mean(-1)
        )
    index = labels.long().expand(logits.shape[:-1])[..., None]
    true_logit = logits.gather(-1, index)[..., 0]
    return (torch.logsumexp(logits, dim=-1) - true_logit).double()

"""Checked shapes of the modules and of their input."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.errors import HeadMismatchError
from layercache.probing.heads import HeadSpec


class TokenHead(Protocol):
    """Shape of the tokens that a module takes."""

    tokens: int
    width: int
    normalize: bool


def check_shape(kind: str, *, tokens: int, width: int, classes: int, **fields: Any) -> HeadSpec:
    """Return the checked shape of a head, whose logits may be any number of outputs.

    Args:
        kind: Kind of the head.
        tokens: T.
        width: D.
        classes: C.
        fields: Further fields of `HeadSpec`; None stands for the default.

    Raises:
        OptionError: A size is out of range.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    return HeadSpec(
        kind=kind, tokens=tokens, width=width, classes=classes, multi_label=True, **given
    )


def check_input(head: TokenHead, x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return checked tokens (B, T, D) in the dtype of the parameters, normalized if requested."""
    if x.ndim != 3 or x.shape[1] != head.tokens or x.shape[2] != head.width:
        raise HeadMismatchError(
            f"expected tokens (images, {head.tokens}, {head.width}), got {tuple(x.shape)}"
        )
    x = x.to(dtype)
    return F.normalize(x, dim=-1) if head.normalize else x

"""CLIP's linear map of the last layer into the space that it shares with text, D -> 512 or 768."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from layercache.errors import BackboneError


def refuse_unprojected(module: Any, *, name: str) -> None:
    """Raises BackboneError unless the architecture, with or without weights, ends in such a map."""
    cfg = module.pretrained_cfg
    if (
        not isinstance(getattr(module, "head", None), nn.Linear)
        or "clip" not in cfg["architecture"]
        or "_ft_" in (cfg.get("tag") or "")
    ):
        raise BackboneError(
            f"{name}: --projected needs a CLIP model with its projection into the joint space, this one has none: leave it out"
        )


def projection(module: Any, state: Mapping[str, Tensor] | None, *, name: str) -> nn.Linear:
    """The linear map into CLIP's joint space, with its weights. Raises BackboneError where a checkpoint has none."""
    head: nn.Linear = module.head
    if state is not None:
        weight = state.get("head.weight")
        if weight is None:
            raise BackboneError(
                f"{name}: --projected needs head.weight in the checkpoint, which has none: leave --projected out"
            )
        if weight.shape[1] != module.embed_dim or weight.shape[0] > module.embed_dim:
            raise BackboneError(
                f"{name}: --projected expects head.weight of at most {(module.embed_dim,) * 2}, got {tuple(weight.shape)}"
            )
        head = nn.Linear(weight.shape[1], weight.shape[0], bias="head.bias" in state)
        head.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("head.")})
    return head.float().eval().requires_grad_(False)

"""CLIP's linear map of the last layer into the space that it shares with text, D -> 512 or 768."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from layercache.errors import BackboneError


def check_has_projection(module: Any, *, name: str) -> None:
    """Check that an architecture, with or without weights, ends in such a map.

    Raises:
        BackboneError: It does not.
    """
    cfg = module.pretrained_cfg
    if (
        not isinstance(getattr(module, "head", None), nn.Linear)
        or "clip" not in cfg["architecture"]
        or "_ft_" in (cfg.get("tag") or "")
    ):
        raise BackboneError(
            f"{name}: projected needs a CLIP model with its projection into the joint space, "
            "this one has none: leave it out"
        )


def load_projection(module: Any, state: Mapping[str, Tensor] | None, *, name: str) -> nn.Linear:
    """Return the map into CLIP's joint space, float32 and frozen.

    Args:
        module: The CLIP model, its head in place.
        state: Weights of a checkpoint; None takes the module's own.
        name: Name of the model, for errors.

    Raises:
        BackboneError: The checkpoint has no such map.
    """
    if state is None:
        head: nn.Linear = module.head
    else:
        weight = state.get("head.weight")
        if weight is None:
            raise BackboneError(
                f"{name}: projected needs head.weight in the checkpoint, which has none: "
                "leave projected out"
            )
        if weight.shape[1] != module.embed_dim or weight.shape[0] > module.embed_dim:
            raise BackboneError(
                f"{name}: projected expects head.weight of at most {(module.embed_dim,) * 2}, "
                f"got {tuple(weight.shape)}"
            )
        head = nn.Linear(weight.shape[1], weight.shape[0], bias="head.bias" in state)
        head.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("head.")})
    return head.float().eval().requires_grad_(False)

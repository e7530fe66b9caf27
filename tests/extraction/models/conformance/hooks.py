"""Hidden states of a bare module by plain hooks, for sources without their own way to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """A module of a block, and which of its values is meant."""

    path: str
    is_input: bool = False
    index: int | None = None

    def exists(self, block: nn.Module) -> bool:
        return any(name == self.path for name, _ in block.named_modules())


def hidden_states(
    module: nn.Module,
    images: Tensor,
    *,
    blocks: str,
    places: Mapping[str, Place],
    norm: str | None,
    block_output: int | None = None,
    batch_first: bool = True,
    forward: str = "forward",
) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Return tap -> every layer's hidden state (B, N, D) in float64."""
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(part: nn.Module, key: tuple[str, int], place: Place) -> None:
        def hook(m: nn.Module, args: Any, output: Any) -> None:
            value = args[0] if place.is_input else output
            value = value if place.index is None else value[place.index]
            seen[key] = (value if batch_first else value.transpose(0, 1)).clone()

        part.register_forward_hook(hook)

    depth = 0
    for depth, block in enumerate(module.get_submodule(blocks).children(), 1):
        keep(block, ("block", depth), Place("", index=block_output))
        for tap, place in places.items():
            keep(block.get_submodule(place.path), (tap, depth), place)
    numbers = range(1, depth + 1)
    with torch.no_grad():
        getattr(module, forward)(images)
        taps = {tap: [seen[tap, n] for n in numbers] for tap in ("block", *places)}
        if norm is not None:
            final = module.get_submodule(norm)
            taps["block-norm"] = [final(x) for x in taps["block"]]
            taps["norm2"] = [*taps["norm2"][1:], taps["block-norm"][-1]]
    return {tap: [x.double().numpy() for x in layers] for tap, layers in taps.items()}

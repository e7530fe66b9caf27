"""A check for what runs on Apple GPUs, which have no float64: on the CPU, without any of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoFloat64(TorchDispatchMode):
    """Raises TypeError for every operation with a tensor in float64, as torch does on mps."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func}: float64, which an Apple GPU does not have")
        return result

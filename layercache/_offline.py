"""Downloads forbidden or not, by an argument or the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

OFFLINE_ENV = "LAYERCACHE_OFFLINE"
"""Environment variable that forbids every download; 0, no, false and empty allow them."""


def is_offline(offline: bool = False) -> bool:
    """Return whether downloads are forbidden, by the argument or by $LAYERCACHE_OFFLINE."""
    return offline or os.environ.get(OFFLINE_ENV, "").lower() not in ("", "0", "no", "false")


@contextmanager
def hub_offline(offline: bool) -> Iterator[None]:
    """Keep the Hugging Face libraries from the network, if `offline`: they use their caches."""
    if not offline:
        yield
        return
    import huggingface_hub.constants

    modules: list[Any] = [huggingface_hub.constants]
    if "datasets" in sys.modules:
        modules.append(import_module("datasets.config"))
    previous = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, previous, strict=True):
            module.HF_HUB_OFFLINE = value

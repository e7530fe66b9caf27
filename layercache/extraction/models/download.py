"""timm's own weights: downloaded once, by timm, into the hub's cache."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn

from layercache.errors import BackboneError

FILES = ("model.safetensors", "pytorch_model.bin")
"""timm's names for a checkpoint on the hub, in the order in which it asks for them."""


def download(timm_name: str, *, name: str) -> nn.Module:
    """Timm's pretrained model, loaded strictly by timm. Raises BackboneError where the weights are neither here nor within reach."""
    repository = getattr(timm.get_pretrained_cfg(timm_name), "hf_hub_id", None)
    if repository and not _cached(repository) and not _reachable():
        # The hub's client would try for most of a minute.
        raise _failed(
            name,
            timm_name,
            f"no network: {urlsplit(constants.ENDPOINT).hostname} is not known here",
        )
    try:
        return timm.create_model(timm_name, pretrained=True)  # type: ignore[no-any-return]
    except Exception as e:  # the hub's clients raise their own kinds for a broken connection, a missing file and a refused token
        raise _failed(name, timm_name, (str(e) or type(e).__name__).splitlines()[0]) from e


def _failed(name: str, timm_name: str, why: str) -> BackboneError:
    return BackboneError(
        f"{name}: the weights of {timm_name} could not be downloaded ({why}): give a local checkpoint with --weights FILE"
    )


def _cached(repository: str) -> bool:
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in FILES)


def _reachable() -> bool:
    """The hub's name resolves, or a proxy will see to it."""
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except socket.gaierror:
        return False
    return True

"""Download of timm's own weights, once, by timm, into the Hugging Face Hub's cache."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn

from layercache.errors import BackboneError

CHECKPOINT_FILES = ("model.safetensors", "pytorch_model.bin")
"""timm's names of a checkpoint on the hub, in the order in which it tries them."""


def download_model(timm_name: str, *, name: str) -> nn.Module:
    """Return timm's pretrained model, with weights that timm has loaded strictly.

    Args:
        timm_name: timm's model name with its weights tag.
        name: Name of the model as the user gave it, for errors.

    Raises:
        BackboneError: The weights are not cached and cannot be downloaded.
    """
    repository = getattr(timm.get_pretrained_cfg(timm_name), "hf_hub_id", None)
    # Without a network, the hub's client would retry for most of a minute.
    if repository and not _is_cached(repository) and not _hub_resolves():
        reason = f"no network: {urlsplit(constants.ENDPOINT).hostname} cannot be resolved"
        raise _download_error(name, timm_name, reason)
    try:
        return timm.create_model(timm_name, pretrained=True)  # type: ignore[no-any-return]
    except Exception as e:  # the hub's clients raise many kinds: connection, missing file, token
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise _download_error(name, timm_name, reason) from e


def _download_error(name: str, timm_name: str, reason: str) -> BackboneError:
    return BackboneError(
        f"{name}: the weights of {timm_name} could not be downloaded ({reason}): "
        "give a local checkpoint as weights"
    )


def _is_cached(repository: str) -> bool:
    return any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in CHECKPOINT_FILES
    )


def _hub_resolves() -> bool:
    """Return whether the hub's host name resolves; behind a proxy, the proxy resolves it."""
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except socket.gaierror:
        return False
    return True

"""Download of timm's own weights, once, by timm, into the Hugging Face Hub's cache."""

from __future__ import annotations

import logging
import os
import socket
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from layercache._offline import hub_offline
from layercache._units import format_bytes
from layercache.errors import BackboneError

logger = logging.getLogger(__name__)

CHECKPOINT_FILES = ("model.safetensors", "pytorch_model.bin")
"""timm's names of a checkpoint on the hub, in the order in which it tries them."""


def download_model(timm_name: str, *, name: str, offline: bool = False) -> nn.Module:
    """Return timm's pretrained model, with weights that timm has loaded strictly.

    A download is logged first: what, from where, how large, where to and under which licence.

    Args:
        timm_name: timm's model name with its weights tag.
        name: Name of the model as the user gave it, for errors.
        offline: Forbid the download; cached weights are loaded without a request.

    Raises:
        BackboneError: The weights are not cached and cannot be downloaded, or must not be.
    """
    config = timm.get_pretrained_cfg(timm_name)
    repository = getattr(config, "hf_hub_id", None)
    if repository and not _is_cached(repository):
        if offline:
            raise BackboneError(
                f"{name}: the weights of {timm_name} are not in {constants.HF_HUB_CACHE}, and "
                "downloads are forbidden (offline, $LAYERCACHE_OFFLINE): run the command once "
                "without, or give a local checkpoint as weights"
            )
        # Without a network, the hub's client would retry for most of a minute.
        if not _hub_resolves():
            reason = f"no network: {urlsplit(constants.ENDPOINT).hostname} cannot be resolved"
            raise _download_error(name, timm_name, reason)
        size = _size(repository)
        logger.info(
            "%s: downloading the weights %s%s from %s/%s to %s; licence: %s",
            name,
            timm_name,
            f" ({format_bytes(size)})" if size else "",
            constants.ENDPOINT,
            repository,
            constants.HF_HUB_CACHE,
            getattr(config, "license", None) or f"see {constants.ENDPOINT}/{repository}",
        )
    try:
        with hub_offline(offline):
            return timm.create_model(timm_name, pretrained=True)  # type: ignore[no-any-return]
    except Exception as e:  # the hub's clients raise many kinds: connection, missing file, token
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise _download_error(name, timm_name, reason) from e


def _download_error(name: str, timm_name: str, reason: str) -> BackboneError:
    return BackboneError(
        f"{name}: the weights of {timm_name} could not be downloaded ({reason}): "
        "give a local checkpoint as weights"
    )


def _size(repository: str) -> int | None:
    """Return the size of a checkpoint in bytes, or None if the hub does not say."""
    for file in CHECKPOINT_FILES:
        try:
            return get_hf_file_metadata(hf_hub_url(repository, file)).size
        except (HfHubHTTPError, OSError):
            continue
    return None


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

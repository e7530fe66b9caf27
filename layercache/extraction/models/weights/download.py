"""Download of timm's models, once, into the Hugging Face Hub's cache."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import timm
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from torch import nn

from layercache._offline import hub_offline
from layercache._units import format_bytes
from layercache.errors import BackboneError

logger = logging.getLogger(__name__)

CHECKPOINT_FILES = ("model.safetensors", "pytorch_model.bin")
"""timm's names of a checkpoint on the hub, in the order in which it tries them."""
FOLDER_ADDRESSES = {
    "hf:": "hf:PATH",
    "open_clip:hf-hub:": "open_clip:local-dir:PATH",
    "hf-hub:": "local-dir:PATH",
}
"""Beginning of an address -> the address of a folder of that kind."""


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
    if repository and _cached(repository, CHECKPOINT_FILES) is None:
        _check_may_download(name, f"the weights of {timm_name}", offline=offline)
        licence = getattr(config, "license", None)
        _log_download(repository, name=name, what=f" {timm_name}", licence=licence)
    try:
        with hub_offline(offline):
            return timm.create_model(timm_name, pretrained=True)  # type: ignore[no-any-return]
    except Exception as e:  # the hub's clients raise many kinds: connection, missing file, token
        what = f"the weights of {timm_name}"
        raise _download_error(name, what, _reason(e, repository or timm_name)) from e


def hub_file(
    repository: str,
    files: Sequence[str],
    *,
    name: str,
    offline: bool = False,
    log: bool = False,
    expected: str = "a repository in timm's hub layout",
) -> Path:
    """Return the first of some files that a repository of the hub has, from the cache if possible.

    Args:
        repository: "ORG/NAME", or "ORG/NAME@REVISION".
        files: Names of the files, the preferred one first.
        name: Name of the model as the user gave it, for errors.
        offline: Forbid the download.
        log: Log the download: what, how large, from where, where to.
        expected: What the repository should be, for errors.

    Raises:
        BackboneError: There is no such file, or it cannot be downloaded, or must not be.
    """
    cached = _cached(repository, files)
    if cached is not None:
        return cached
    what = f"the files of {repository}"
    _check_may_download(name, what, offline=offline)
    if log:
        _log_download(repository, name=name, files=files)
    repo_id, revision = _split_revision(repository)
    for file in files:
        try:
            return Path(hf_hub_download(repo_id, file, revision=revision))
        except LocalEntryNotFoundError as e:  # the hub cannot be reached
            raise _download_error(name, what, _reason(e, repository)) from e
        except EntryNotFoundError:
            continue
        except Exception as e:  # connection, login, a malformed name
            raise _download_error(name, what, _reason(e, repository)) from e
    raise BackboneError(
        f"{name}: {constants.ENDPOINT}/{repo_id} has no {' or '.join(files)}: expected {expected}"
    )


def _check_may_download(name: str, what: str, *, offline: bool) -> None:
    """Raise BackboneError if downloads are forbidden, or if there is no network."""
    if offline:
        raise BackboneError(
            f"{name}: {what} are not in {constants.HF_HUB_CACHE}, and "
            "downloads are forbidden (offline, $LAYERCACHE_OFFLINE): run the command once "
            f"without, or {_remedy(name)}"
        )
    # Without a network, the hub's client would retry for most of a minute.
    if not _hub_resolves():
        reason = f"no network: {urlsplit(constants.ENDPOINT).hostname} cannot be resolved"
        raise _download_error(name, what, reason)


def _log_download(
    repository: str,
    *,
    name: str,
    what: str = "",
    licence: str | None = None,
    files: Sequence[str] = CHECKPOINT_FILES,
) -> None:
    size = _size(repository, files)
    logger.info(
        "%s: downloading the weights%s%s from %s/%s to %s; licence: %s",
        name,
        what,
        f" ({format_bytes(size)})" if size else "",
        constants.ENDPOINT,
        repository,
        constants.HF_HUB_CACHE,
        licence or f"see {constants.ENDPOINT}/{_split_revision(repository)[0]}",
    )


def _reason(error: Exception, repository: str) -> str:
    """Return the cause of a failed download in a line, with the way to log in if that helps."""
    repo_id = _split_revision(repository)[0]
    page = f"{constants.ENDPOINT}/{repo_id}"
    login = "log in with `hf auth login`, or set $HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return f"{page} is gated: accept its conditions on that page, then {login}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no {page}, or it is private: check the name; for a private one {login}"
    return (str(error) or type(error).__name__).splitlines()[0]


def _split_revision(repository: str) -> tuple[str, str | None]:
    repo_id, _, revision = repository.partition("@")
    return repo_id, revision or None


def _download_error(name: str, what: str, reason: str) -> BackboneError:
    return BackboneError(f"{name}: {what} could not be downloaded ({reason}): {_remedy(name)}")


def _remedy(name: str) -> str:
    for kind, folder in FOLDER_ADDRESSES.items():
        if name.startswith(kind):  # its configuration is needed, too
            return f"name the folder of a downloaded copy, {folder}"
    return "give a local checkpoint as weights"


def _size(repository: str, files: Sequence[str]) -> int | None:
    """Return the size in bytes of the first of some files, None if the hub does not report it."""
    repo_id, revision = _split_revision(repository)
    for file in files:
        try:
            return get_hf_file_metadata(hf_hub_url(repo_id, file, revision=revision)).size
        except (HfHubHTTPError, OSError):
            continue
    return None


def _cached(repository: str, files: Sequence[str]) -> Path | None:
    """Return the first of some files that is in the hub's cache."""
    repo_id, revision = _split_revision(repository)
    try:
        paths = [try_to_load_from_cache(repo_id, file, revision=revision) for file in files]
    except ValueError:  # a malformed name; the download says so
        return None
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _hub_resolves() -> bool:
    """Return whether the hub's host name resolves; behind a proxy, the proxy resolves it."""
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except socket.gaierror:
        return False
    return True

"""Checkpoints: read without running code in them, loaded strictly, and told apart by a digest."""

from __future__ import annotations

import hashlib
import math
import pickle
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layercache.errors import BackboneError

UNUSED = ("head.", "head_dist.", "head_drop.", "attn_pool.")
"""Parts of timm's ViTs that come after the tokens: not loaded, not part of the digest."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file (`weights_only`), out of the usual wrappings. Raises BackboneError if it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise BackboneError(
            f"weights {path}: {'a folder, not a file' if path.is_dir() else 'no such file'}"
        )
    try:
        path.open("rb").close()
    except OSError as e:
        raise BackboneError(f"weights {path}: cannot be read: {e.strerror}") from e
    if path.suffix == ".safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (safetensors.SafetensorError, OSError) as e:
            raise BackboneError(
                f"weights {path}: not a readable safetensors file ({e}): is it whole? Fetch it again"
            ) from e
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # about the pickle's version, which the error or the strict load will tell
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # on bytes that are no checkpoint the unpickler raises anything
        raise BackboneError(f"weights {path}: not loadable as plain tensors: {_why_not(e)}") from e
    return _unwrap(value, path)


def _why_not(error: Exception) -> str:
    """What torch.load's error means, in a line, with what to do."""
    if isinstance(error, pickle.UnpicklingError) and (
        other := re.search(r"GLOBAL (\S+)", str(error))
    ):
        return f"it also holds {other[1]}, which could run code: save the model's state_dict() alone with torch.save or as safetensors"
    if isinstance(error, RuntimeError) and "zip archive" in str(error):
        return "it is cut or damaged: fetch it again"
    return "it is no file of torch.save (one of safetensors must be called .safetensors): give a state_dict() saved with torch.save or as safetensors"


def declared_architecture(path: str | Path) -> str | None:
    """The architecture that a safetensors file names in its metadata ("arch" or "architecture"), if it names one."""
    if Path(path).suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return metadata.get("architecture") or metadata.get("arch")


def _unwrap(value: Any, path: Path) -> dict[str, Tensor]:
    """Out of {"state_dict": ...} and the like, without the prefixes that DDP and torch.compile put before names."""
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "teacher"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping) or not any(isinstance(v, Tensor) for v in value.values()):
        raise BackboneError(
            f"weights {path}: expected a state dict (names to tensors), got {type(value).__name__}"
        )
    out = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        if all(k.startswith(prefix) for k in out):
            out = {k[len(prefix) :]: v for k, v in out.items()}
    return out


def strip_head(module: Any) -> nn.Module | None:
    """Replaces what comes after the tokens by nothing; returns the classifier or projection, if there was a linear one."""
    head = getattr(module, "head", None)
    for name in ("head", "head_dist", "head_drop"):
        if hasattr(module, name):
            setattr(module, name, nn.Identity())
    if hasattr(module, "attn_pool"):
        module.attn_pool = None
    if not isinstance(getattr(module, "norm", nn.Identity()), nn.Identity) and hasattr(
        module, "fc_norm"
    ):
        module.fc_norm = nn.Identity()
    return head if isinstance(head, nn.Linear) else None


class SkipInit(TorchFunctionMode):
    """Inside it, modules are built without drawing their initial weights, which takes timm seconds for a large ViT."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Random fills return the tensor as it is; anything else goes its way."""
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_):
            return args[0]
        return func(*args, **(kwargs or {}))


def load_weights(
    module: nn.Module, state: dict[str, Tensor], *, source: str, keys_of: str | None = None
) -> None:
    """Loads a head-less `module` strictly from `state`. Raises BackboneError, listing the keys that do not fit.

    keys_of: the Python module whose `checkpoint_filter_fn` turns original key names into timm's. A positional embedding of another grid sets the
    module's input size to that grid first, so that what is loaded are the checkpoint's own numbers; the caller then sets the size it wants.
    """
    _match_grid(module, state)
    convert = getattr(sys.modules.get(keys_of or ""), "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(dict(state), module)
    _refuse_mismatch(module, state, source=source)
    module.load_state_dict(state, strict=False)  # strict already, but for the parts in UNUSED


def _match_grid(module: Any, state: Mapping[str, Tensor]) -> None:
    """Gives `module` the input size of the checkpoint's positional embedding, whose rows are the patches and, mostly, the prefix tokens."""
    given = next(
        (
            v
            for k, v in state.items()
            if k.endswith(("pos_embed", "positional_embedding")) and v.ndim >= 2
        ),
        None,
    )
    own = getattr(module, "pos_embed", None)
    if (
        given is None
        or not isinstance(own, Tensor)
        or given.shape[-2] == own.shape[-2]
        or not hasattr(module, "set_input_size")
    ):
        return
    rows, embed = given.shape[-2], module.patch_embed
    for prefix in (
        0 if getattr(module, "no_embed_class", False) else module.num_prefix_tokens,
        1,
    ):  # original files may count otherwise than timm
        side = math.isqrt(max(rows - prefix, 0))
        if side and side * side == rows - prefix:
            if side * side != math.prod(embed.grid_size):
                module.set_input_size(
                    img_size=tuple(
                        side * pixels // n
                        for pixels, n in zip(embed.img_size, embed.grid_size, strict=True)
                    )
                )
            return
    # No square: the comparison of shapes will say so.


def _refuse_mismatch(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    own = module.state_dict()
    unused = (*UNUSED, "fc_norm.") if not any(k.startswith("fc_norm.") for k in own) else UNUSED
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own and not k.startswith(unused)]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    faults = [
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("mismatched", shapes))
        if keys
    ]
    if faults:
        raise BackboneError(
            f"{source} does not fit: {'; '.join(faults)}: is it the checkpoint of another model? (layercache models lists names)"
        )


def _some(keys: Iterable[str], most: int = 6) -> str:
    keys = list(keys)
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def digest_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 hex over name, dtype, shape and the SHA-256 of the bytes of every tensor, by name.

    A tree of hashes, so that tensors are hashed in parallel: 300 M parameters are 1.2 GB. Independent of the file's format and order.
    """
    names = sorted(state)
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(_digest_tensor, (state[name] for name in names)))
    whole = hashlib.sha256()
    for name, part in zip(names, parts, strict=True):
        tensor = state[name]
        whole.update(
            f"{name}\n{str(tensor.dtype).removeprefix('torch.')}\n{tuple(tensor.shape)}\n{part}\n".encode()
        )
    return whole.hexdigest()


def _digest_tensor(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()

"""Checkpoints: read without running their code, loaded strictly, identified by a digest."""

from __future__ import annotations

import hashlib
import math
import pickle
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layercache.errors import BackboneError

UNUSED_PREFIXES = ("head.", "head_dist.", "head_drop.", "attn_pool.")
"""Parts of timm's ViTs after the tokens: neither loaded nor part of the digest."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or torch file, without wrappers and name prefixes.

    Args:
        path: A file; ".safetensors" is read as such, anything else with torch (`weights_only`).

    Raises:
        BackboneError: The file cannot be read, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        problem = "a folder, not a file" if path.is_dir() else "no such file"
        raise BackboneError(f"weights {path}: {problem}")
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
                f"weights {path}: not a readable safetensors file ({e}): "
                "it may be incomplete, download it again"
            ) from e
    try:
        # the warnings are about the pickle's version; the error or the strict load says more
        with warnings.catch_warnings(action="ignore"):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # the unpickler raises anything on bytes that are no checkpoint
        raise BackboneError(
            f"weights {path}: not loadable as plain tensors: {_explain_load_error(e)}"
        ) from e
    return _unwrap_state_dict(value, path)


def _explain_load_error(error: Exception) -> str:
    """Return the meaning of torch.load's error in a line, with a remedy."""
    if isinstance(error, pickle.UnpicklingError):
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe:
            return (
                f"it also holds {unsafe[1]}, which could run code: "
                "save the model's state_dict() alone with torch.save or as safetensors"
            )
    if isinstance(error, RuntimeError) and "zip archive" in str(error):
        return "it is truncated or damaged: download it again"
    return (
        "it was not written by torch.save (a safetensors file must be called .safetensors): "
        "give a state_dict() saved with torch.save or as safetensors"
    )


def declared_architecture(path: str | Path) -> str | None:
    """Return the architecture that a safetensors file names in its metadata, if any."""
    if Path(path).suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return metadata.get("architecture") or metadata.get("arch")


def _unwrap_state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Take the tensors out of {"state_dict": ...} and the like.

    Removes the name prefixes of DDP ("module.") and torch.compile ("_orig_mod.").
    """
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "teacher"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping) or not any(isinstance(v, Tensor) for v in value.values()):
        raise BackboneError(
            f"weights {path}: expected a state dict (names to tensors), got {type(value).__name__}"
        )
    state = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        if all(k.startswith(prefix) for k in state):
            state = {k[len(prefix) :]: v for k, v in state.items()}
    return state


def remove_head(module: Any) -> None:
    """Replace everything after the tokens with nothing."""
    for name in ("head", "head_dist", "head_drop"):
        if hasattr(module, name):
            setattr(module, name, nn.Identity())
    if hasattr(module, "attn_pool"):
        module.attn_pool = None
    has_norm = not isinstance(getattr(module, "norm", nn.Identity()), nn.Identity)
    if has_norm and hasattr(module, "fc_norm"):
        module.fc_norm = nn.Identity()


class SkipInit(TorchFunctionMode):
    """Context in which modules are built without random initial weights.

    Drawing them takes timm seconds for a large ViT.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor unchanged for random fills; call any other function."""
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_):
            return args[0]
        return func(*args, **(kwargs or {}))


def load_weights(
    module: nn.Module, state: dict[str, Tensor], *, source: str, timm_module: str | None = None
) -> None:
    """Load a state dict strictly into a module without head.

    A positional embedding of another grid first sets the module's input size to that grid, so that
    the checkpoint's own numbers are loaded; the caller then sets the size it wants.

    Args:
        module: A timm ViT after `remove_head`.
        state: The checkpoint's tensors.
        source: Name of the checkpoint, for errors.
        timm_module: Python module whose `checkpoint_filter_fn` turns original names into timm's.

    Raises:
        BackboneError: Keys or shapes do not match; lists them.
    """
    _match_grid(module, state)
    convert = getattr(sys.modules.get(timm_module or ""), "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(dict(state), module)
    _check_keys_and_shapes(module, state, source=source)
    module.load_state_dict(state, strict=False)  # checked above, except UNUSED_PREFIXES


def _match_grid(module: Any, state: Mapping[str, Tensor]) -> None:
    """Set the input size of `module` to the grid of the checkpoint's positional embedding.

    The embedding's rows are the patches and, in most models, the prefix tokens. If the patches are
    no square, the module is left alone: the comparison of shapes will fail.
    """
    embedding = next(
        (
            value
            for key, value in state.items()
            if key.endswith(("pos_embed", "positional_embedding")) and value.ndim >= 2
        ),
        None,
    )
    current = getattr(module, "pos_embed", None)
    if (
        embedding is None
        or not isinstance(current, Tensor)
        or embedding.shape[-2] == current.shape[-2]
        or not hasattr(module, "set_input_size")
    ):
        return
    rows, embed = embedding.shape[-2], module.patch_embed
    timm_prefix = 0 if getattr(module, "no_embed_class", False) else module.num_prefix_tokens
    for prefix in (timm_prefix, 1):  # original files may have another prefix than timm's
        side = math.isqrt(max(rows - prefix, 0))
        if not side or side * side != rows - prefix:
            continue
        if side * side != math.prod(embed.grid_size):
            patch_sizes = zip(embed.img_size, embed.grid_size, strict=True)
            module.set_input_size(img_size=tuple(side * pixels // n for pixels, n in patch_sizes))
        return


def _check_keys_and_shapes(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    expected = module.state_dict()
    has_fc_norm = any(k.startswith("fc_norm.") for k in expected)
    unused = UNUSED_PREFIXES if has_fc_norm else (*UNUSED_PREFIXES, "fc_norm.")
    mismatches = {
        "missing": [k for k in expected if k not in state],
        "unexpected": [k for k in state if k not in expected and not k.startswith(unused)],
        "of another shape": [
            f"{k} (expected {tuple(v.shape)}, got {tuple(state[k].shape)})"
            for k, v in expected.items()
            if k in state and state[k].shape != v.shape
        ],
    }
    problems = [
        f"{len(keys)} {problem}: {_abbreviate(keys)}"
        for problem, keys in mismatches.items()
        if keys
    ]
    if problems:
        raise BackboneError(
            f"{source} does not fit: {'; '.join(problems)}: is it the checkpoint of another model? "
            "(layercache models lists names)"
        )


def _abbreviate(keys: Sequence[str], max_shown: int = 6) -> str:
    hidden = len(keys) - max_shown
    return ", ".join(keys[:max_shown]) + (f" and {hidden} more" if hidden > 0 else "")


def digest_weights(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict, hex: of name, dtype, shape and bytes of every tensor.

    Tensors are taken by name and hashed one by one, in parallel (300 M parameters are 1.2 GB); the
    digest is of their digests. Independent of the file's format and order.
    """
    names = sorted(state)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest_tensor, (state[name] for name in names)))
    total = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        tensor = state[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        total.update(f"{name}\n{dtype}\n{tuple(tensor.shape)}\n{digest}\n".encode())
    return total.hexdigest()


def _digest_tensor(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()

"""Checkpoints: read without running their code, loaded strictly, identified by a digest."""

from __future__ import annotations

import argparse
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
from layercache.extraction.models.weights.key_prefix import (
    StateMatch,
    count_parts,
    find_state,
    flatten,
)

UNUSED_PREFIXES = ("head.", "head_dist.", "head_drop.", "attn_pool.")
"""Parts of timm's ViTs after the tokens: neither loaded nor part of the digest."""
TOKEN_PARTS = (
    *("patch_embed", "pos_embed", "cls_token", "dist_token", "reg_token", "register_tokens"),
    *("storage_tokens", "norm_pre", "ln_pre", "rope", "rel_pos_bias", "blocks", "norm", "fc_norm"),
)
"""Parts of ViTs that change tokens: a checkpoint's are never left out of a model without them."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or torch file, those of nested mappings included.

    Args:
        path: A file; ".safetensors" is read as such, anything else with torch (`weights_only`, with
            `argparse.Namespace` as the one further class: MAE and DINO store their options in it).

    Returns:
        Tensors by name; the names of nested mappings are joined by dots ("state_dict.norm.bias").

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
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # the unpickler raises anything on bytes that are no checkpoint
        raise BackboneError(
            f"weights {path}: not loadable as plain tensors: {_explain_load_error(e)}"
        ) from e
    tensors = flatten(value)
    if not tensors:
        raise BackboneError(
            f"weights {path}: expected a state dict (names to tensors), got {type(value).__name__}"
            + (f" with {abbreviate([*map(str, value)])}" if isinstance(value, dict) else "")
        )
    return tensors


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
        """Return the tensor unchanged or zero for random fills; call any other function."""
        if func is Tensor.normal_:
            return args[0].zero_()  # nn.init.trunc_normal_ draws until all are within its bounds
        if func in (Tensor.uniform_, Tensor.erfinv_):
            return args[0]
        return func(*args, **(kwargs or {}))


def load_weights(
    module: nn.Module, tensors: dict[str, Tensor], *, source: str, timm_module: str | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Load a checkpoint strictly into a module without head.

    The model is looked for under every prefix of the tensors' names (see `find_state`). A
    positional embedding of another grid first sets the module's input size to that grid, so that
    the checkpoint's own numbers are loaded; the caller then sets the size it wants.

    Args:
        module: A timm ViT after `remove_head`.
        tensors: The checkpoint's tensors, from `read_checkpoint`.
        source: Name of the checkpoint, for errors and remarks.
        timm_module: Python module whose `checkpoint_filter_fn` turns original names into timm's.

    Returns:
        The tensors under the model's prefix, its head's included, and remarks on what was left out.

    Raises:
        BackboneError: Keys or shapes do not match; lists them.
    """
    filter_fn = getattr(sys.modules.get(timm_module or ""), "checkpoint_filter_fn", None)

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(filter_fn(dict(state), module)) if filter_fn else state

    wanted = module.state_dict()
    match = find_state(tensors, wanted, convert=convert if filter_fn else None, source=source)
    _match_grid(module, match.state)
    _check_patch_size(module, match.state, source=source)
    state = convert(match.state)
    left_out = _check_keys_and_shapes(module, state, match=match, tensors=tensors, source=source)
    module.load_state_dict(state, strict=False)  # checked above, except what is left out
    notes: tuple[str, ...] = ()
    if match.others:
        others = ", ".join(map(repr, match.others))
        notes += (f"{source}: took the model under {match.prefix!r}; it is also under {others}",)
    if left_out:
        parts = count_parts(left_out, prefix=match.prefix)
        listed = abbreviate([f"{part} ({n})" for part, n in parts.items()])
        notes += (f"{source}: tensors that are not the model's are left out: {listed}",)
    return match.state, notes


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


def _check_patch_size(module: Any, state: Mapping[str, Tensor], *, source: str) -> None:
    """Raise BackboneError for patches of another size, which timm's converters would resample."""
    key = "patch_embed.proj.weight"
    expected, got = module.state_dict().get(key), state.get(key)
    if expected is None or got is None or got.ndim != 4:
        return
    if expected.shape != got.shape:
        problem = f"{key} (expected {tuple(expected.shape)}, got {tuple(got.shape)})"
        raise _mismatch(source, [f"1 of another shape: {problem}"])


def _check_keys_and_shapes(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    match: StateMatch,
    tensors: Mapping[str, Tensor],
    source: str,
) -> list[str]:
    """Return the checkpoint's tensors that are not the model's, or raise BackboneError."""
    expected = module.state_dict()
    has_fc_norm = any(k.startswith("fc_norm.") for k in expected)
    unused = UNUSED_PREFIXES if has_fc_norm else (*UNUSED_PREFIXES, "fc_norm.")
    own_parts = {k.split(".")[0] for k in expected} | {*TOKEN_PARTS}
    further = [k for k in state if k not in expected and not k.startswith(unused)]
    mismatches = {
        "missing": [k for k in expected if k not in state],
        "unexpected": [k for k in further if k.split(".")[0] in own_parts],
        "of another shape": [
            f"{k} (expected {tuple(v.shape)}, got {tuple(state[k].shape)})"
            for k, v in expected.items()
            if k in state and state[k].shape != v.shape
        ],
    }
    problems = [
        f"{len(keys)} {problem}: {abbreviate(keys)}" for problem, keys in mismatches.items() if keys
    ]
    if mismatches["missing"]:
        place = f" under {match.prefix!r}" if match.prefix else ""
        problems.append(
            f"nearest match: {match.n_found} of {len(expected)} names{place}; the file's top-level "
            f"keys: {abbreviate(sorted(count_parts(tensors)), max_shown=12)}"
        )
    if problems:
        raise _mismatch(source, problems)
    outside = [k for k in tensors if not k.startswith(match.prefix)]
    return outside + [f"{match.prefix}{k}" for k in further]


def _mismatch(source: str, problems: Sequence[str]) -> BackboneError:
    return BackboneError(
        f"{source} does not fit: {'; '.join(problems)}: is it the checkpoint of another model? "
        "(layercache models lists names)"
    )


def abbreviate(keys: Sequence[str], max_shown: int = 6) -> str:
    """Return the first names of a list as text, with the number of the others."""
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

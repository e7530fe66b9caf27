"""One forward of two images that checks the description of a ViT.

Shapes: B = 2 images, N = prefix + P tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layercache.errors import BackboneError, LayercacheError
from layercache.extraction.models.module_paths import hidden_state
from layercache.extraction.models.preprocessing.transform import format_size
from layercache.extraction.models.vit import Block, Place, ViT

IMAGES = 2
MAX_PREFIX = 64
"""Largest number of prefix tokens that is suggested."""


@dataclass
class _Call:
    """Output of a place in one forward."""

    value: Any = None
    fed: Any = None
    """First input of the module."""
    calls: int = 0


def check_forward(vit: ViT, input_size: tuple[int, int], *, name: str) -> ViT:
    """Run two random images; return the ViT with the grid and the widths that they showed.

    Args:
        vit: The model, float32 on the CPU, in evaluation mode. Its grid and widths are ignored.
        input_size: (H, W) of the images.
        name: Name of the model, for errors.

    Raises:
        BackboneError: The forward fails, a block or a place is not run once, its value is no hidden
            state of the expected layout, or two forwards differ.
    """
    images = torch.randn(IMAGES, 3, *input_size, generator=torch.Generator().manual_seed(0))
    calls, again = (_run(vit, images, name=name) for _ in range(2))
    states = []
    for number, block in enumerate(vit.blocks):
        where = f"{name}: {vit.blocks_path}[{number}]"
        state, repeated = (
            _hidden(run[block.output], block.output, vit, where=where, option="block_output=0")
            for run in (calls, again)
        )
        if not torch.equal(state, repeated):
            raise BackboneError(
                f"{where} gives other tokens in another forward of the same images: is there "
                "random masking? The forward must be deterministic in evaluation mode"
            )
        states.append(state)
    shapes = list(dict.fromkeys(tuple(state.shape[1:]) for state in states))
    if len(shapes) > 1:
        raise BackboneError(
            f"{name}: the blocks {vit.blocks_path!r} give (tokens, width) "
            f"{', '.join(map(str, shapes))}: expected one grid of one width in all blocks"
        )
    tokens, width = shapes[0]
    grid = grid_of(tokens, input_size, num_prefix_tokens=vit.num_prefix_tokens, name=name)
    blocks = tuple(
        replace(
            block,
            output=replace(block.output, width=width),
            places=_measure(vit, number, block, calls, tokens=tokens, name=name),
        )
        for number, block in enumerate(vit.blocks)
    )
    return replace(vit, blocks=blocks, width=width, grid_size=grid)


def grid_of(
    tokens: int, input_size: tuple[int, int], *, num_prefix_tokens: int, name: str
) -> tuple[int, int]:
    """Return the grid (h, w) of square patches, from the number N of tokens at an input size.

    Raises:
        BackboneError: N is not prefix + h * w; suggests numbers of prefix tokens that fit.
    """
    grids = dict(_grids(input_size))
    grid = grids.get(tokens - num_prefix_tokens)
    if grid is not None:
        return grid
    fitting = [
        f"{tokens - patches} ({format_size(fit)} patches)"
        for patches, fit in grids.items()
        if 0 <= tokens - patches <= MAX_PREFIX
    ]
    hint = f": expected prefix_tokens {' or '.join(fitting)}" if fitting else ""
    raise BackboneError(
        f"{name}: its blocks have {tokens} tokens of an image of {format_size(input_size)}, which "
        f"are no grid of square patches after {num_prefix_tokens} prefix tokens{hint}"
    )


def _grids(input_size: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Return P -> (h, w) for every square patch that divides an input size."""
    side = math.gcd(*input_size)
    for patch in range(1, side + 1):
        if side % patch == 0:
            grid = (input_size[0] // patch, input_size[1] // patch)
            yield grid[0] * grid[1], grid


def _run(vit: ViT, images: Tensor, *, name: str) -> dict[Place, _Call]:
    places = [place for block in vit.blocks for place in (block.output, *block.places.values())]
    with ExitStack() as stack:
        calls = {place: stack.enter_context(_watch(place)) for place in places}
        try:
            with torch.inference_mode():
                vit.forward(images)
        except LayercacheError:
            raise
        except Exception as e:  # of a model that may be the user's own
            raise BackboneError(
                f"{name}: its forward fails for images {tuple(images.shape)}: "
                f"{type(e).__name__}: {(str(e) or 'no message').splitlines()[0]}"
            ) from e
    return calls


@contextmanager
def _watch(place: Place) -> Iterator[_Call]:
    call = _Call()

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call.calls += 1
        call.fed = args[0] if args else next(iter(kwargs.values()), None)
        call.value = hidden_state(replace(place, index=None), args, kwargs, output)

    handle = place.module.register_forward_hook(keep, with_kwargs=True)
    yield call
    handle.remove()


def _hidden(call: _Call, place: Place, vit: ViT, *, where: str, option: str) -> Tensor:
    """Return the hidden state (B, N, D) of a call, or raise BackboneError.

    `option` of an Encoder names the index of the hidden state in a tuple.
    """
    if call.calls != 1:
        raise BackboneError(
            f"{where} runs {call.calls} times in a forward, expected once"
            + ("" if call.calls else ": a fused path may leave it out")
        )
    value = call.value
    if place.index is not None:
        if not isinstance(value, tuple | list) or place.index >= len(value):
            raise BackboneError(f"{where} returns {_kind(value)}, which has no item {place.index}")
        value = value[place.index]
    elif isinstance(value, tuple | list):
        raise BackboneError(
            f"{where} returns {_kind(value)}, expected the hidden state alone: name its index, as "
            f"in {option}"
        )
    if not isinstance(value, Tensor) or value.ndim != 3:
        got = tuple(value.shape) if isinstance(value, Tensor) else _kind(value)
        raise BackboneError(f"{where}: expected a hidden state (images, tokens, width), got {got}")
    state = value if vit.batch_first else value.transpose(0, 1)
    if state.shape[0] != IMAGES:
        other = value.shape[1 if vit.batch_first else 0] == IMAGES
        raise BackboneError(
            f"{where}: expected (images, tokens, width) with {IMAGES} images, got "
            f"{tuple(state.shape)}"
            + (f": is it tokens first? batch_first={not vit.batch_first}" if other else "")
        )
    return state


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"


def _measure(
    vit: ViT, number: int, block: Block, calls: dict[Place, _Call], *, tokens: int, name: str
) -> dict[str, Place]:
    """Return a block's places with their widths, after checks."""
    places: dict[str, Place] = {}
    for tap, place in block.places.items():
        where = f"{name}: {tap} of {vit.blocks_path}[{number}]"
        state = _hidden(calls[place], place, vit, where=where, option=f"{tap}='PATH[0]'")
        if state.shape[1] != tokens:
            raise BackboneError(f"{where}: expected {tokens} tokens, got {state.shape[1]}")
        places[tap] = replace(place, width=state.shape[2])
    for norm, reader in (("norm1", "attn"), ("norm2", _mlp_reader(block))):
        if norm not in places or reader is None or reader not in places:
            continue
        normed, fed = calls[block.places[norm]].value, calls[block.places[reader]].fed
        if not _is_same(normed, fed):
            raise BackboneError(
                f"{name}: {norm} of {vit.blocks_path}[{number}] is not what its {reader} reads: "
                f"leave {norm} out (a block that normalises after its parts has none)"
            )
    return places


def _mlp_reader(block: Block) -> str | None:
    """Return the place whose module reads what the MLP reads, if it is known.

    The output of an MLP without a module of its own is that of its last layer.
    """
    if "fc1" in block.places:
        return "fc1"
    mlp = block.places.get("mlp")
    return "mlp" if mlp is not None and any(mlp.module.children()) else None


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two values are one hidden state, perhaps with the images second."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.ndim != other.ndim:
        return False
    return any(one.shape == x.shape and torch.equal(one, x) for x in (other, other.transpose(0, 1)))

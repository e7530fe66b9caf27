"""The grid of patches at another input size, if a model can run at it."""

from __future__ import annotations

from layercache.errors import BackboneError
from layercache.extraction.models.preprocessing.options import check_divisible
from layercache.extraction.models.preprocessing.transform import format_size


def grid_at(
    size: tuple[int, int],
    *,
    native_size: tuple[int, int],
    native_grid: tuple[int, int],
    resizable: bool,
    name: str,
    architecture: str,
) -> tuple[int, int]:
    """Return the grid (h, w) of patches at an input size (H, W).

    Args:
        size: The requested input size.
        native_size: Input size (H, W) of the architecture.
        native_grid: Its grid at that size.
        resizable: True if it runs at any multiple of its patches.
        name: Name of the model, for errors.
        architecture: Name of its architecture, for errors.

    Raises:
        BackboneError: The model runs at its own size only.
        OptionError: Its patches do not divide the size.
    """
    if size == native_size:
        return native_grid
    if not resizable:
        raise BackboneError(
            f"{name}: {architecture} cannot run at {format_size(size)}, "
            f"only at {format_size(native_size)}: choose another model"
        )
    patch = [pixels // n for pixels, n in zip(native_size, native_grid, strict=True)]
    check_divisible(size, patch, model=name)
    return size[0] // patch[0], size[1] // patch[1]

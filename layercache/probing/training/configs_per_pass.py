"""Number of configurations that train together in one pass, from the memory that they need."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import torch

from layercache._devices import free_memory
from layercache._units import format_bytes, pluralize
from layercache.probing.heads import HeadSpec, build

logger = logging.getLogger(__name__)

FLOAT_BYTES = 4
MAX_PASS_BYTES = {"cpu": 2**29}
"""Largest size of the configurations of one pass, by device type.

Larger passes are slower on a CPU (benchmarks/group_size.py), take more memory, and have more to
save every few minutes. A GPU needs all the configurations that it can hold to be busy.
"""
ACTIVATION_COPIES = 4
"""Number of copies of one configuration's largest activations that memory is reserved for."""


def activation_row_bytes(spec: HeadSpec) -> int:
    """Return the bytes of the largest activations of one configuration per row of a batch."""
    return FLOAT_BYTES * spec.activation_size


def config_bytes(spec: HeadSpec) -> int:
    """Return the bytes of one configuration: parameters, their two moments and their gradient."""
    parameters = build(spec).init_parameters(torch.Generator())
    return 4 * FLOAT_BYTES * sum(value.numel() for value in parameters.values())


def plan_passes(
    head: HeadSpec,
    n_configs: int,
    *,
    batch_size: int,
    device: torch.device,
    configs_per_pass: int | None,
) -> list[tuple[int, int]]:
    """Return the configurations of each pass as ranges [first, last), and log them if useful.

    Args:
        head: Head to train.
        n_configs: Number of configurations.
        batch_size: Rows of a batch.
        device: Device to train on.
        configs_per_pass: Maximum per pass; None: as many as fit into MAX_PASS_BYTES and half of the
            free memory.
    """
    if configs_per_pass is None:
        each = config_bytes(head)
        activations = ACTIVATION_COPIES * batch_size * activation_row_bytes(head)
        available = free_memory(device) // 2 - activations
        limit = min(available, MAX_PASS_BYTES.get(device.type, available))
        max_configs = max(1, min(n_configs, limit // each))
        reason = f"{format_bytes(each)} each, at most {format_bytes(limit)} together"
        if limit == available:
            reason = (
                f"{format_bytes(each)} each, half of the free memory of {device} is "
                f"{format_bytes(max(available, 0))}"
            )
    else:
        max_configs, reason = configs_per_pass, "as requested"
    bounds = pass_bounds(n_configs, max_configs)
    if n_configs > 1 and (configs_per_pass is None or len(bounds) > 1):
        logger.info("%s", describe_passes(bounds, reason=reason))
    return bounds


def pass_bounds(n_configs: int, max_configs: int) -> list[tuple[int, int]]:
    """Return ranges [first, last) of at most `max_configs` and of nearly equal length."""
    n_passes = -(-n_configs // max_configs)
    return list(itertools.pairwise(n_configs * i // n_passes for i in range(n_passes + 1)))


def describe_passes(bounds: Sequence[tuple[int, int]], *, reason: str) -> str:
    """Return the number and size of passes in words, such as for the log."""
    n_configs = bounds[-1][1]
    largest = max(last - first for first, last in bounds)
    groups = pluralize(len(bounds), "group")
    verb = "trains" if n_configs == 1 else "train"
    return (
        f"{pluralize(n_configs, 'configuration')} {verb} in {groups} of at most {largest} "
        f"({reason})"
    )

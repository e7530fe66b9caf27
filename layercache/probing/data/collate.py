"""From tokens as stored to batches: rows gathered, tokens normalized, noise added.

Shapes: N rows as stored, S tokens of a row, D width, B rows of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layercache.cache.reading.page_aligned import empty_page_aligned
from layercache.cache.storage.threads import in_threads
from layercache.probing.training.config import Noise

NOISE_ELEMENTS = 2**18
"""Normal draws at a time on a CPU: 1 MiB."""
GATHER_ELEMENTS = 2**20
"""Elements that are gathered and normalized at a time on a CPU: 4 MiB, within its last cache."""
NORM_EPS = 1e-12
"""Smallest norm that a token is divided by, as in torch.nn.functional.normalize."""


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], *, device: torch.device) -> torch.Tensor:
    """Return an uninitialized tensor.

    On a CPU numpy allocates it, because numpy asks the kernel for huge pages and torch does not;
    4 KiB pages are expensive to fault in.
    """
    if device.type == "cpu":
        return torch.from_numpy(empty_page_aligned(shape, dtype))
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)


def shuffle(index: torch.Tensor, order: torch.Generator | None) -> torch.Tensor:
    """Return row numbers (B,) in an order that the generator draws, or as they are without one."""
    return index if order is None else index[torch.randperm(len(index), generator=order)]


def gather(x_snd: torch.Tensor, positions: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write the normalized tokens of some rows to `out`.

    On a CPU only a few rows are processed at a time, so that they stay in its cache between the
    gather and the last division.

    Args:
        x_snd: Tokens as stored.
        positions: int64 (B,), positions along N.
        out: float32 (B, S, D).
    """
    n_rows = len(positions)
    if out.device.type == "cpu":
        n_rows = max(1, GATHER_ELEMENTS // out[0].numel())
    buffer = x_snd.new_empty(x_snd.shape[0] * min(n_rows, len(positions)) * x_snd.shape[2])
    for part, x_bsd in zip(torch.split(positions, n_rows), torch.split(out, n_rows), strict=True):
        x_sbd = buffer[: x_bsd.numel()].view(x_snd.shape[0], len(part), x_snd.shape[2])
        normalize(torch.index_select(x_snd, 1, part, out=x_sbd), out=x_bsd)


def normalize(x_sbd: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """Write L2-normalized tokens to `out` and return it; a zero token stays zero.

    Args:
        x_sbd: Tokens as stored.
        out: float32 (B, S, D).
    """
    out.copy_(x_sbd.transpose(0, 1))
    return out.div_(torch.linalg.vector_norm(out, dim=-1, keepdim=True).clamp_min_(NORM_EPS))


def add_noise(
    x_bsd: torch.Tensor,
    noise: Noise,
    generator: torch.Generator,
    *,
    chunk_elements: int = NOISE_ELEMENTS,
) -> None:
    """Add noise in place: N(0, std) to every element of rows selected with a given probability.

    This is the feature noise of arXiv 2601.09322 (training details). On a CPU chunks of rows are
    drawn in several threads, each chunk from a generator of its own (torch draws with one thread):
    the result does not depend on the number of threads.

    Args:
        x_bsd: Normalized tokens.
        noise: Standard deviation and probability.
        generator: Source of randomness.
        chunk_elements: Elements that are drawn at a time on a CPU.
    """
    device = x_bsd.device
    selected = torch.rand(len(x_bsd), generator=generator, device=device) < noise.probability
    rows = selected.nonzero().squeeze(1)

    def add(rows: torch.Tensor, generator: torch.Generator) -> None:
        normal = torch.randn((len(rows), *x_bsd.shape[1:]), generator=generator, device=device)
        x_bsd.index_add_(0, rows, normal, alpha=noise.std)

    if device.type != "cpu":
        add(rows, generator)
        return
    chunks = torch.split(rows, max(1, chunk_elements // x_bsd[0].numel()))
    seeds = torch.randint(2**62, (len(chunks),), generator=generator).tolist()
    in_threads(
        lambda job: add(job[0], torch.Generator().manual_seed(job[1])),
        list(zip(chunks, seeds, strict=True)),
        threads=torch.get_num_threads(),
    )

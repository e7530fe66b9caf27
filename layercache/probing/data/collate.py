"""From tokens as stored to batches: samples gathered, tokens normalised, noise added, all within memory that is taken once.

Shapes: N samples, S tokens of a sample, D width, B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layercache.cache.storage.threads import in_threads
from layercache.probing.training.config import Noise

NOISE_ELEMENTS = 2**18
"""Normal draws at a time on a CPU: 1 MiB."""
CHUNK_ELEMENTS = 2**20
"""Elements that are gathered and normalised at a time on a CPU: 4 MiB, inside its last cache."""


def room(shape: tuple[int, ...], dtype: np.dtype[Any], *, device: torch.device) -> torch.Tensor:
    """Uninitialised memory; numpy asks the kernel for huge pages, torch does not, and small ones are dear to map (a fault each 4 KiB)."""
    host = torch.from_numpy(np.empty(shape if device.type == "cpu" else 0, dtype))
    return host if device.type == "cpu" else torch.empty(shape, dtype=host.dtype, device=device)


def gather(x_snd: torch.Tensor, places: torch.Tensor, *, out: torch.Tensor) -> None:
    """The tokens of some samples, from (S, N, D) as stored to `out` (b, S, D) float32, each of unit length; a zero token stays zero."""
    # on a CPU a few samples at a time, so that between the gather and the last division they stay in its cache
    some = max(1, CHUNK_ELEMENTS // out[0].numel()) if out.device.type == "cpu" else len(places)
    stored = x_snd.new_empty(x_snd.shape[0] * min(some, len(places)) * x_snd.shape[2])
    for part, x in zip(torch.split(places, some), torch.split(out, some), strict=True):
        held = stored[: x.numel()].view(x_snd.shape[0], len(part), x_snd.shape[2])
        normalise(torch.index_select(x_snd, 1, part, out=held), out=x)


def normalise(x_sbd: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """(S, B, D) as stored -> `out` (B, S, D) float32, each token of unit length; a zero token stays zero (eps 1e-12, as torch's F.normalize)."""
    out.copy_(x_sbd.transpose(0, 1))
    return out.div_(torch.linalg.vector_norm(out, dim=-1, keepdim=True).clamp_min_(1e-12))


def add_noise(x_bsd: torch.Tensor, noise: Noise, draw: torch.Generator) -> None:
    """In place: N(0, std) on every element of the samples that are picked, each with its probability (arXiv 2601.09322, training details)."""
    picked = (
        (torch.rand(len(x_bsd), generator=draw, device=x_bsd.device) < noise.probability)
        .nonzero()
        .squeeze(1)
    )

    def add(part: torch.Tensor, draw: torch.Generator) -> None:
        x_bsd.index_add_(
            0,
            part,
            torch.randn((len(part), *x_bsd.shape[1:]), generator=draw, device=x_bsd.device),
            alpha=noise.std,
        )

    if x_bsd.device.type != "cpu":
        add(picked, draw)
        return
    # a few samples at a time, so that the draws stay in the processor's cache, with a generator each: torch draws with one thread alone
    parts = torch.split(picked, max(1, NOISE_ELEMENTS // x_bsd[0].numel()))
    seeds = torch.randint(2**62, (len(parts),), generator=draw).tolist()
    jobs = list(zip(parts, seeds, strict=True))
    in_threads(
        lambda job: add(job[0], torch.Generator().manual_seed(job[1])),
        jobs,
        threads=torch.get_num_threads(),
    )

"""Time the weighted sums of a training step by the size of the blocks in which they are computed.

    python benchmarks/mixing.py [--blocks 2 4 8 16 32] [--repeats 5]

Milliseconds per configuration for the forward and backward of `mix_and_map` without scale: medians,
all block sizes of a shape in turn. As many attention heads as tokens, maps of 2 D / H outputs. The
value in `mixing.BLOCK_BYTES` is chosen by this table.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from machine import describe

from layercache.probing.heads.mixing import mix_and_map
from layercache.probing.training.freed_memory import retain_freed_memory

SHAPES = (
    (24, 96, 46, 63),
    (24, 96, 512, 63),
    (24, 96, 2048, 16),
    (24, 384, 46, 12),
    (24, 384, 512, 8),
    (24, 768, 163, 6),
    (24, 768, 512, 4),
    (24, 768, 2048, 1),
    (48, 1024, 163, 2),
)
"""Tokens, width, rows and configurations."""
MIB = 2**20


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="*", default=[2, 4, 8, 16, 32], help="MiB")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(describe())
    columns = " | ".join(f"{size} MiB" for size in args.blocks)
    print(f"| tokens x width | rows | configurations | {columns} |")
    print("|---|---|---|" + "---|" * len(args.blocks))
    for tokens, width, rows, n_configs in SHAPES:
        n_sums = n_configs * tokens
        x = torch.randn(rows, tokens, width)
        weights = torch.rand(rows, tokens, n_sums, requires_grad=True)
        maps = torch.randn(n_sums, 2 * width // tokens, width, requires_grad=True)
        d_out = torch.randn(n_sums, rows, maps.shape[1])
        times: dict[int, list[float]] = {size: [] for size in args.blocks}
        with retain_freed_memory():
            for _ in range(args.repeats + 1):
                for size in args.blocks:
                    began = time.perf_counter()
                    out = mix_and_map(weights, x, maps, block_bytes=size * MIB)
                    torch.autograd.grad(out, (weights, maps), d_out)
                    times[size].append(time.perf_counter() - began)
        medians = [statistics.median(values[1:]) / n_configs * 1e3 for values in times.values()]
        cells = " | ".join(f"{value:.2f}" for value in medians)
        print(f"| {tokens}x{width} | {rows} | {n_configs} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

"""Time of a training step of the AttentiveHead module, in its fused and in its readable form.

    OMP_NUM_THREADS=1 python benchmarks/heads.py
    python benchmarks/heads.py --device cuda --batch 2048 --tokens 24 --width 768

A step is forward, cross-entropy, backward and AdamW. The two forms take turns; the ratio is that of
neighbouring steps, and the median over the rounds. Processor time is compared on a CPU, because it
depends less on other jobs of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from layercache.heads import AttentiveHead


def make_step(head: AttentiveHead, forward: Callable[..., torch.Tensor]) -> Callable[..., None]:
    """Return a function that takes one training step."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward(x), y).backward()
        optimizer.step()
        if x.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Print the time of a step of both forms, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    x = torch.randn(args.batch, args.tokens, args.width, device=args.device)
    y = torch.arange(args.batch, device=args.device) % args.classes
    steps = {}
    for name in ("forward", "forward_reference"):
        head = AttentiveHead(
            tokens=args.tokens, width=args.width, classes=args.classes, device=args.device
        )
        steps[name] = make_step(head, getattr(head, name))
        steps[name](x, y)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            began = clock()
            step(x, y)
            seconds[name].append(clock() - began)
    fused, reference = seconds["forward"], seconds["forward_reference"]
    ratios = [slow / fast for fast, slow in zip(fused, reference, strict=True)]
    print(f"batch {args.batch}, {args.tokens} tokens of {args.width}, {args.device}")
    print(f"forward            {statistics.median(fused):.3f} s")
    print(f"forward_reference  {statistics.median(reference):.3f} s")
    print(
        f"ratio              {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()

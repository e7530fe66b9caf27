"""Measure what taps and token kinds cost on top of the forward pass.

1. Each kind alone on the hidden state of one block of a ViT-B, over the time of that block; for
   attn also what its hooks add to the block's attention.
2. Whole backbones.

    python benchmarks/tokens.py [--model vit_b16] [--batch 16] [--rounds 15] [--device cuda]

In 2, every backbone returns its tokens of one resident batch of random images, in turn within each
round, with random weights. The cost of a variant is its time over that of cls+ap at the tap norm2,
each the minimum over the rounds. On a CPU all times are processor time, to which other load can
only add.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import timm
import torch
from machine import describe
from timm.models.vision_transformer import Block

from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.pooling import (
    attention_average,
    average_patch,
    patch_max,
    patch_std,
)
from layercache.extraction.models.registry import MODELS
from layercache.extraction.models.sources.timm_attention import TimmClassAttention

BASE = ("norm2", "cls+ap")
VARIANTS = (
    BASE,
    ("act", "cls+ap"),
    ("mlp", "cls+ap"),
    *(("norm2", f"cls+ap+{kind}") for kind in ("std", "max", "attn")),
    ("norm2", "cls+ap+std+max+attn"),
)


def seconds(backbone: Backbone, images: torch.Tensor) -> float:
    """Return the processor time of one forward, on a GPU its wall-clock time."""
    clock = time.perf_counter if images.is_cuda else time.process_time
    began = clock()
    backbone(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - began


def best(function: Callable[[], object], *, rounds: int) -> float:
    """Return the shortest processor time of a call."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def print_kinds(batch: int) -> None:
    """Print the cost of each kind at one layer of a ViT-B, on the CPU."""
    block = Block(768, 12, qkv_bias=True).eval()
    plain, hooked = Block(768, 12, qkv_bias=True).attn, Block(768, 12, qkv_bias=True).attn
    TimmClassAttention(hooked, num_prefix_tokens=1)
    x, weights = torch.randn(batch, 197, 768), torch.full((batch, 196), 1 / 196)
    kinds: dict[str, Callable[[], object]] = {
        "ap": lambda: average_patch(x, 1),
        "std": lambda: patch_std(x, 1),
        "max": lambda: patch_max(x, 1),
        "attn, average": lambda: attention_average(x, 1, weights),
    }
    with torch.inference_mode():
        whole = best(lambda: block(x), rounds=20)
        bare, with_hooks = (
            min(best(lambda m=m: m(x), rounds=15) for _ in range(2)) for m in (plain, hooked)
        )
        print("| kind | time over that of the block (%) |\n|---|---|")
        for kind, function in kinds.items():
            print(f"| {kind} | {100 * best(function, rounds=60) / whole:.2f} |")
        print(f"| attn, hooks | {100 * (with_hooks - bare) / whole:.2f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_b16", choices=list(MODELS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    print(describe())
    print(f"{args.model}, {args.precision}, batch {args.batch}, {torch.get_num_threads()} threads")
    torch.manual_seed(0)
    print_kinds(args.batch)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        module = timm.create_model(MODELS[args.model].architecture, pretrained=False)
        safetensors.torch.save_file(module.state_dict(), weights)
        backbones = {
            (tap, tokens): load_encoder(
                args.model,
                weights=weights,
                tap=tap,  # type: ignore[arg-type]
                tokens=tokens,
                precision=args.precision,
                device=args.device,
            )
            for tap, tokens in VARIANTS
        }
    size = backbones[BASE].preprocessing.input_size
    images = torch.randint(0, 256, (args.batch, 3, *size), dtype=torch.uint8, device=args.device)
    times: dict[tuple[str, str], list[float]] = {variant: [] for variant in VARIANTS}
    for backbone in backbones.values():
        seconds(backbone, images)
    for round_number in range(args.rounds):
        order = VARIANTS if round_number % 2 else VARIANTS[::-1]
        for variant in order:
            times[variant].append(seconds(backbones[variant], images))
    print("| tap | tokens | cost over cls+ap at norm2 (%) | median round (%) |\n|---|---|---|---|")
    for (tap, tokens), values in times.items():
        middle = statistics.median(v / base for v, base in zip(values, times[BASE], strict=True))
        cost = min(values) / min(times[BASE])
        print(f"| {tap} | {tokens} | {100 * (cost - 1):.1f} | {100 * (middle - 1):.1f} |")
    print(describe())


if __name__ == "__main__":
    main()

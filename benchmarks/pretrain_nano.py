"""Pretrain `vit_nano`, the ViT that ships with layercache, from scratch on Fashion-MNIST.

    python benchmarks/pretrain_nano.py DATA_ROOT OUT.safetensors [--epochs 10] [--seed 0]

DATA_ROOT is the folder that torchvision.datasets.FashionMNIST reads. Training is supervised: AdamW,
cosine schedule with warm-up, random flips and small affine transformations. All epochs but the
last two drop half of the patches, which halves their cost. Writes float16 safetensors and prints
the test accuracy of these rounded weights. After a kill, training resumes from OUT.partial.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.datasets import FashionMNIST

from layercache.extraction.models.vit_nano import ARCHITECTURE, create_vit_nano


def load(root: str, train: bool) -> tuple[Tensor, Tensor]:
    """Load images (N, 1, 28, 28) uint8 and labels (N,) int64."""
    source = FashionMNIST(root, train=train)
    return source.data[:, None], source.targets


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, rotate (up to 12 degrees), scale (0.85 to 1.15) and shift (up to 10 %) at random.

    x is (B, 1, 28, 28) in [-1, 1].
    """
    b = len(x)
    uniform = torch.rand(5, b, generator=generator) * 2 - 1
    angle, scale = uniform[0] * math.radians(12), 1 + 0.15 * uniform[1]
    flip = torch.where(uniform[2] > 0, 1.0, -1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    theta = torch.stack(
        [
            torch.stack([flip * cos, -sin, 0.2 * uniform[3]], -1),
            torch.stack([flip * sin, cos, 0.2 * uniform[4]], -1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    # Adding 1 makes the zero padding black.
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def normalise(x: Tensor) -> Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1]."""
    return x.float() / 127.5 - 1


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """Return top-1 accuracy on images (N, 1, 28, 28) uint8, computed in float32."""
    model.eval()
    right = sum(
        (model(normalise(a).expand(-1, 3, -1, -1)).argmax(1) == b).sum().item()
        for a, b in zip(x.split(500), y.split(500), strict=True)
    )
    return right / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root")
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()

    x, y = load(args.root, train=True)
    x_test, y_test = load(args.root, train=False)
    torch.manual_seed(args.seed)
    model = create_vit_nano(drop_path_rate=0.05, patch_drop_rate=0.5)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=args.lr
    )
    steps = len(x) // args.batch_size
    total, warm_up = steps * args.epochs, steps // 2
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: (
            min(1, (s + 1) / warm_up)
            * (0.5 + 0.5 * math.cos(math.pi * max(0, s - warm_up) / (total - warm_up)))
        ),
    )
    partial = args.out.with_suffix(".partial")
    first, seconds = 0, 0.0
    if partial.exists():
        state = torch.load(partial, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first, seconds = state["epoch"] + 1, state["seconds"]

    start = time.monotonic() - seconds
    for epoch in range(first, args.epochs):
        generator = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        torch.manual_seed(args.seed * 1000 + epoch)
        model.train()
        model.patch_drop.prob = 0.5 if epoch < args.epochs - 2 else 0.0
        order, losses = torch.randperm(len(x), generator=generator), []
        for index in order[: steps * args.batch_size].split(args.batch_size):
            batch = augment(normalise(x[index]), generator).expand(-1, 3, -1, -1)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(batch).float(), y[index], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        seconds = time.monotonic() - start
        print(
            f"epoch {epoch + 1}/{args.epochs}  "
            f"loss {torch.stack(losses).mean():.4f}  {seconds:.0f} s",
            flush=True,
        )
        torch.save(
            {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch,
                "seconds": seconds,
            },
            partial,
        )

    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    model.load_state_dict(half)
    record = {
        "architecture": ARCHITECTURE,
        "data": "Fashion-MNIST train (60,000)",
        "seed": args.seed,
        "epochs": args.epochs,
        "seconds": round(seconds),
    }
    record["test_top1"] = round(accuracy(model, x_test, y_test), 4)
    save_file(half, args.out, metadata={"layercache": json.dumps(record), "license": "Apache-2.0"})
    partial.unlink(missing_ok=True)
    print(json.dumps(record))


if __name__ == "__main__":
    main()

"""Measure where spatial tokens help: hybrid and all-token heads against fusion of CLS and AP.

Runs vit_nano on real data that needs no download: `digits`, `photos` and, if --data-root has it,
Fashion-MNIST (--limit training images). Each head searches a small part of the paper's grid over
several seeds. The table gives its number of parameters, and validation as well as test accuracy,
because a larger head can score well in validation and still overfit.

    python benchmarks/hybrid.py [--seeds 3] [--data-root FOLDER --limit 1000] [--device cuda]
"""

from __future__ import annotations

import argparse
import tempfile

from machine import describe

import layercache
from layercache.probing.training.config import TrainConfig, grid

HEADS = (
    ("linear, last CLS", {"head": "linear", "layers": "last", "tokens": "cls"}),
    ("attentive, all CLS+AP", {"head": "attentive", "layers": "all", "tokens": "cls+ap"}),
    ("attentive-tokens, last layer", {"head": "attentive-tokens"}),
    ("hybrid, + grid:2 of last", {"head": "hybrid", "spatial": "grid:2"}),
    ("hybrid, + grid:4 of last", {"head": "hybrid", "spatial": "grid:4"}),
    (
        "hybrid, + grid:4 of mid-last",
        {"head": "hybrid", "spatial": "grid:4", "spatial_layers": "mid-last"},
    ),
    (
        "hybrid, + grid:4 of mid-last, embedding",
        {"head": "hybrid", "spatial": "grid:4", "spatial_layers": "mid-last", "embedding": True},
    ),
    ("hybrid, + all patches of last", {"head": "hybrid", "spatial": "patch"}),
)
CONFIGS = {
    "linear": grid(lr=(1e-1, 1e-2, 1e-3), weight_decay=(1e-4, 1e-1)),
    "attention": grid(lr=(1e-2, 1e-3), weight_decay=(1e-2,), dropout=(0.1,)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--data-root", help="folder with FashionMNIST/raw; without it, Fashion-MNIST is skipped"
    )
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--datasets", default="digits,photos")
    parser.add_argument(
        "--min-steps",
        type=int,
        default=400,
        help="minimum number of optimizer steps per fit; the paper uses 1000",
    )
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    print(
        f"{describe()}\n\n| dataset | head | tokens | parameters "
        f"| test balanced accuracy (%), mean ± std over {args.seeds} seeds "
        "| validation balanced accuracy (%) |"
    )
    print("|---|---|---|---|---|---|")
    train_config = TrainConfig(min_steps=args.min_steps)
    names = [*args.datasets.split(","), *(["fashion_mnist"] if args.data_root else [])]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source = (
                {"data_root": args.data_root, "limit": args.limit}
                if name == "fashion_mnist"
                else {}
            )
            common = {
                "models": ["vit_nano"],
                "dataset": name,
                "cache": folder,
                "device": args.device,
                "progress": False,
                **source,
            }
            (pooled,) = layercache.extract(tokens="cls+ap+grid:2+grid:4", **common)
            (patches,) = layercache.extract(tokens="all", layers="last", **common)
            for label, head in HEADS:
                configs = CONFIGS["linear" if head["head"] == "linear" else "attention"]
                cache = patches.path if head["head"] == "attentive-tokens" else pooled.path
                other_cache = (
                    {"spatial_cache": patches.path} if head.get("spatial") == "patch" else {}
                )
                results = layercache.probe(
                    cache,
                    configs=configs,
                    seeds=args.seeds,
                    train_config=train_config,
                    device=args.device,
                    **head,
                    **other_cache,
                )
                row, shared = results.over_seeds().iloc[0], results.table.iloc[0]
                test = (
                    f"{100 * row['test_balanced_accuracy_mean']:.2f} ± "
                    f"{100 * row['test_balanced_accuracy_std']:.2f}"
                )
                validation = f"{100 * row['val_balanced_accuracy_mean']:.2f}"
                print(
                    f"| {name} | {label} | {shared['n_tokens']} | {shared['n_params']:,} "
                    f"| {test} | {validation} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""Compare our hyperparameter search and training step with plain implementations.

    python benchmarks/probe.py           steps at 24 x 384 and 24 x 768; search times extrapolated
                                         from complete fits
    python benchmarks/probe.py --full    run every fit of every loop
    python benchmarks/probe.py --device cuda

(a) is the loop of the paper's authors: a DataLoader that calls __getitem__ per sample, the textbook
head, one fit after the other. (b) is the same with the obvious fixes: tensors on the device, sliced
permutations. Ours is layercache.probing.training.fit. All three use the same features, batch size,
number of steps, schedule, class weights, noise and gradient clipping.

Lower bound on the cost of a step of the attentive head, in multiply-adds per row and configuration
(S tokens, width D, H heads of length d = 2D/H, C classes). Forward: attention scores H S D,
weighted sums H S D, value projection 2 D D, output projection 2 D D, classifier C D. Backward: the
gradient of each weight costs as much again, and so does the gradient of each input, except for the
scores. Tokens need no gradient, so scores cost 2 H S D in all, weighted sums 2 H S D, and the
projections and the classifier 3 (4 D D + C D). The textbook module forms keys and values: 4 S D D
forward and, since LayerNorm's affine parameters need a gradient, three times that in all.

Lower bound on memory traffic: the weighted sums, H D per row and configuration, are written and
read once in the forward pass and recomputed with their gradients in the backward pass: 6 x 4 H D
bytes. AdamW passes 7 times over each configuration's 8 D D parameters of 4 bytes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe
from benchmarks.one_by_one import accuracy, from_loader, from_slices, one_by_one, textbook
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics import evaluate
from layercache.probing.training.config import HParams, TrainConfig, paper_grid
from layercache.probing.training.config_batch import ConfigBatch
from layercache.probing.training.fit import fit, predict
from layercache.probing.training.freed_memory import retain_freed_memory
from layercache.testing import InMemoryTokens


def search(data: InMemoryTokens, args: argparse.Namespace, *, kind: str, classes: int) -> None:
    """Time the search and the final fit with each loop, and print the table.

    As in the paper: the grid is trained on 80 % of the training rows, then the selected
    configuration on all of them, which is scored on the test rows.
    """
    head = HeadSpec(kind=kind, tokens=data.tokens, width=data.width, classes=classes)
    train_config, configs = (
        TrainConfig(epochs=args.epochs, min_steps=args.min_steps),
        paper_grid(kind),
    )
    cut = np.random.default_rng(0).permutation(data.rows)
    test, val, train = (
        torch.from_numpy(np.sort(part))
        for part in np.split(cut, [data.rows // 5, data.rows // 5 + data.rows * 4 // 25])
    )
    both = torch.cat([val, train]).sort().values
    lines, ours_total = [], 0.0
    chosen: dict[int, HParams] = {}
    tests: list[float] = []
    for seed in range(args.seeds):
        start = clock(args.device)
        fits: list[FittedHead] = fit(
            data,
            head=head,
            configs=configs,
            train=train,
            val=val,
            seed=seed,
            train_config=train_config,
            device=args.device,
            precision=args.precision,
        )
        best = max(
            (f for f in fits if f.val_metrics), key=lambda f: f.val_metrics["balanced_accuracy"]
        )  # type: ignore[index]
        final = fit(
            data,
            head=head,
            configs=[HParams(**best.hparams)],
            train=both,
            val=None,
            seed=seed,
            train_config=train_config,
            device=args.device,
            precision=args.precision,
        )
        ours_total += clock(args.device) - start
        logits = predict(
            final[0], dataset=data, rows=test, device=args.device, precision=args.precision
        )
        tests.append(evaluate(logits.numpy(), data.labels[test].cpu().numpy())["balanced_accuracy"])
        chosen[seed] = HParams(**best.hparams)
    ours = ours_total / args.seeds
    lines.append(("ours", ours, "every fit run", ours, tests, chosen[0]))
    for name, source in (
        ("(a) DataLoader, one by one", from_loader),
        ("(b) sliced, one by one", from_slices),
    ):
        count = len(configs) if args.full else args.fits
        picked = [configs[i] for i in np.linspace(0, len(configs) - 1, count).astype(int)]
        times, scored = [], []
        warm = replace(train_config, epochs=1, min_steps=0)
        one_by_one(source, data, head=head, config=picked[0], rows=train, seed=0, train_config=warm)
        for config in picked:
            start = clock(args.device)
            module = one_by_one(
                source,
                data,
                head=head,
                config=config,
                rows=train,
                seed=0,
                train_config=train_config,
            )
            scored.append((accuracy(module, data, val), config))
            times.append(clock(args.device) - start)
        config = max(scored, key=lambda pair: pair[0])[1] if args.full else chosen[0]
        start = clock(args.device)
        finals = [
            one_by_one(
                source, data, head=head, config=config, rows=both, seed=0, train_config=train_config
            )
        ]
        last = clock(args.device) - start
        finals += [
            one_by_one(
                from_slices,
                data,
                head=head,
                config=chosen[s],
                rows=both,
                seed=s,
                train_config=train_config,
            )
            for s in range(1, args.seeds)
        ]
        # (a) and (b) differ only in speed, so the other seeds use the faster loop, each with the
        # configuration that ours selected for that seed.
        total = statistics.mean(times) * len(configs) + last
        note = (
            "every fit run"
            if args.full
            else f"{len(configs)} x the mean of {count} complete fits + the final fit; "
            "configuration taken from ours"
        )
        lines.append((name, total, note, ours, [accuracy(m, data, test) for m in finals], config))
    print(
        f"\n{kind}: {len(configs)} configurations + final fit, {len(train)} training rows, "
        f"{data.tokens} x {data.width}, {train_config.schedule(len(train))}"
    )
    print(
        "| loop | time (s) | ratio to ours | how measured "
        "| selected: learning rate, weight decay, dropout "
        "| test balanced accuracy, mean ± std over seeds (number of seeds) |\n"
        "|---|---|---|---|---|---|"
    )
    for name, seconds, note, base, scores, config in lines:
        sd = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        words = f"{config.lr:g}, {config.weight_decay:g}, {config.dropout:g}"
        print(
            f"| {name} | {seconds:.1f} | {seconds / base:.1f} | {note} | {words} "
            f"| {statistics.mean(scores):.4f} ± {sd:.4f} ({len(scores)}) |"
        )


def steps(args: argparse.Namespace, *, width: int) -> None:
    """Time a training step of the attentive head with the paper's 24 tokens.

    Compares our step, per configuration, with the textbook module's, and prints the table.
    """
    tokens, rows, classes, count = 24, args.rows, 100, args.configurations
    device = torch.device(args.device)
    head = HeadSpec(kind="attentive", tokens=tokens, width=width, classes=classes)
    x = nn.functional.normalize(torch.randn(rows, tokens, width, device=device), dim=-1)
    y = torch.randint(0, classes, (rows,), device=device)
    mode = "reduce-overhead" if device.type == "cuda" else "default"  # the former uses CUDA graphs

    def plain(*, compiled: bool = False) -> Callable[[], object]:
        module = textbook(head, 0.1).to(device)
        forward = torch.compile(module, mode=mode) if compiled else module
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(forward(x), y).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()

        return step

    def grouped(
        precision: str, configs: list[HParams], *, compiled: bool = False
    ) -> Callable[[], object]:
        config_batch = ConfigBatch(
            head,
            configs,
            seed=0,
            train_config=TrainConfig(),
            steps=10**6,
            class_weights=None,
            device=device,
            precision=precision,
        )
        if compiled:
            config_batch.head.logits = torch.compile(config_batch.head.logits, mode=mode)  # type: ignore[method-assign]

        def step() -> None:
            config_batch.step(x, y, step=0)

        return step

    configs = [replace(s, dropout=0.1) for s in paper_grid("attentive")[:count]]
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "textbook module": (plain(), 1),
        "ours, 1 configuration": (grouped("fp32", configs[:1]), 1),
        f"ours, {count} configurations": (grouped("fp32", configs), count),
        f"ours, {count} configurations, bf16": (grouped("bf16", configs), count),
    }
    if args.compile:
        runs["textbook module, compiled"] = (plain(compiled=True), 1)
        runs[f"ours, {count} configurations, compiled"] = (
            grouped("fp32", configs, compiled=True),
            count,
        )
    times: dict[str, list[float]] = {name: [] for name in runs}
    first: dict[str, float] = {}
    for turn in range(args.repeats + 1):
        for name, (
            run,
            share,
        ) in runs.items():  # in turn, so that background load affects all of them
            with (
                retain_freed_memory()
                if name.startswith("ours") and device.type == "cpu"
                else nullcontext()
            ):  # as in fit
                warm = timed(run, args.device)
                taken = timed(run, args.device)
            first.setdefault(name, warm)
            if turn:
                times[name].append(taken / share)
    s, d = tokens, width
    fused = rows * (4 * tokens * s * d + 3 * (4 * d * d + classes * d))
    plainly = rows * 3 * (4 * s * d * d + 2 * d * d + classes * d)
    square = torch.randn(2048, 2048, device=device)
    peak = (
        2
        * 2048**3
        / statistics.median(timed(lambda: square @ square, args.device) for _ in range(9))
    )
    base = statistics.median(times["textbook module"])
    print(
        f"\ntraining step, {rows} rows, {tokens} x {width}, {classes} classes; "
        f"a square float32 matrix product reaches {peak / 1e9:.0f} GFLOP/s"
    )
    print(
        "minimum memory traffic per configuration: "
        f"{(6 * rows * tokens * width + 56 * width * width) * 4 / 1e6:.0f} MB"
    )
    print(
        "| implementation | time per configuration (ms) | speed-up over textbook | minimum GFLOP "
        "| time at the square product's rate (ms) | first step (s) |\n|---|---|---|---|---|---|"
    )
    for name, values in times.items():
        flop = 2 * (plainly if "textbook" in name else fused)
        ms = statistics.median(values) * 1e3
        print(
            f"| {name} | {ms:.1f} | {base * 1e3 / ms:.1f} | {flop / 1e9:.1f} "
            f"| {flop / peak * 1e3:.0f} | {first[name]:.1f} |"
        )


def clock(device: str) -> float:
    """Return the time in seconds once the device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(run: Callable[[], object], device: str) -> float:
    """Return the seconds that a call takes."""
    start = clock(device)
    run()
    return clock(device) - start


def features(args: argparse.Namespace) -> tuple[InMemoryTokens, int]:
    """Load the tokens of a cache's train split, or generate tokens with class structure.

    Also returns the number of classes.
    """
    if args.cache:
        from layercache.cache.find import open_cache

        cache = open_cache(args.cache)
        split = cache.split("train")
        spec = split.spec
        pairs = tuple(
            (layer, token)
            for layer in spec.layers
            for token in spec.tokens
            if token in ("cls", "ap")
        )
        x = torch.from_numpy(np.asarray(split.read(pairs))).permute(1, 0, 2).float()
        print(
            f"features: {spec.model} on {spec.dataset.name}, {len(pairs)} tokens, {len(x)} rows of "
            "the train split, of which a fifth is the test set"
        )
        return InMemoryTokens(x.contiguous(), torch.from_numpy(np.asarray(split.labels))), len(
            cache.classes
        )
    draw = torch.Generator().manual_seed(0)
    n, s, d, c = args.shape
    labels = torch.randint(0, c, (n,), generator=draw)
    x = torch.randn(n, s, d, generator=draw) + 0.25 * torch.randn(c, s, d, generator=draw)[labels]
    print(
        f"features: synthetic, {n} rows of {s} x {d}, {c} classes, one centre per class and token "
        "plus unit noise (use --cache for real ones)"
    )
    return InMemoryTokens(x, labels), c


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", help="folder of a cache; default: synthetic features")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=4,
        default=[1797, 24, 192, 10],
        metavar=("N", "S", "D", "C"),
        help="rows, tokens, width and classes of the synthetic features",
    )
    parser.add_argument("--heads", nargs="*", default=["linear", "attentive"])
    parser.add_argument("--widths", type=int, nargs="*", default=[384, 768])
    parser.add_argument("--rows", type=int, default=2048, help="batch size of the step timings")
    parser.add_argument(
        "--configurations", type=int, default=8, help="number of configurations in a timed step"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="repeats of each timed step; the median is printed"
    )
    parser.add_argument(
        "--fits", type=int, default=2, help="complete fits from which (a) and (b) are extrapolated"
    )
    parser.add_argument("--full", action="store_true", help="run every fit of (a) and (b)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--min-steps", type=int, default=1000)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also time steps with torch.compile; the first step includes compilation",
    )
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print(describe())
    for width in args.widths:
        steps(args, width=width)
    if args.heads:
        data, classes = features(args)
        data.x, data.labels = data.x.to(args.device), data.labels.to(args.device)
        for kind in args.heads:
            search(data, args, kind=kind, classes=classes)


if __name__ == "__main__":
    main()

"""Compare rules for the share of the spatial branch in a fusion head, on logits of its branches.

    python benchmarks/fusion_share.py record FOLDER --tasks signs,fonts [--seeds 5] [...]
    python benchmarks/fusion_share.py table FOLDER --model clip_b16

`record` trains both branches as probes of their own, each configuration alone (options, tasks,
caches and configurations are those of methods.py), and writes their logits on validation and test
samples, a file for each task and seed, below FOLDER/logits/MODEL (in bf16 MODEL-bf16); what exists
is not trained again.
`table` applies the rules: each sees the validation samples, of both configurations, and is scored
on the test samples. Gains are over the better of both branches by validation, in points of balanced
accuracy; tasks weigh the same.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.heads import BEST, CONFIGS, METHODS
from machine import describe
from methods import REAL_TASKS, extract
from rendered_tasks import TASKS
from scipy.special import log_softmax, ndtr
from sklearn.metrics import balanced_accuracy_score, log_loss

import layercache
from layercache import TrainConfig
from layercache.probing.ensemble.held_out import predict_held_out
from layercache.probing.ensemble.members import load_members
from layercache.probing.heads.fusion import SHARE, SHARES
from layercache.probing.metrics import find_metric
from layercache.probing.training.validation_metrics import best_share

Array = np.ndarray[Any, Any]
BRANCHES = ("alf", "aat")
CLEAR = 1.5
"""Standard errors by which a mix has to be better, for the rule `significant`."""


class Mixes:
    """The mixes of two branches on the samples of one split, for each of SHARES."""

    def __init__(self, layers: Array, spatial: Array, targets: Array) -> None:
        self.targets = targets
        self.logits = [(1 - a) * layers + a * spatial for a in SHARES]
        self.scores = [balanced_accuracy_score(targets, z.argmax(1)) for z in self.logits]
        self.losses = [log_loss(targets, np.exp(log_softmax(z, 1))) for z in self.logits]

    @property
    def better(self) -> int:
        """Number in SHARES of the better branch; of equal ones that of the lower loss."""
        last = len(SHARES) - 1
        return max((0, last), key=lambda i: (self.scores[i], -self.losses[i]))

    def standard_errors(self, share: int, other: int) -> float:
        """Return the difference of two scores divided by the standard error of the pairs."""
        weights = 1 / np.bincount(self.targets)[self.targets]
        weights /= weights.sum()
        right = [self.logits[i].argmax(1) == self.targets for i in (share, other)]
        pairs = right[0].astype(float) - right[1]
        mean = (weights * pairs).sum()
        return float(mean / (np.sqrt((weights**2 * (pairs - mean) ** 2).sum()) + 1e-9))


def highest_score(m: Mixes) -> int:
    """Return the share of the highest score, of equal ones that of the lowest loss."""
    return max(range(len(SHARES)), key=lambda i: (m.scores[i], -m.losses[i]))


def lowest_loss(m: Mixes) -> int:
    """Return the share of the lowest loss."""
    return int(np.argmin(m.losses))


def lowest_loss_no_worse(m: Mixes) -> int:
    """Return the share that the library takes."""
    by_share = [
        {"balanced_accuracy": score, "log_loss": loss}
        for score, loss in zip(m.scores, m.losses, strict=True)
    ]
    return SHARES.index(best_share(by_share, metric=find_metric("balanced_accuracy"))[SHARE])


def significant(m: Mixes) -> int:
    """Return a mix that is better by CLEAR standard errors, or one of branches too close to tell.

    The share of the latter is the normal distribution function of twice the branches' difference.
    """
    last = len(SHARES) - 1
    clear = [i for i in range(1, last) if m.standard_errors(i, m.better) > CLEAR]
    if clear:
        return max(clear, key=lambda i: (m.scores[i], -m.losses[i]))
    mix = round(last * float(ndtr(2 * m.standard_errors(last, 0))))
    return mix if m.scores[mix] >= m.scores[m.better] else m.better


RULES: dict[str, Callable[[Mixes], int]] = {
    "always one half": lambda m: SHARES.index(0.5),
    "highest score": highest_score,
    "lowest loss": lowest_loss,
    "better by 1.5 standard errors": significant,
    "lowest loss, score no less than the better branch": lowest_loss_no_worse,
}


def logits_folder(args: argparse.Namespace) -> Path:
    """Return the folder of the logits of a model in one arithmetic."""
    name = args.model if args.precision == "fp32" else f"{args.model}-{args.precision}"
    folder: Path = args.folder / "logits" / name
    return folder


def record(args: argparse.Namespace) -> None:
    """Train both branches for every task and seed, and write their logits."""
    torch.set_num_threads(1)
    tasks = args.tasks.split(",") if args.tasks else [*REAL_TASKS, *TASKS]
    caches = {task: extract(task, args) for task in tasks}
    train_config = TrainConfig(epochs=args.epochs, min_steps=0, batch=2048)
    for seed in range(args.seeds):
        for task, cache in caches.items():
            path = logits_folder(args) / f"{task}-{seed}.npz"
            if path.exists():
                continue
            began, probes = time.process_time(), {}
            for branch in BRANCHES:
                for number, config in enumerate(CONFIGS["attention"]):
                    (probes[f"{branch}{number}"],) = layercache.probe(
                        cache,
                        configs=[config],
                        seeds=[seed],
                        train_config=train_config,
                        device="cpu",
                        precision=args.precision,
                        **METHODS[branch].options,
                    )
            held_out = predict_held_out(
                load_members([*probes.values()]), device=torch.device("cpu")
            )
            logits: dict[str, Array] = {"yval": held_out.targets}
            for (name, probe), outputs in zip(probes.items(), held_out.outputs, strict=True):
                predictions = probe.predictions()
                logits["ytest"] = predictions.targets
                logits |= {f"{name}_val": outputs, f"{name}_test": predictions.logits}
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **logits)
            print(f"{task} {seed}: {time.process_time() - began:.0f} s", flush=True)


def table(args: argparse.Namespace) -> None:
    """Print the mean gain of each rule, and its least gain on a task."""
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in RULES}
    n_runs = 0
    for path in sorted(logits_folder(args).glob("*.npz")):
        task, _, _ = path.stem.rpartition("-")
        scores = apply_rules(np.load(path))
        n_runs += 1
        for name in RULES:
            gains[name].setdefault(task, []).append(100 * (scores[name] - scores[BEST]))
    print(describe())
    print(f"{args.model}, {n_runs} runs: {', '.join(gains['always one half'])}")
    for name, by_task in gains.items():
        means = [float(np.mean(values)) for values in by_task.values()]
        print(f"{name:50s} {np.mean(means):+6.2f}   least of a task {min(means):+6.2f}")


def apply_rules(logits: Mapping[str, Array]) -> dict[str, float]:
    """Return the test score of each rule, for the configuration that scores best under it."""
    pairs = []
    for number in range(len(CONFIGS["attention"])):
        pairs.append(
            [
                Mixes(*(logits[f"{b}{number}_{split}"] for b in BRANCHES), logits[f"y{split}"])
                for split in ("val", "test")
            ]
        )
    scores = {}
    for name, rule in RULES.items():
        chosen = [(val, test, rule(val)) for val, test in pairs]
        _, test, share = max(chosen, key=lambda c: (c[0].scores[c[2]], -c[0].losses[c[2]]))
        scores[name] = test.scores[share]
    alone = [(val, test, branch) for val, test in pairs for branch in (0, len(SHARES) - 1)]
    _, test, branch = max(alone, key=lambda c: (c[0].scores[c[2]], -c[0].losses[c[2]]))
    scores[BEST] = test.scores[branch]
    return scores


def main() -> None:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("record", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="vit_nano")
    parser.add_argument("--weights", help="checkpoint of the model, if it does not ship with us")
    parser.add_argument("--input-size", type=int, help="pixels, if not the model's own")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--data-root", help="folder with FashionMNIST/raw")
    parser.add_argument("--tasks", help="names of methods.py; default: all")
    parser.add_argument("--train", type=int, default=1000, help="rendered training images")
    parser.add_argument("--test", type=int, default=1000, help="rendered test images")
    parser.add_argument("--limit", type=int, help="largest number of images of a split")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="of at least 5 steps each")
    parser.add_argument("--device", default="cpu", help="of the extraction")
    args = parser.parse_args()
    {"record": record, "table": table}[args.command](args)


if __name__ == "__main__":
    main()

"""Compare heads on tasks of different kinds: fusion of layers, spatial tokens, and both.

Offline: Fashion-MNIST if --data-root has it, `digits` and `photos`, and the six tasks of
rendered_tasks.py, which are synthetic. One cache per model and task holds CLS, AP and every patch
of every layer; all heads are trained from it, with the same configurations, seeds and schedule.

    python benchmarks/methods.py FOLDER [--seeds 5] [--data-root DATA]
    python benchmarks/methods.py FOLDER --model clip_b16 --weights clip.safetensors \
        --input-size 112 --limit 400 --tasks signs,numbers --seeds 3

FOLDER gets the images, the caches with their probes, and MODEL.json with every result. A run that
was stopped continues where it was: what is complete is read. --report only prints the tables.

* `better of both` is ALF or AAT, whichever has the higher validation score, for each seed.
* Gains are paired: both methods on the same test images with the same seeds. The interval is a
  bootstrap over images and seeds (paired_bootstrap.py); tasks are not resampled.
* Seconds are processor time of the whole probe: search, final fit and test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from paired_bootstrap import Outcome, gain
from rendered_tasks import TASKS, write_task

import layercache
from layercache import HParams, PreprocessingOptions, TrainConfig
from layercache.probing.training.config import grid

Array = np.ndarray[Any, Any]
REAL_TASKS = ("fashion_mnist", "digits", "photos")
CONFIGS: dict[str, tuple[HParams, ...]] = {
    "linear": grid(lr=(1e-1, 1e-2, 1e-3), weight_decay=(1e-2,)),
    "attention": grid(lr=(1e-2, 1e-3), weight_decay=(1e-2,), dropout=(0.1,)),
}
"""Everything that is searched, chosen before the first run."""


@dataclass(frozen=True)
class Method:
    """A head on a selection of tokens."""

    title: str
    options: Mapping[str, Any]
    """Options of `layercache.probe`, or the members of `layercache.ensemble`."""
    configs: str = "attention"
    """Key of CONFIGS."""


BRANCHES = ("alf", "aat")
LAYER_TOKENS = {"layers": "all", "tokens": "cls+ap"}
PATCHES = {"layers": "last", "tokens": "all"}
METHODS = {
    "cls": Method(
        "last CLS, linear", {"head": "linear", "layers": "last", "tokens": "cls"}, "linear"
    ),
    "scalar": Method("scalar mix of all layers", {"head": "scalar-mix", **LAYER_TOKENS}, "linear"),
    "alf": Method("ALF: attentive, CLS+AP of all layers", {"head": "attentive", **LAYER_TOKENS}),
    "aat": Method("AAT: attentive, patches of the last", {"head": "attentive-tokens", **PATCHES}),
    "efficient": Method("efficient, CLS+AP of all layers", {"head": "efficient", **LAYER_TOKENS}),
    "efficient-patches": Method("efficient, patches of the last", {"head": "efficient", **PATCHES}),
    "hybrid": Method("hybrid: ALF and patches in one", {"head": "hybrid", "spatial": "patch"}),
    "ensemble": Method("ensemble of ALF and AAT, fitted", {"members": BRANCHES}),
}
BEST, POOL = "better of both", "pool of both"


@dataclass
class Cell:
    """One method on one task with one seed."""

    val: float
    """Balanced accuracy in validation of the selected configuration."""
    test: float
    """Balanced accuracy on the test split."""
    n_params: int
    seconds: float | None
    """Processor time; None if the run was stopped within the probe."""
    probe: str
    """Folder of the probe."""


@dataclass
class Results:
    """What FOLDER/MODEL.json holds."""

    path: Path
    setup: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    """"TASK/METHOD/SEED" -> result."""
    running: str = ""
    """The cell whose probe is being trained; if it is set at the start, the run was stopped."""

    def load(self) -> None:
        """Read the file, if there is one."""
        if self.path.exists():
            data = json.loads(self.path.read_text())
            self.setup, self.running = data["setup"], data["running"]
            self.cells = {key: Cell(**cell) for key, cell in data["cells"].items()}

    def save(self) -> None:
        """Write the file, by way of a temporary one."""
        data = {
            "setup": self.setup,
            "running": self.running,
            "cells": {key: vars(cell) for key, cell in self.cells.items()},
        }
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(data, indent=1))
        os.replace(temporary, self.path)


def extract(task: str, args: argparse.Namespace) -> str:
    """Render the task if it is one of rendered_tasks.py, extract it, return the cache's folder."""
    dataset, options = task, {}
    if task in TASKS:
        folder = args.folder / "rendered"
        if not (folder / task / "test").exists():
            write_task(folder, task, train=args.train, test=args.test)
        dataset = f"folder:{folder / task}"
    elif task == "fashion_mnist":
        options["data_root"] = args.data_root
    if args.limit or task == "fashion_mnist":
        options["limit"] = args.limit or args.train
    if args.input_size:
        options["preprocessing"] = PreprocessingOptions(input_size=(args.input_size,) * 2)
    (done,) = layercache.extract(
        models=args.model,
        weights=args.weights,
        dataset=dataset,
        tokens="ap+all",
        cache=args.folder / "cache",
        device=args.device,
        workers=0,
        batch_size=32,
        progress=False,
        **options,
    )
    return str(done.path)


def train(caches: Mapping[str, str], args: argparse.Namespace, results: Results) -> None:
    """Train every method on every task, seed after seed; save after each probe."""
    train_config = TrainConfig(epochs=args.epochs, min_steps=0, batch=args.batch_size)
    began = time.monotonic()
    for seed, task, name in product(range(args.seeds), caches, args.methods.split(",")):
        key, method = f"{task}/{name}/{seed}", METHODS[name]
        if key in results.cells:
            continue
        if args.stop_after and time.monotonic() - began > args.stop_after:
            print(f"stopped before {key}: the same command continues")
            return
        stopped, results.running = results.running == key, key
        results.save()
        cpu_began = time.process_time()
        if "members" in method.options:
            members = [results.cells[f"{task}/{m}/{seed}"].probe for m in method.options["members"]]
            probe = list(layercache.ensemble(members, device=args.device))[-1]
        else:
            (probe,) = layercache.probe(
                caches[task],
                configs=CONFIGS[method.configs],
                seeds=[seed],
                train_config=train_config,
                device=args.device,
                **method.options,
            )
        results.cells[key] = Cell(
            val=float(probe.row["val_balanced_accuracy"]),
            test=float(probe.row["test_balanced_accuracy"]),
            n_params=int(probe.row["n_params"]),
            seconds=None if stopped else time.process_time() - cpu_began,
            probe=str(probe.path),
        )
        results.running = ""
        results.save()
        print(f"{key}: {100 * results.cells[key].test:.2f}", flush=True)


class Comparison:
    """The stored results as arrays, for the tasks and seeds that all methods have."""

    def __init__(self, results: Results) -> None:
        self.cells = results.cells
        keys = [key.split("/") for key in results.cells]
        self.methods = [name for name in METHODS if any(name == k[1] for k in keys)]
        tasks = dict.fromkeys(k[0] for k in keys)
        self.seeds = {
            task: [
                seed
                for seed in dict.fromkeys(k[2] for k in keys)
                if all(f"{task}/{name}/{seed}" in self.cells for name in self.methods)
            ]
            for task in tasks
        }
        self.seeds = {task: seeds for task, seeds in self.seeds.items() if seeds}
        self.targets: dict[str, Array] = {}
        self._right: dict[tuple[str, str], Array] = {}
        for task in self.seeds:
            self._read(task)

    def _read(self, task: str) -> None:
        """Fill in which test images of a task every method gets right, (S, N) bool."""
        logits: dict[str, list[Array]] = {}
        for name in self.methods:
            read = [
                layercache.load_probe(self.cells[f"{task}/{name}/{seed}"].probe).predictions()
                for seed in self.seeds[task]
            ]
            self.targets[task] = read[0].targets
            logits[name] = [predictions.logits for predictions in read]
        if set(BRANCHES) <= set(self.methods):
            first, second = (logits[name] for name in BRANCHES)
            val = np.array(
                [[self.cells[f"{task}/{b}/{s}"].val for b in BRANCHES] for s in self.seeds[task]]
            )
            pairs = list(zip(first, second, strict=True))
            logits[BEST] = [pair[int(v.argmax())] for pair, v in zip(pairs, val, strict=True)]
            logits[POOL] = [log_softmax(a) + log_softmax(b) for a, b in pairs]
        for name, outputs in logits.items():
            self._right[task, name] = np.stack(outputs).argmax(-1) == self.targets[task]

    @property
    def rows(self) -> list[str]:
        """The methods and what is made of the two branches."""
        return list(dict.fromkeys(name for _, name in self._right))

    def accuracy(self, task: str, name: str) -> Array:
        """Return the balanced accuracy in percent, (S,)."""
        right, targets = self._right[task, name], self.targets[task]
        return 100 * np.mean([right[:, targets == c].mean(1) for c in np.unique(targets)], axis=0)

    def outcomes(self, first: str, second: str) -> list[Outcome]:
        """Return the paired outcomes of two methods on every task."""
        return [
            Outcome(self.targets[t], self._right[t, first], self._right[t, second])
            for t in self.seeds
        ]

    def seconds(self, name: str) -> list[float | None]:
        """Return the processor times of a method, by task and seed."""
        return [self.cells[f"{t}/{name}/{s}"].seconds for t in self.seeds for s in self.seeds[t]]


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities, (N, C)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def report(results: Results) -> None:
    """Print the accuracies, the gains and whether each bar is met."""
    comparison = Comparison(results)
    tasks = list(comparison.seeds)
    if not tasks:
        print("no task has a result of every method yet")
        return
    titles = {name: METHODS[name].title if name in METHODS else name for name in comparison.rows}
    print("\nTest balanced accuracy (%), mean over seeds\n")
    print("| head | parameters | " + " | ".join(tasks) + " | mean |")
    print("|---" * (len(tasks) + 3) + "|")
    for name, title in titles.items():
        values = [comparison.accuracy(task, name).mean() for task in tasks]
        cells = [results.cells[f"{tasks[0]}/{name}/{comparison.seeds[tasks[0]][0]}"]] * (
            name in METHODS
        )
        size = f"{cells[0].n_params:,}" if cells else ""
        columns = " | ".join(f"{value:.2f}" for value in (*values, np.mean(values)))
        print(f"| {title} | {size} | {columns} |")
    print("| seeds | | " + " | ".join(str(len(s)) for s in comparison.seeds.values()) + " | |")
    counts = [len(comparison.targets[task]) for task in tasks]
    print("| test images | | " + " | ".join(map(str, counts)) + " | |")
    print("\nMean gain (points) with its 95 % interval, and processor time over that of ALF\n")
    print(
        "| head | over last CLS | over better of both | lowest task against better of both | time |"
    )
    print("|---|---|---|---|---|")
    for name, title in titles.items():
        print(f"| {title} | {' | '.join(gains(comparison, name, tasks))} |")
    print_bars(comparison, tasks, titles)


def gains(comparison: Comparison, name: str, tasks: list[str]) -> list[str]:
    """Return a row of the table of gains."""
    over_cls = "" if name == "cls" else str(gain(comparison.outcomes(name, "cls")))
    if BEST not in comparison.rows:
        return [over_cls, "", "", ""]
    over_best = "" if name == BEST else str(gain(comparison.outcomes(name, BEST)))
    lowest, task = min(zip(differences(comparison, name, tasks), tasks, strict=True))
    time_ratio = ""
    if name in METHODS and (ratio := ratio_of_times(comparison, name)):
        time_ratio = f"{ratio:.2f}"
    return [over_cls, over_best, f"{lowest:+.2f} ({task})", time_ratio]


def differences(comparison: Comparison, name: str, tasks: list[str]) -> list[float]:
    """Return a method's accuracy less that of the better branch chosen by validation, by task."""
    accuracy: Callable[[str, str], Array] = comparison.accuracy
    return [float((accuracy(t, name) - accuracy(t, BEST)).mean()) for t in tasks]


def ratio_of_times(comparison: Comparison, name: str) -> float | None:
    """Return the median over tasks and seeds of the processor time over ALF's."""
    pairs = zip(comparison.seconds(name), comparison.seconds("alf"), strict=True)
    ratios = [mine / alf for mine, alf in pairs if mine and alf]
    return statistics.median(ratios) if ratios else None


def print_bars(comparison: Comparison, tasks: list[str], titles: Mapping[str, str]) -> None:
    """Print for each head that sees both kinds of token whether it meets the bars."""
    print(
        "\nBars: mean gain at least that of the better of both; no task more than 0.3 points below"
    )
    print("it; at most twice ALF's processor time.\n")
    for name in comparison.rows:
        if name in ("cls", BEST, *BRANCHES) or BEST not in comparison.rows:
            continue
        below = differences(comparison, name, tasks)
        lost = [t for t, d in zip(tasks, below, strict=True) if d < -0.3]
        ratio = ratio_of_times(comparison, name) if name in METHODS else None
        verdicts = [
            f"mean gain {'met' if np.mean(below) >= 0 else 'missed'} ({np.mean(below):+.2f})",
            f"tasks {'met' if not lost else 'missed: ' + ', '.join(lost)}",
            f"time {'met' if ratio <= 2 else 'missed'} ({ratio:.2f})"
            if ratio
            else "time: not taken",
        ]
        print(f"* {titles[name]}: " + "; ".join(verdicts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="vit_nano")
    parser.add_argument("--weights", help="checkpoint of the model, if it does not ship with us")
    parser.add_argument("--input-size", type=int, help="pixels, if not the model's own")
    parser.add_argument("--data-root", help="folder with FashionMNIST/raw")
    parser.add_argument("--tasks", help="default: all, fashion_mnist only with --data-root")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--train", type=int, default=1000, help="rendered training images")
    parser.add_argument("--test", type=int, default=1000, help="rendered test images")
    parser.add_argument("--limit", type=int, help="largest number of images of a split")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="of at least 5 steps each")
    parser.add_argument("--batch-size", type=int, default=2048, help="largest")
    parser.add_argument("--stop-after", type=float, help="seconds; the same command continues")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--report", action="store_true", help="only print what there is")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    results = Results(args.folder / f"{args.model}.json")
    results.load()
    if not args.report:
        named = (*([REAL_TASKS[0]] if args.data_root else []), *REAL_TASKS[1:], *TASKS)
        results.setup = {k: str(v) for k, v in vars(args).items()} | {"machine": describe()}
        tasks = args.tasks.split(",") if args.tasks else named
        train({task: extract(task, args) for task in tasks}, args, results)
    print(describe())
    report(results)


if __name__ == "__main__":
    main()

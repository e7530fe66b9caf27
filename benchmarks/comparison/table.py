"""The tables that methods.py prints: accuracies, paired gains, and whether the bars are met.

Shapes: S seeds, N test images of a task, C classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from comparison.heads import BEST, BRANCHES, METHODS, POOL, Results, base_of, title_of
from comparison.paired_bootstrap import Outcome, gain

import layercache

Array = np.ndarray[Any, Any]
MARGIN = 0.3
"""Points that a head may lose on one task against the better branch, or by compression."""


class Comparison:
    """The stored results as arrays, for the tasks and seeds that all methods have."""

    def __init__(self, results: Results, methods: Sequence[str]) -> None:
        self.cells = results.cells
        keys = [key.split("/") for key in results.cells]
        self.methods = [name for name in methods if any(name == k[1] for k in keys)]
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

    def mean(self, task: str, name: str) -> float:
        """Return the mean over seeds of the balanced accuracy in percent."""
        return float(self.accuracy(task, name).mean())

    def size(self, name: str) -> str:
        """Return the number of parameters of a method on the first task."""
        if name not in self.methods:
            return ""
        task, seeds = next(iter(self.seeds.items()))
        return f"{self.cells[f'{task}/{name}/{seeds[0]}'].n_params:,}"

    def outcomes(self, first: str, second: str) -> list[Outcome]:
        """Return the paired outcomes of two methods on every task."""
        return [
            Outcome(self.targets[t], self._right[t, first], self._right[t, second])
            for t in self.seeds
        ]

    def seconds(self, name: str) -> list[float | None]:
        """Return the processor times by task and seed; an ensemble's include its members'."""
        parts = [name, *METHODS[base_of(name)].options.get("members", ())]
        times: list[float | None] = []
        for task, seeds in self.seeds.items():
            for seed in seeds:
                cells = [self.cells[f"{task}/{part}/{seed}"].seconds for part in parts]
                times.append(None if None in cells else sum(filter(None, cells)))
        return times


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities, (N, C)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def report(results: Results, methods: Sequence[str]) -> None:
    """Print the accuracies, the gains and whether each bar is met.

    Tasks and seeds that lack one of the methods are left out; methods without any result, too.
    """
    comparison = Comparison(results, methods)
    tasks = list(comparison.seeds)
    if not tasks:
        print("no task has a result of every method yet")
        return
    print("\nTest balanced accuracy (%), mean over seeds\n")
    print("| head | parameters | " + " | ".join(tasks) + " | mean |")
    print("|---" * (len(tasks) + 3) + "|")
    for name in comparison.rows:
        values = [comparison.mean(task, name) for task in tasks]
        columns = " | ".join(f"{value:.2f}" for value in (*values, np.mean(values)))
        print(f"| {title_of(name)} | {comparison.size(name)} | {columns} |")
    print("| seeds | | " + " | ".join(str(len(s)) for s in comparison.seeds.values()) + " | |")
    counts = [len(comparison.targets[task]) for task in tasks]
    print("| test images | | " + " | ".join(map(str, counts)) + " | |")
    if BEST not in comparison.rows:
        return
    print(
        "\nMean gain (points) with its 95 % interval; the task that loses most against the better"
    )
    print("branch of that task (in test, which favors the branch); processor time over ALF's\n")
    print("| head | over last CLS | over better of both | lowest | time |\n|---|---|---|---|---|")
    for name in comparison.rows:
        print(f"| {title_of(name)} | {' | '.join(gains(comparison, name))} |")
    print_bars(comparison)


def gains(comparison: Comparison, name: str) -> list[str]:
    """Return a row of the table of gains."""
    over_cls, over_best = (
        str(gain(comparison.outcomes(name, other)))
        if other in comparison.rows and other != name
        else ""
        for other in ("cls", BEST)
    )
    below = losses(comparison, name)
    task = min(below, key=lambda t: below[t])
    ratio = time_ratio(comparison, name)
    return [over_cls, over_best, f"{below[task]:+.2f} ({task})", f"{ratio:.2f}" if ratio else ""]


def losses(comparison: Comparison, name: str) -> dict[str, float]:
    """Return a method's mean accuracy less that of the better branch in test, by task."""
    return {
        task: comparison.mean(task, name) - max(comparison.mean(task, b) for b in BRANCHES)
        for task in comparison.seeds
    }


def time_ratio(comparison: Comparison, name: str) -> float | None:
    """Return the median over tasks and seeds of the processor time over ALF's."""
    if name not in comparison.methods:
        return None
    pairs = zip(comparison.seconds(name), comparison.seconds("alf"), strict=True)
    ratios = [mine / alf for mine, alf in pairs if mine and alf]
    return statistics.median(ratios) if ratios else None


def print_bars(comparison: Comparison) -> None:
    """Print for each head that sees layers and patches, and each compression, what it meets."""
    print(
        "\nBars: mean gain at least that of the better of both; no task more than "
        f"{MARGIN} points\nbelow the better branch; at most twice ALF's processor time. "
        f"Compressed: no more than {MARGIN}\npoints below the same head without compression.\n"
    )
    for name in comparison.rows:
        base, _, store = name.partition("@")
        options = METHODS[base].options if base in METHODS else {}
        if store:
            difference = gain(comparison.outcomes(name, base))
            verdict = "met" if difference.mean >= -MARGIN else "missed"
            print(f"* {title_of(name)}: compression {verdict} ({difference})")
        elif name == POOL or "spatial" in options or "members" in options:
            over_best = gain(comparison.outcomes(name, BEST)).mean
            lost = [t for t, d in losses(comparison, name).items() if d < -MARGIN]
            ratio = time_ratio(comparison, name)
            time = f"{'met' if ratio <= 2 else 'missed'} ({ratio:.2f})" if ratio else "not taken"
            print(
                f"* {title_of(name)}: mean gain {'met' if over_best >= 0 else 'missed'} "
                f"({over_best:+.2f}); tasks {'missed: ' + ', '.join(lost) if lost else 'met'}; "
                f"time {time}"
            )

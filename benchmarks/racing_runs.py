"""Runs of racing.py in one small file, racing_runs.jsonl, so that the evidence of sessions adds up.

Each line is one configuration of one run: name of the run, its epochs and number of configurations,
learning rate, weight decay and dropout rate; [epoch, balanced accuracy, log loss] in validation
after parts of the training; the two after its end; and balanced accuracy in test. Scores have five
digits. Schedules of their own (`record` without --no-short) are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.racing_policies import Config, Run

HPARAMS = ("lr", "weight_decay", "dropout")
METRICS = ("balanced_accuracy", "log_loss")


def write_runs(runs: Iterable[Run], path: Path) -> None:
    """Write runs, one configuration a line."""
    lines = []
    for run in runs:
        for config in run.configs:
            curve = [[epoch, *_scores(metrics)] for epoch, metrics in config.curve.items()]
            values = [config.hparams[name] for name in HPARAMS]
            end = [curve, _scores(config.final), round(config.test, 5)]
            lines.append(json.dumps([run.name, run.epochs, run.n_configs, *values, *end]))
    path.write_text("\n".join(lines) + "\n")


def read_runs(path: Path) -> list[Run]:
    """Return the runs of a file of `write_runs`."""
    runs: dict[str, Run] = {}
    for line in path.read_text().splitlines():
        name, epochs, n_configs, lr, decay, dropout, curve, final, test = json.loads(line)
        run = runs.setdefault(name, Run(name=name, epochs=epochs, configs=[], n_configs=n_configs))
        run.configs.append(
            Config(
                hparams=dict(zip(HPARAMS, (lr, decay, dropout), strict=True)),
                curve={epoch: dict(zip(METRICS, s, strict=True)) for epoch, *s in curve},
                short={},
                final=dict(zip(METRICS, final, strict=True)),
                test=test,
            )
        )
    return list(runs.values())


def _scores(metrics: dict[str, float]) -> list[float]:
    return [float(f"{metrics[name]:.5g}") for name in METRICS]

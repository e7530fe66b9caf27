"""Measure what cheaper searches of the hyperparameters cost in accuracy, against the full one.

    python benchmarks/racing.py record RECORDS CACHE ... [--seeds 0,1,2,3,4 --rows 288]
    python benchmarks/racing.py collect RECORDS [benchmarks/racing_runs.jsonl]
    python benchmarks/racing.py table RECORDS | benchmarks/racing_runs.jsonl
    python benchmarks/racing.py clock CACHE [--rows 288]
    python benchmarks/racing.py halve RECORDS CACHE ... [--seeds 0,1,2,3,4 --rows 288]
    python benchmarks/racing.py rungs RECORDS

`record` trains the whole grid of the attentive head once per seed, evaluates all configurations
after parts of the epochs, and tests them at the end; then it trains them again with a cosine
schedule of its own over a ninth and over a third of the epochs. Each run is a file below RECORDS;
what exists is not run again. `collect` adds the runs to a small file that is kept with the code.
`table` replays the policies on these records: the regret of a policy is the score of the
configuration that the full search selects, minus that of the one that the policy selects, both
trained on the same 80 % of the training samples. Intervals are bootstrap intervals of the mean over
runs. `clock` runs the searches of the library one after another, with the final fit and the test,
and prints the processor time of each.

`halve` runs searches by halving: in float32; with rungs in bfloat16, whose survivors continue in
float32; and, as a control, in float32 with fewer configurations together, which rounds differently.
The configuration that each selects is then trained in float32 from the start, and tested. `rungs`
compares them, also with the full search where `record` has run it with the same arguments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe
from benchmarks.racing_policies import (
    POLICIES,
    Config,
    Run,
    best,
)
from benchmarks.racing_runs import read_runs, write_runs
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.probing.api import probe
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.metrics import evaluate
from layercache.probing.plan import plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.search.best_config import rank_configs, summarize
from layercache.probing.search.strategies import SEARCHES, current_stage
from layercache.probing.splits.train_subset import sample_subset
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit, predict
from layercache.probing.training.search_memory import SearchMemory
from layercache.probing.training.trainer import SGDTrainer

PARTS = (1 / 27, 1 / 18, 1 / 9, 1 / 6, 2 / 9, 1 / 3, 1 / 2, 2 / 3)
"""Parts of the epochs after which all configurations are evaluated."""
RUNS = Path(__file__).with_name("racing_runs.jsonl")
"""The runs that are kept."""
HALVINGS: dict[str, tuple[str, int | None]] = {
    "fp32": ("fp32", None),
    "bf16": ("bf16", None),
    "fp32-groups": ("fp32", 7),
}
"""Name of a search by halving -> precision of its rungs, and configurations trained together."""
SHORT = {"ninth": 1 / 9, "third": 1 / 3}
"""Name of a run with a cosine of its own -> part of the epochs."""


class Task:
    """The search of one cache, seed and choice of layers."""

    def __init__(self, args: argparse.Namespace, cache: Cache, seed: int) -> None:
        """Read the tokens."""
        config = TrainConfig(min_steps=args.min_steps)
        request = ProbeRequest(
            head=args.head,
            layers=args.layers,
            train_fraction=_fraction(cache, args.rows),
            seeds=[seed],
            train_config=config,
        )
        (self.spec,) = plan_probes(cache, request)
        splits = [cache.split(name) for name in self.spec.train_splits]
        self.subset = sample_subset(self.spec, *splits)
        loader = DatasetLoader(
            device=torch.device("cpu"), mode="auto", memory_budget=None, disk_budget=None
        )
        spec = self.spec
        self.train = loader.train(
            spec.tokens, *spec.train_splits, rows=self.subset.rows, target=spec.target
        )
        self.test = loader.test(spec.tokens, spec.test_split, target=spec.target)
        name = f"{cache.spec.dataset.name}-{cache.spec.model}-{args.layers}"
        rows = f"-{args.rows}" if args.rows else ""
        self.folder: Path = args.records / f"{name}{rows}-{args.min_steps}-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def search(
        self,
        name: str,
        *,
        part: float = 1.0,
        parts: Sequence[float] = (),
        tested: bool = False,
    ) -> None:
        """Train the grid on the first fold and write its scores."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return
        fold = self.subset.fold(0)
        config, schedule = self.spec.train_config, self.spec.train_config.schedule(len(fold.train))
        epochs = max(1, round(schedule.epochs * part))
        if part < 1:
            config = TrainConfig(epochs=epochs, min_steps=0)
        began, cpu = time.perf_counter(), time.process_time()
        heads = fit(
            self.train,
            head=self.spec.head_spec,
            configs=[HParams(**hparams) for hparams in self.spec.grid],
            train=torch.from_numpy(fold.train),
            val=torch.from_numpy(fold.val),
            seed=self.spec.seed,
            train_config=config,
            keep_parameters=tested,
            val_epochs=[max(1, round(epochs * p)) for p in parts],
        )
        seconds = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        configs = [
            {
                "hparams": dict(head.hparams),
                "diverged": head.diverged,
                "curve": [[epoch, dict(values)] for epoch, values in head.val_curve],
                "val": head.val_metrics and dict(head.val_metrics),
                "losses": list(head.losses),
                "test": self._test(head) if tested and not head.diverged else None,
            }
            for head in heads
        ]
        values = {
            "machine": describe(),
            "train_rows": len(fold.train),
            "shape": [self.train.tokens, self.train.width],
            "epochs": epochs,
            "steps": epochs * schedule.steps_per_epoch,
            "seconds": seconds,
            "configs": configs,
        }
        _write(path, values)
        print(
            f"{path}: {seconds['wall']:.0f} s, {seconds['cpu']:.0f} s of processor time", flush=True
        )

    def halve(self, name: str, *, precision: str, configs_per_pass: int | None) -> None:
        """Search by halving, and test the selected configuration.

        Args:
            name: Name of the search.
            precision: That of all stages but the last; the last one and the final fit run in fp32.
            configs_per_pass: Configurations trained together; None: as many as the library would.
        """
        path = self.folder / f"halving-{name}.json"
        if path.exists():
            return
        fold, spec = self.subset.fold(0), replace(self.spec, search="halving")
        epochs = spec.train_config.schedule(len(fold.train)).epochs
        trainer = SGDTrainer(
            head=spec.head_spec,
            config=spec.train_config,
            seed=spec.seed,
            device=torch.device("cpu"),
            precision=precision,
            configs_per_pass=configs_per_pass,
            on_progress=None,
            memory=SearchMemory(),
        )
        scores: list[ConfigScore] = []
        stages: list[dict[str, Any]] = []
        while not stages or stages[-1]["stop_epoch"]:
            stage = current_stage(spec, scores, n_folds=1, epochs=epochs)
            if stage.stop_epoch is None:
                trainer = replace(trainer, precision="fp32")
            began, of_stage = time.process_time(), []
            trainer.score(
                self.train,
                stage.configs,
                train=fold.train,
                val=fold.val,
                fold=0,
                on_scores=of_stage.extend,
                stop_epoch=stage.stop_epoch,
            )
            ranking = rank_configs(spec, summarize(spec, of_stage, grid=stage.configs))
            stages.append(
                {
                    "stop_epoch": stage.stop_epoch,
                    "seconds": time.process_time() - began,
                    "ranking": [[dict(c.hparams), dict(c.val_metrics or {})] for c in ranking],
                }
            )
            scores += of_stage
        (head,) = fit(
            self.train,
            head=spec.head_spec,
            configs=[HParams.from_dict(stages[-1]["ranking"][0][0])],
            train=torch.from_numpy(fold.train),
            val=torch.from_numpy(fold.val),
            seed=spec.seed,
            train_config=spec.train_config,
        )
        seconds = sum(stage["seconds"] for stage in stages)
        values = {"machine": describe(), "train_rows": len(fold.train), "stages": stages}
        _write(path, values | {"val": head.val_metrics, "test": self._test(head)})
        print(f"{path}: {seconds:.0f} s of processor time", flush=True)

    def _test(self, head: Any) -> dict[str, float]:
        logits = predict(head, dataset=self.test, rows=torch.arange(self.test.rows))
        return evaluate(logits.numpy(), self.test.labels.numpy(), task=self.spec.head_spec.task)


def _write(path: Path, values: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values))
    temporary.rename(path)


def iter_tasks(args: argparse.Namespace) -> Iterator[Task]:
    """Yield a task for each seed and cache, until the time is over."""
    deadline = time.monotonic() + args.stop_after
    for seed, cache in itertools.product(args.seeds, args.caches):
        if time.monotonic() > deadline:
            print("stopped; the same command continues")
            return
        yield Task(args, cache, seed)


def record(args: argparse.Namespace) -> None:
    """Record the searches of every seed."""
    for task in iter_tasks(args):
        task.search("long", parts=PARTS, tested=True)
        if args.short:
            for name, part in SHORT.items():
                task.search(name, part=part)


def halve(args: argparse.Namespace) -> None:
    """Record searches by halving, with rungs in float32 and in bfloat16."""
    for task in iter_tasks(args):
        for name in args.searches:
            precision, configs_per_pass = HALVINGS[name]
            task.halve(name, precision=precision, configs_per_pass=configs_per_pass)


def rungs(args: argparse.Namespace) -> None:
    """Print what rungs in bfloat16 save and what they cost in accuracy."""
    columns: dict[str, list[float]] = {}
    for folder in sorted(path.parent for path in args.records.glob("*/halving-fp32.json")):
        searches = {
            name: json.loads((folder / f"halving-{name}.json").read_text())
            for name in HALVINGS
            if (folder / f"halving-{name}.json").exists()
        }
        values: dict[str, float] = {}
        for name, search in searches.items():
            if name != "fp32":
                values |= {f"{name}: {k}": v for k, v in compare_searches(searches["fp32"], search)}
        if (folder / "long.json").exists():
            winner = best(read_run(folder).configs)[0]
            full = {"val": winner.final, "test": {"balanced_accuracy": winner.test}}
            for name, kind in itertools.product(searches, ("val", "test")):
                key = f"{name}: regret in {kind} against full (points)"
                values[key] = regret(full, searches[name], kind)
        print(f"{folder.name}: " + ", ".join(f"{k} {v:.2f}" for k, v in values.items()))
        for key, value in values.items():
            columns.setdefault(key, []).append(value)
    print("\n| | runs | mean (95 % interval) |\n|---|---|---|")
    for key, numbers in sorted(columns.items()):
        print(f"| {key} | {len(numbers)} | {interval(numbers)} |")


def compare_searches(
    reference: dict[str, Any], other: dict[str, Any]
) -> Iterator[tuple[str, float]]:
    """Yield what two searches by halving differ in, by name."""
    runs = (reference, other)
    before, whole = (
        [sum(stage["seconds"] for stage in run["stages"][:end]) for run in runs]
        for end in (-1, None)
    )
    yield "processor time of the rungs (ratio)", before[1] / before[0]
    yield "processor time of the search (ratio)", whole[1] / whole[0]
    stages = zip(reference["stages"], other["stages"], strict=True)
    for number, pair in enumerate(stages):
        rankings = [[tuple(hparams.values()) for hparams, _ in s["ranking"]] for s in pair]
        if number:
            shared = len(set(rankings[0]) & set(rankings[1]))
            yield f"same survivors of rung {number} (%)", 100 * shared / len(rankings[0])
        else:
            places = [rankings[1].index(config) for config in rankings[0]]
            correlation = np.corrcoef(range(len(places)), places)[0, 1]
            yield "rank correlation at rung 1", float(correlation)
    selected = [run["stages"][-1]["ranking"][0][0] for run in runs]
    yield "same choice (%)", 100.0 * (selected[0] == selected[1])
    for kind in ("val", "test"):
        yield f"regret in {kind} against fp32 (points)", regret(reference, other, kind)


def regret(better: dict[str, Any], other: dict[str, Any], kind: str) -> float:
    """Return the difference of two balanced accuracies in points; `kind` is val or test."""
    metric = "balanced_accuracy"
    return float(100 * (better[kind][metric] - other[kind][metric]))


def read_run(folder: Path) -> Run:
    """Read the records of one cache and seed."""
    long = json.loads((folder / "long.json").read_text())
    short = {
        part: json.loads((folder / f"{name}.json").read_text())["configs"]
        for name, part in SHORT.items()
        if (folder / f"{name}.json").exists()
    }
    configs = [
        Config(
            hparams=record["hparams"],
            curve=dict(record["curve"]),
            short={part: records[i]["val"] for part, records in short.items()},
            final=record["val"],
            test=record["test"]["balanced_accuracy"],
        )
        for i, record in enumerate(long["configs"])
        if not record["diverged"] and not any(records[i]["diverged"] for records in short.values())
    ]
    return Run(
        name=folder.name,
        epochs=long["epochs"],
        configs=configs,
        n_configs=len(long["configs"]),
    )


def read_records(records: Path) -> list[Run]:
    """Return the runs of a folder of records, or of a file of `collect`."""
    if records.is_file():
        return read_runs(records)
    return [read_run(path.parent) for path in sorted(records.glob("*/long.json"))]


def collect(args: argparse.Namespace) -> None:
    """Add the runs of a folder to the file, in place of those of the same name."""
    runs = {run.name: run for run in read_runs(args.file)} if args.file.exists() else {}
    new = read_records(args.records)
    runs |= {run.name: run for run in new}
    write_runs(runs.values(), args.file)
    print(f"{args.file}: {len(new)} runs added or replaced, {len(runs)} in all")


def interval(values: Sequence[float]) -> str:
    """Return the mean and its bootstrap interval."""
    sample = np.array(values)
    draws = np.random.default_rng(0).integers(0, len(sample), (10_000, len(sample)))
    low, high = np.percentile(sample[draws].mean(axis=1), [2.5, 97.5])
    return f"{sample.mean():.2f} ({low:.2f} to {high:.2f})"


def table(args: argparse.Namespace) -> None:
    """Print the regret and the cost of every policy."""
    runs = [run for run in read_records(args.records) if args.only in run.name]
    print(f"{len(runs)} runs: {', '.join(run.name for run in runs)}\n")
    print(
        "| search | fits | share | same choice | regret in validation (points) "
        "| regret in test (points) |\n|---|---|---|---|---|---|"
    )
    for name, policy in POLICIES.items():
        usable = [r for r in runs if "own" not in name or all(c.short for c in r.configs)]
        if not usable:
            continue
        fits, same, val, test = [], [], [], []
        for run in usable:
            configs, cost = policy(run)
            chosen, winner = best(configs)[0], best(run.configs)[0]
            fits.append(cost)
            same.append(chosen == winner)
            metric = "balanced_accuracy"
            val.append(100 * (winner.final[metric] - chosen.final[metric]))
            test.append(100 * (winner.test - chosen.test))
        share = np.mean(fits) / np.mean([run.n_configs for run in usable])
        print(
            f"| {name} | {np.mean(fits):.1f} | {100 * share:.0f} % "
            f"| {sum(same)} of {len(usable)} | {interval(val)} | {interval(test)} |"
        )


def clock(args: argparse.Namespace) -> None:
    """Print the processor time of every search of one probe."""
    print(f"{describe()}\n\n| search | processor time (s) | share |\n|---|---|---|")
    full = 0.0
    for search in SEARCHES:
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            probe(
                args.cache,
                head=args.head,
                layers=args.layers,
                train_fraction=_fraction(args.cache, args.rows),
                train_config=TrainConfig(epochs=args.epochs, min_steps=args.min_steps),
                search=search,
                probes_root=folder,
                device="cpu",
            )
            seconds = time.process_time() - began
        full = full or seconds
        print(f"| {search} | {seconds:.1f} | {100 * seconds / full:.0f} % |", flush=True)


def _fraction(cache: Cache, rows: int | None) -> float | None:
    return min(1.0, rows / cache.split("train").rows) if rows else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for run in (record, halve):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument("records", type=Path)
        command.add_argument(
            "caches", nargs="+", metavar="CACHE", type=lambda path: open_cache(path)
        )
        command.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[0])
        command.add_argument("--layers", default="all")
        command.add_argument("--head", default="attentive")
        command.add_argument("--rows", type=int, help="training samples; default: all")
        command.add_argument(
            "--stop-after",
            type=float,
            default=float("inf"),
            help="seconds after which no run begins",
        )
        command.add_argument("--min-steps", type=int, default=1000)
        if run is record:
            command.add_argument("--no-short", dest="short", action="store_false")
        else:
            command.add_argument(
                "--searches", nargs="*", default=list(HALVINGS), choices=list(HALVINGS)
            )
    command = commands.add_parser("rungs")
    command.set_defaults(run=rungs)
    command.add_argument("records", type=Path)
    command = commands.add_parser("collect")
    command.set_defaults(run=collect)
    command.add_argument("records", type=Path)
    command.add_argument("file", type=Path, nargs="?", default=RUNS)
    command = commands.add_parser("table")
    command.set_defaults(run=table)
    command.add_argument("records", type=Path)
    command.add_argument("--only", default="", help="part of the names of the runs")
    command = commands.add_parser("clock")
    command.set_defaults(run=clock)
    command.add_argument("cache", type=lambda path: open_cache(path))
    command.add_argument("--layers", default="all")
    command.add_argument("--head", default="attentive")
    command.add_argument("--rows", type=int, help="training samples; default: all")
    command.add_argument("--epochs", type=int, default=40)
    command.add_argument("--min-steps", type=int, default=1000)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

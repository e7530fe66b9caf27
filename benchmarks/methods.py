"""Compare heads on tasks of different kinds: fusion of layers, spatial tokens, and both.

Offline: Fashion-MNIST if --data-root has it, `digits` and `photos`, and the six tasks of
rendered_tasks.py, which are synthetic. One cache per model and task holds CLS, AP and every patch
of every layer; all heads are trained from it, with the same configurations, seeds and schedule.

    python benchmarks/methods.py FOLDER [--seeds 5] [--data-root DATA]
    python benchmarks/methods.py FOLDER --model clip_b16 --weights clip.safetensors
                                 --input-size 112 --limit 300 [--seeds 3] [--tasks signs,numbers]

FOLDER gets the images, the caches with their probes, and MODEL.json with every result. A run that
was stopped continues where it was: what is complete is read. --report only prints the tables, of
the tasks and seeds that have a result of each of --methods. NAME@STORE, as in patches@int8, has
the patches in a compressed cache.

* `better of both` is ALF or AAT, whichever has the higher validation score, for each seed.
* Gains are paired: both methods on the same test images with the same seeds. The interval is a
  bootstrap over images and seeds (paired_bootstrap.py); tasks are not resampled.
* Seconds are processor time of the whole probe: search, final fit and test.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from comparison.heads import CONFIGS, METHODS, Cell, Results, base_of
from comparison.table import report
from machine import describe
from rendered_tasks import TASKS, write_task

import layercache
from layercache import PreprocessingOptions, TrainConfig

REAL_TASKS = ("fashion_mnist", "digits", "photos")


def extract(task: str, args: argparse.Namespace, *, store: str | None = None) -> str:
    """Return the cache of a task, or that of its compressed patches; render and extract it first.

    Args:
        task: Name of a dataset, or of a task of rendered_tasks.py.
        args: Options of this script.
        store: Compression of the patches of the last layer, as in `layercache.extract`.
    """
    dataset, options = task, {}
    if store is None:
        options["tokens"] = "ap+all"
    else:
        options |= {"spatial": "patch", "spatial_layers": "last", "store": store}
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
    done = layercache.extract(
        models=args.model,
        weights=args.weights,
        dataset=dataset,
        cache=args.folder / "cache",
        device=args.device,
        workers=0,
        batch_size=32,
        precision=args.precision,
        progress=False,
        **options,
    )
    return str(done[-1].path)


def train(caches: Mapping[str, str], args: argparse.Namespace, results: Results) -> None:
    """Train every method on every task, seed after seed; save after each probe."""
    train_config = TrainConfig(epochs=args.epochs, min_steps=0, batch=args.batch_size)
    began = time.monotonic()
    for seed, task, name in product(range(args.seeds), caches, args.methods.split(",")):
        key, method = f"{task}/{name}/{seed}", METHODS[base_of(name)]
        if key in results.cells:
            continue
        if args.stop_after and time.monotonic() - began > args.stop_after:
            print(f"stopped before {key}: the same command continues")
            return
        stopped, results.running = results.running == key, key
        results.save()
        cache, options = caches[task], dict(method.options)
        if store := name.partition("@")[2]:
            compressed = extract(task, args, store=store)
            if "spatial" in options:
                options["spatial_cache"] = compressed
            else:
                cache = compressed
        cpu_began = time.process_time()
        if "members" in options:
            members = [results.cells[f"{task}/{m}/{seed}"].probe for m in options["members"]]
            probe = list(layercache.ensemble(members, device=args.device))[-1]
        else:
            (probe,) = layercache.probe(
                cache,
                configs=CONFIGS[method.configs],
                seeds=[seed],
                train_config=train_config,
                device=args.device,
                precision=args.precision,
                **options,
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


def check_setup(earlier: Mapping[str, str], args: argparse.Namespace) -> None:
    """Exit if results of other data or arithmetic would stand beside the new ones in one table."""
    for name in ("precision", "input_size", "limit", "train", "test", "epochs", "batch_size"):
        if name in earlier and earlier[name] != str(getattr(args, name)):
            option = name.replace("_", "-")
            raise SystemExit(
                f"{args.folder} has results with --{option} {earlier[name]}: give the same, or "
                "another folder"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="vit_nano")
    parser.add_argument("--weights", help="checkpoint of the model, if it does not ship with us")
    parser.add_argument("--input-size", type=int, help="pixels, if not the model's own")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
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
        check_setup(results.setup, args)
        results.setup = {k: str(v) for k, v in vars(args).items()} | {"machine": describe()}
        tasks = args.tasks.split(",") if args.tasks else named
        train({task: extract(task, args) for task in tasks}, args, results)
    print(describe())
    report(results, args.methods.split(","))


if __name__ == "__main__":
    main()

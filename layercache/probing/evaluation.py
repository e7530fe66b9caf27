"""One probe from beginning to end: score the settings on held-out training samples, choose, train on all, test once, keep.

Shapes: N samples, S tokens, C classes, H attention heads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layercache.cache.format.spec import digest_ids, sha256_json
from layercache.errors import ProbeError
from layercache.probing.data.loader import Loader
from layercache.probing.data.resident import TokenDataset
from layercache.probing.data.splits import Fold, Rows, check_labels, folds, subset
from layercache.probing.heads import build
from layercache.probing.metrics import (
    balanced_accuracy,
    bootstrap,
    evaluate,
    mean_average_precision,
    selection_metric,
)
from layercache.probing.results.checkpoint import FittedHead
from layercache.probing.results.probe_store import Predictions, Probe, ProbeFolder
from layercache.probing.spec import BASELINES, ProbeSpec
from layercache.probing.training.trainer import ConfigScore, ProbeTrainer, Say, Trained

TEST_BATCH = 2048
REPEATS = 1000
REPEATS_MULTI_LABEL = 200
"""Bootstrap draws; a mean average precision takes far longer than a balanced accuracy."""

Setting = Mapping[str, float]
Row = dict[str, Any]
Key = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainSubset:
    """What of a training split a cell sees."""

    keep: Rows
    """Ascending rows of the split."""
    folds: Sequence[Fold]
    """Of the kept rows: positions within `keep`."""
    empty: Sequence[str]
    """Classes without a training sample."""


def sample_subset(cell: ProbeSpec, loader: Loader, say: Say) -> TrainSubset:
    """The samples and folds of a cell, from its labels alone. Raises ProbeError where the labels allow no probe."""
    split = loader.split(cell.tokens.cache, cell.train)
    classes = cell.tokens.cache.spec.dataset.classes
    where = f"{cell.tokens.cache.path}, split {cell.train!r}"
    check_labels(split.labels, classes, where=where)
    keep = subset(split.labels, shots=cell.shots, fraction=cell.fraction, seed=cell.seed)
    labels = split.labels[keep]
    counts = check_labels(labels, classes, where=where)
    empty = [classes[c] for c in np.flatnonzero(counts == 0)]
    parts = folds(labels, np.arange(len(keep)), shots=cell.shots, seed=cell.seed)
    if empty:
        shown = ", ".join(empty[:8]) + (f" and {len(empty) - 8} more" if len(empty) > 8 else "")
        say(
            f"{len(empty)} of {len(classes)} classes have no training sample and get weight 0: {shown}"
        )
    for fold in parts[:1]:
        seen = (
            check_labels(labels[fold.val], classes, where=where)
            if len(np.unique(labels[fold.val], axis=0)) > 1
            else counts * 0
        )
        if lacking := int(((counts > 0) & (seen == 0)).sum()):
            say(
                f"{lacking} of {len(classes)} classes have too few samples for the validation part; it scores the others"
            )
    return TrainSubset(keep=keep, folds=parts, empty=empty)


def refit_and_test(
    cell: ProbeSpec,
    scores: Sequence[ConfigScore],
    *,
    spent: float,
    drawn: TrainSubset,
    folder: ProbeFolder,
    loader: Loader,
    method: ProbeTrainer,
) -> Probe:
    """Choose, train on all training samples, test, keep. The test split is opened only when the chosen head is trained.

    spent: seconds of the search. Raises ProbeError where every setting diverged.
    """
    started = time.perf_counter()
    features = loader.train(cell.tokens, cell.train, keep=drawn.keep)
    settings = summarise(cell, scores)
    chosen, trained = _refit(cell, settings, features, method)
    predictions, metrics = _test(cell, trained, loader)
    row = _identity(cell) | {
        **{name: chosen.get(name) for name in ("lr", "weight_decay", "dropout")},
        "setting": ", ".join(f"{name}={chosen[name]:g}" for name in _names(cell))
        if cell.head in BASELINES
        else "",
        **{
            f"val_{name}": chosen.get(f"val_{name}")
            for name in ("balanced_accuracy", "top1", "map")
        },
        **metrics,
        "parameters": 0 if trained.parameters is None else _learned(trained),
        **{name: getattr(trained, name) for name in ("epochs", "batch", "steps")},
        "settings": len(settings),
        "diverged": sum(bool(setting["diverged"]) for setting in settings),
        "folds": len(drawn.folds),
        "train_rows": features.rows,
        "test_rows": len(predictions.targets),
        "empty_classes": ",".join(drawn.empty),
        "seconds": round(spent + time.perf_counter() - started, 2),
        "device": str(loader.device) if cell.head not in BASELINES else "cpu",
        "features": features.mode,
    }
    head = None
    if trained.parameters is not None and trained.shape is not None:
        head = _saved(cell, trained, {name: chosen[name] for name in _names(cell)})
    return folder.finish(
        spec=cell.spec, row=row, settings=settings, head=head, predictions=predictions
    )


def summarise(cell: ProbeSpec, scores: Sequence[ConfigScore]) -> list[Row]:
    """Every setting of the grid with the mean of its scores over the folds, in the order of the grid."""
    found: list[Row] = []
    for setting in cell.grid:
        mine = sorted(
            (score for score in scores if key_of(score.setting) == key_of(setting)),
            key=lambda score: score.fold,
        )
        diverged = any(score.diverged or score.val is None for score in mine)
        row: Row = {
            **setting,
            "diverged": diverged,
            "epochs": max((s.epochs for s in mine if s.epochs is not None), default=None),
        }
        if mine and not diverged:
            names = mine[0].val or {}
            row |= {
                f"val_{name}": float(
                    np.mean([score.val[name] for score in mine if score.val is not None])
                )
                for name in names
            }
        found.append(row)
    return found


def rank_configs(cell: ProbeSpec, settings: Sequence[Row]) -> list[Row]:
    """Settings that can be chosen, best first: by validation balanced accuracy (mAP for multi-label); of equal ones the first in the grid.

    Without scores (1 shot) the middle of the grid, then the rest. Raises ProbeError where all have diverged.
    """
    usable = [setting for setting in settings if not setting["diverged"]]
    if not usable:
        raise ProbeError(
            f"all {len(settings)} settings of the {cell.head} head diverged (loss or gradient not finite): "
            "try smaller values of --lr; with --precision bf16, try fp32"
        )
    metric = f"val_{selection_metric(multi_label=cell.shape.multi_label)}"
    if metric in usable[0]:
        return sorted(usable, key=lambda setting: -setting[metric])
    centre = default_config(cell)
    return sorted(
        usable,
        key=lambda setting: (
            key_of({name: setting[name] for name in _names(cell)}) != key_of(centre)
        ),
    )


def default_config(cell: ProbeSpec) -> Setting:
    """The setting whose every value is the middle of its list; for a knn baseline the fewest neighbours, as a class may have one sample only."""
    if cell.head == "knn":
        return min(cell.grid, key=lambda setting: setting["k"])
    values = {name: sorted({setting[name] for setting in cell.grid}) for name in _names(cell)}
    wanted = {name: found[len(found) // 2] for name, found in values.items()}
    return (
        wanted
        if key_of(wanted) in {key_of(setting) for setting in cell.grid}
        else cell.grid[len(cell.grid) // 2]
    )


def _refit(
    cell: ProbeSpec, settings: list[Row], features: TokenDataset, method: ProbeTrainer
) -> tuple[Row, Trained]:
    """The best setting trained on all training samples; where that diverges, though the search did not, the next best."""
    for chosen in rank_configs(cell, settings):
        setting = {name: chosen[name] for name in _names(cell)}
        trained = method.train(
            features, setting, rows=np.arange(features.rows), epochs=chosen["epochs"]
        )
        if not trained.diverged:
            return chosen, trained
        chosen["diverged"] = True
    raise ProbeError(
        f"every setting of the {cell.head} head diverged when trained on all training samples: try smaller values of --lr"
    )


def _test(cell: ProbeSpec, trained: Trained, loader: Loader) -> tuple[Predictions, Row]:
    """Logits, and metrics with a bootstrap interval over the test samples; heads with attention also get its mean and deviation."""
    split = loader.split(cell.tokens.cache, cell.test)
    if not split.rows:
        raise ProbeError(f"{cell.tokens.cache.path}: split {cell.test!r} has no samples to test on")
    features = loader.test(cell.tokens, cell.test)
    head = _saved(cell, trained, {}) if trained.parameters is not None else None
    attends = head is not None and head.spec.heads > 0
    logits, total, squares = [], torch.zeros(()), torch.zeros(())
    for x, _ in features.epoch(np.arange(features.rows), batch=TEST_BATCH, train=False):
        if head is None:
            assert trained.logits is not None
            logits.append(trained.logits(x))
            continue
        logits.append(head.predict(x).cpu().numpy())
        if attends:
            weights = head.attention(x).double()
            total, squares = total + weights.sum(0).cpu(), squares + weights.square().sum(0).cpu()
    n, said = features.rows, np.concatenate(logits).astype(np.float32)
    mean = total / n
    std = (squares / n - mean.square()).clamp_min(0).sqrt()
    targets = split.labels
    predictions = Predictions(
        logits=said,
        targets=targets,
        ids=digest_ids(split.ids),
        attention_mean=mean.float().numpy() if attends else None,
        attention_std=std.float().numpy() if attends else None,
    )
    return predictions, _metrics(said, targets, multi_label=cell.shape.multi_label)


def _metrics(
    logits: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], *, multi_label: bool
) -> Row:
    found = evaluate(logits, targets, multi_label=multi_label)
    if multi_label:
        low, high = bootstrap(
            lambda rows: mean_average_precision(logits[rows], targets[rows]),
            len(targets),
            repeats=REPEATS_MULTI_LABEL,
        )
    else:
        named = logits.argmax(1)
        low, high = bootstrap(
            lambda rows: balanced_accuracy(named[rows], targets[rows]),
            len(targets),
            repeats=REPEATS,
        )
    row = {f"test_{name}": found.get(name) for name in ("balanced_accuracy", "top1", "top5", "map")}
    return row | {"test_ci_low": low, "test_ci_high": high}


def _saved(cell: ProbeSpec, trained: Trained, setting: Setting) -> FittedHead:
    assert trained.parameters is not None
    assert trained.shape is not None
    return FittedHead(
        name=cell.head,
        spec=trained.shape,
        parameters=trained.parameters,
        origin=cell.origin,
        setting=setting,
        seed=cell.seed,
    )


def _learned(trained: Trained) -> int:
    """Numbers that were trained: running statistics are none."""
    assert trained.parameters is not None
    assert trained.shape is not None
    head = build(trained.shape)
    names = set(head.initial(torch.Generator())) - set(head.buffers)
    return sum(p.numel() for name, p in trained.parameters.items() if name in names)


def _identity(cell: ProbeSpec) -> Row:
    """The columns that say which probe a row is."""
    spec = cell.tokens.cache.spec
    return {
        "probe": cell.id,
        "model": spec.model,
        "dataset": spec.dataset.name,
        "head": cell.head,
        "layers": cell.tokens.layers,
        "tokens": cell.tokens.kinds,
        "spatial": cell.tokens.spatial,
        "n_tokens": cell.shape.tokens,
        "heads": cell.shape.heads,
        "embedding": cell.shape.groups is not None,
        "seed": cell.seed,
        "shots": cell.shots,
        "fraction": cell.fraction,
        "precision": cell.spec["precision"],
        "fingerprint": spec.fingerprint[:12],
        "weights": spec.weights[:12],
        "data": sha256_json(spec.to_json()["dataset"])[:12],
        "tap": spec.tap,
        "protocol": sha256_json(cell.spec["protocol"])[:12],
        "grid": sha256_json(cell.spec["grid"])[:12],
    }


def _names(cell: ProbeSpec) -> tuple[str, ...]:
    return tuple(cell.grid[0])


def key_of(setting: Setting) -> Key:
    """A setting as a key, whatever the order of its names."""
    return tuple(sorted((name, float(value)) for name, value in setting.items()))

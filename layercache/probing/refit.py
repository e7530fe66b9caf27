"""Refit and test of the selected configuration, and the row of the probe in the results table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from layercache.cache.format.cache_spec import sha256_json
from layercache.errors import ProbeError
from layercache.probing.data.dataset import LabelledTokens
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.head_evaluation import stored_metrics, test_head
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.fusion import SHARE
from layercache.probing.results.config_score import ConfigScore, config_columns
from layercache.probing.results.encoder_attention import MODEL_MARK
from layercache.probing.results.head_checkpoint import Checkpoint
from layercache.probing.results.learning_curves import LearningCurves
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.search.best_config import Search, rank_final, summarize
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.stratified_split import Rows
from layercache.probing.splits.train_subset import TrainSubset
from layercache.probing.training.trainer import FittedModel, ProbeTrainer

Row = dict[str, Any]


def refit_and_test(
    spec: ProbeSpec,
    scores: Sequence[ConfigScore],
    *,
    search_seconds: float,
    subset: TrainSubset,
    folder: ProbeFolder,
    loader: DatasetLoader,
    trainer: ProbeTrainer,
) -> str:
    """Select a configuration, train it on all training samples, test it once and write the probe.

    The test samples are read only after the selected head is trained.

    Args:
        spec: The probe.
        scores: Scores of all configurations on all folds.
        search_seconds: Duration of the search.
        subset: Training samples and folds.
        folder: Folder to write the probe to.
        loader: Source of the tokens.
        trainer: Trains the head.

    Returns:
        The checksum of the probe's record.

    Raises:
        ProbeError: All configurations diverged.
    """
    started = time.perf_counter()
    dataset = loader.train(spec.tokens, *spec.train_splits, rows=subset.rows, target=spec.target)
    configs = summarize(spec, scores)
    selected, model = refit(spec, configs, dataset, trainer, rows=subset.refit_rows)
    tested = test_head(spec, model, loader, train=dataset, train_rows=subset.refit_rows)
    head = model if isinstance(model, FittedHead) else None
    val_metrics = selected.val_metrics or {}
    row = _identity(spec) | {
        **config_columns(selected.hparams, share=val_metrics.get(SHARE)),
        "spatial_share": val_metrics.get(SHARE),
        **{f"val_{name}": val_metrics.get(name) for name in stored_metrics(spec)},
        **{name: value for test in tested for name, value in test.row.items()},
        "n_params": head.n_params if head else 0,
        "epochs": head.epochs if head else None,
        "batch_size": head.batch_size if head else None,
        "steps": head.steps if head else None,
        "n_configs": len(spec.grid),
        "configs_per_pass": max(
            (c.configs_per_pass for c in configs if c.configs_per_pass is not None), default=None
        ),
        "n_diverged": sum(config.diverged for config in configs),
        "converged": head.converged if head else None,
        "n_folds": subset.n_folds,
        "train_rows": len(subset.refit_rows),
        "val_rows": subset.n_val_rows,
        "empty_classes": ",".join(subset.empty_classes),
        "train_seconds": round(search_seconds + time.perf_counter() - started, 2),
        "device": str(loader.device),
        "features": dataset.mode,
    }
    return folder.write(
        spec=spec.to_json(),
        row=row,
        configs=configs,
        head=Checkpoint.of(head, name=spec.head, provenance=spec.provenance) if head else None,
        predictions=[test.predictions for test in tested],
        curves=LearningCurves.of(spec.grid, scores, final_loss=head.losses)
        if head and head.losses
        else None,
    )


def refit(
    search: Search,
    configs: list[ConfigScore],
    dataset: LabelledTokens,
    trainer: ProbeTrainer,
    *,
    rows: Rows | None = None,
) -> tuple[ConfigScore, FittedModel]:
    """Return the best configuration and its model, trained on these rows of the dataset.

    Configurations that the search dropped are not considered. If one diverges only here, it is
    marked in `configs`, and the next best one is trained.

    Raises:
        ProbeError: All configurations diverged.
    """
    if rows is None:
        rows = np.arange(dataset.rows)
    finished = [config for config in configs if config.stop_epoch is None]
    for config in rank_final(search, finished):
        model = train_selected(trainer, dataset, config, rows=rows)
        if not model.diverged:
            return config, model
        configs[configs.index(config)] = replace(config, diverged=True)
    raise ProbeError(
        f"all configurations of the {search.head} head diverged when trained on all training "
        "samples: try smaller values of lr"
    )


def train_selected(
    trainer: ProbeTrainer, dataset: LabelledTokens, config: ConfigScore, *, rows: Rows
) -> FittedModel:
    """Return the model of a selected configuration, trained on these rows of the dataset.

    A fusion head gets the share of its spatial branch that the search has chosen.
    """
    return trainer.train(
        dataset,
        config.hparams,
        rows=rows,
        epochs=config.epochs,
        spatial_share=(config.val_metrics or {}).get(SHARE),
    )


def _identity(spec: ProbeSpec) -> Row:
    """Return the columns that identify the probe of a row."""
    cache_spec, spec_json = spec.tokens.cache.spec, spec.to_json()
    models = [name for name, _ in spec.tokens.encoders or ((cache_spec.model, 0),)]
    return {
        "probe": spec.id,
        "model": MODEL_MARK.join(models),
        "dataset": cache_spec.dataset.name,
        "head": spec.head,
        "layers": spec.tokens.layers,
        "tokens": spec.tokens.kinds,
        "spatial": spec.tokens.spatial,
        "n_tokens": spec.head_spec.tokens,
        "num_heads": spec.head_spec.num_heads,
        "embedding": spec.head_spec.embedding_ids is not None,
        "gate": spec.head_spec.gate,
        **({"join": _describe_join(spec)} if spec.tokens.joined else {}),
        "seed": spec.seed,
        "shots": spec.shots,
        "train_fraction": spec.train_fraction,
        "precision": spec_json["precision"],
        "fingerprint": cache_spec.fingerprint[:12],
        "weights_digest": cache_spec.weights[:12],
        "dataset_digest": sha256_json(cache_spec.to_json()["dataset"])[:12],
        "tap": cache_spec.tap,
        "train_config_digest": sha256_json(spec_json["train_config"])[:12],
        "grid_digest": sha256_json(spec_json["grid"])[:12],
    }


def _describe_join(spec: ProbeSpec) -> str:
    """Return how the tokens of joined encoders get one width: "map 768" or "pad 768"."""
    kind = "pad" if spec.head_spec.encoder_widths is None else "map"
    return f"{kind} {spec.head_spec.width}"

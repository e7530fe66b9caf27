"""Search over a grid and refit, on arrays: what `layercache.probe` does with a cache.

Shapes: N samples, G configurations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from layercache.probing.data.arrays import ArrayTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics.registry import PRIMARY, Metric, find_metric
from layercache.probing.refit import refit
from layercache.probing.results.config_score import (
    ConfigScore,
    config_key,
    is_pair,
    training_key,
)
from layercache.probing.search.best_config import summarize
from layercache.probing.search.strategies import current_stage
from layercache.probing.splits.stratified_split import folds
from layercache.probing.targets.target import stratify
from layercache.probing.training.config import TrainConfig
from layercache.probing.training.search_memory import SearchMemory
from layercache.probing.training.trainer import SGDTrainer

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class GridSearch:
    """A search over a grid of configurations of one head."""

    head_spec: HeadSpec
    """Kind and shape of the head."""
    grid: Sequence[Mapping[str, float]]
    """Configurations to select from."""
    train_config: TrainConfig
    """Schedule, batch size, noise and loss."""
    seed: int
    """Seed of the validation part, initial parameters, batch order and noise."""
    device: torch.device
    """Device to train on."""
    precision: str
    """Arithmetic of the products over tokens, fp32 or bf16."""
    configs_per_pass: int | None
    """Configurations trained together; None: as many as memory holds."""
    select: str | None
    """Metric of the selection; None: the usual one of the task."""
    paper_compat: bool = False
    """Ties go to the first configuration, as in the authors' code."""
    search: str = "full"
    """Which configurations are trained, and how far: full, halving or coordinate."""

    @property
    def head(self) -> str:
        """Name of the head."""
        return self.head_spec.kind

    @property
    def selection_metric(self) -> Metric:
        """Metric by which a configuration is selected."""
        return find_metric(self.select or PRIMARY[self.head_spec.task])

    def run(
        self, x_nsd: Array, targets: Array, *, sample_weight: Array | None = None
    ) -> SearchOutcome:
        """Score every configuration on a stratified fifth of the samples, and train the best.

        Args:
            x_nsd: Tokens, float16 or float32.
            targets: int64 (N,), uint8 (N, C), or float64 (N, C) of a regression.
            sample_weight: Positive weights in the training loss, (N,), or None.

        Raises:
            ProbeError: There are too few samples, or all configurations diverged.
        """
        rows = np.arange(len(targets))
        strata = stratify(targets, task=self.head_spec.task)
        (fold,) = folds(strata, rows, shots=None, seed=self.seed)
        dataset = ArrayTokens(x_nsd, targets, device=self.device)
        trainer = SGDTrainer(
            head=self.head_spec,
            config=self.train_config,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            configs_per_pass=self.configs_per_pass,
            on_progress=None,
            select=self.select,
            sample_weight=None if sample_weight is None else torch.from_numpy(sample_weight),
            memory=SearchMemory(),
        )
        search, scores = self, list[ConfigScore]()
        epochs = self.train_config.schedule(len(fold.train)).epochs
        while True:
            stage = current_stage(search, scores, n_folds=1, epochs=epochs)
            known = {(score.training, score.stop_epoch) for score in scores}
            missing = [c for c in stage.configs if (training_key(c), stage.stop_epoch) not in known]
            if not missing:
                break
            trainer.score(
                dataset,
                missing,
                train=fold.train,
                val=fold.val,
                fold=0,
                on_scores=scores.extend,
                stop_epoch=stage.stop_epoch,
            )
            search = search._with_defined_metric(scores)
        configs = summarize(search, scores)
        best, head = refit(search, configs, dataset, trainer)
        assert isinstance(head, FittedHead)
        metric = search.selection_metric
        finished = {
            config.key: (config.val_metrics or {}).get(metric.name, np.nan)
            for config in configs
            if config.stop_epoch is None
        }
        pairs = [config.hparams for config in configs if is_pair(config.hparams)]
        hparams = [*self.grid, *pairs]
        return SearchOutcome(
            head=head,
            hparams=hparams,
            scores=np.array([finished.get(config_key(h), np.nan) for h in hparams]),
            sign=metric.sign,
            best=next(i for i, h in enumerate(hparams) if config_key(h) == best.key),
        )

    def _with_defined_metric(self, configs: Sequence[ConfigScore]) -> GridSearch:
        """Return a search by RMSE if the few targets of the validation part are all equal."""
        undefined = not any(
            self.selection_metric.name in (config.val_metrics or {}) for config in configs
        )
        if self.select is not None or not self.head_spec.regression or not undefined:
            return self
        logger.warning(
            "the targets of the validation samples are all equal, so that R2 is not defined: "
            "configurations are compared by their RMSE"
        )
        return replace(self, select="rmse")


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchOutcome:
    """The trained head, and the validation score of every configuration."""

    head: FittedHead
    """Trained on all samples with the selected configuration."""
    hparams: Sequence[Mapping[str, float]]
    """The configurations in the order of the grid; at last the pair of a fusion head, if it has one
    configuration for each branch, with names such as "spatial_lr"."""
    scores: Array
    """Validation score of each, float64 (G,); NaN if it diverged or was not trained to the end."""
    sign: float
    """1 if higher scores are better, -1 if lower ones are."""
    best: int
    """Index of the selected configuration."""

    def cv_results(self) -> dict[str, Any]:
        """Return the scores with the keys that scikit-learn's GridSearchCV uses."""
        diverged = np.isnan(self.scores)
        rank = rankdata(np.where(diverged, np.inf, -self.sign * self.scores), method="min")
        names = list(self.hparams[-1])
        return {
            **{
                f"param_{name}": np.array([h.get(name, np.nan) for h in self.hparams])
                for name in names
            },
            "params": [dict(hparams) for hparams in self.hparams],
            "split0_test_score": self.scores.copy(),
            "mean_test_score": self.scores.copy(),
            "std_test_score": np.where(diverged, np.nan, 0.0),
            "rank_test_score": rank.astype(np.int32),
        }

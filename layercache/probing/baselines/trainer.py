"""Trains baselines: one fit for all configurations, scored without epochs.

Shapes: N samples, C classes or columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from layercache.probing.baselines.fitting import fit_model, iter_features
from layercache.probing.baselines.leave_one_out_model import LeaveOneOutModel
from layercache.probing.baselines.models import LinearModel, Model
from layercache.probing.baselines.neighbors import NeighborClassifier, NeighborModel
from layercache.probing.data.dataset import LabelledTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics import evaluate
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.splits.stratified_split import Rows
from layercache.probing.training.trainer import FittedModel, ProgressCallback, ScoreCallback

OUTPUT_BYTES = 2**30
"""Outputs of several configurations on the validation samples that are in memory at a time."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineTrainer:
    """Trains one of the baselines, see `ProbeTrainer`."""

    name: str
    """knn, logreg, ridge or lda."""
    head: HeadSpec
    """A linear head on the same tokens."""
    seed: int
    """Recorded in the head; the baselines draw nothing at random."""
    select: str | None = None
    """One more metric to score by."""
    on_progress: ProgressCallback | None
    """Called after every configuration."""
    leave_one_out: bool = False
    """Score every row by the model of all others."""

    def score(
        self,
        dataset: LabelledTokens,
        configs: Sequence[Mapping[str, float]],
        *,
        train: Rows,
        val: Rows,
        fold: int,
        on_scores: ScoreCallback,
        stop_epoch: int | None = None,
    ) -> None:
        """See ProbeTrainer. Fits all configurations at once, without epochs."""
        left_out: LeaveOneOutModel | None = None
        if self.leave_one_out:
            left_out = LeaveOneOutModel(self.name, dataset, rows=val, head=self.head)
        else:
            model = fit_model(self.name, dataset, configs, rows=train, head=self.head)
        labels = dataset.labels.cpu().numpy()[val]
        together = max(1, OUTPUT_BYTES // (4 * max(1, len(val)) * self.head.classes))
        for start in range(0, len(configs), together):
            part = configs[start : start + together]
            outputs: Iterable[Array]
            if left_out is not None:
                outputs = (values.cpu().numpy() for values in left_out.outputs(part))
            else:
                outputs = _outputs(model, dataset, part, rows=val)
            for i, (hparams, values) in enumerate(zip(part, outputs, strict=True)):
                metrics = evaluate(values, labels, task=self.head.task, select=self.select)
                on_scores([ConfigScore(hparams=hparams, fold=fold, val_metrics=metrics)])
                if self.on_progress:
                    self.on_progress(start + i + 1, len(configs))

    def train(
        self,
        dataset: LabelledTokens,
        hparams: Mapping[str, float],
        *,
        rows: Rows,
        epochs: int | None,
        spatial_share: float | None = None,
    ) -> FittedModel:
        """See ProbeTrainer. Returns all but knn as the linear heads that they are."""
        model = fit_model(self.name, dataset, [hparams], rows=rows, head=self.head)
        if isinstance(model, NeighborModel):
            return NeighborClassifier(model, hparams)
        weight, bias, converged = cast(LinearModel, model).linear(hparams)
        return FittedHead(
            spec=self.head,
            state_dict={
                "classifier.weight": weight.float().cpu().contiguous(),
                "classifier.bias": bias.float().cpu().contiguous(),
            },
            hparams=hparams,
            seed=self.seed,
            converged=converged,
        )


def _outputs(
    model: Model, dataset: LabelledTokens, configs: Sequence[Mapping[str, float]], *, rows: Rows
) -> Iterator[Array]:
    """Yield the outputs (N, C) of each configuration on all rows, float32."""
    parts: list[list[Array]] = [[] for _ in configs]
    for x in iter_features(dataset, rows):
        for part, outputs in zip(parts, model.outputs(x, configs), strict=True):
            part.append(outputs.float().cpu().numpy())
    for part in parts:
        yield np.concatenate(part)

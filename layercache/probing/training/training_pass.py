"""Configurations that train together: one pass over the tokens per epoch serves all of them.

Shapes: C classes, G configurations, N rows to evaluate on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.spec import CLASSIFICATION, LAYERS, REGRESSION, SPATIAL
from layercache.probing.metrics import PRIMARY, find_metric
from layercache.probing.targets.standardize import Standardization
from layercache.probing.training.class_weights import balanced_class_weights
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.config_batch import ConfigBatch
from layercache.probing.training.schedule import Schedule
from layercache.probing.training.search_memory import PausedConfig, TrainedBranches
from layercache.probing.training.token_loader import TokenLoader
from layercache.probing.training.validation_metrics import branch_score, validate


@dataclass(frozen=True)
class _Snapshot:
    """A configuration at the end of its training, or at its best epoch so far."""

    state: dict[str, Tensor]
    metrics: dict[str, float] | None
    epochs: int


class TrainingPass:
    """The training of G configurations, from which those that diverge or stop early are removed.

    `state_dict` is all that the rest of the training depends on: loaded into a new pass of the same
    arguments, it ends with the same numbers. Only a streamed dataset may differ: its order within
    an epoch depends on the memory that it is given.
    """

    def __init__(
        self,
        dataset: TokenLoader,
        *,
        head: HeadSpec,
        configs: Sequence[HParams],
        train: Tensor,
        val: Tensor | None,
        seed: int,
        train_config: TrainConfig,
        schedule: Schedule,
        device: torch.device,
        precision: str,
        keep_parameters: bool,
        select: str | None = None,
        sample_weight: Tensor | None = None,
        val_epochs: Collection[int] = (),
        stop_epoch: int | None = None,
    ) -> None:
        """Draw the initial parameters; for the arguments see `fit`."""
        self.configs, self.schedule = tuple(configs), schedule
        self.step = 0
        """Steps taken."""
        self._dataset, self._train, self._val = dataset, train, val
        self.epochs = min(stop_epoch or schedule.epochs, schedule.epochs)
        """Epochs to train; the learning rate follows the whole schedule."""
        self._seed, self._train_config = seed, train_config
        self._token_groups = head.token_groups
        self._keep_parameters, self._val_epochs = keep_parameters, frozenset(val_epochs)
        self._select = find_metric(select or PRIMARY[head.task])
        labels = dataset.labels[train.to(dataset.labels.device)]
        weights = None
        if train_config.class_weights and head.task == CLASSIFICATION:
            of_train = None if sample_weight is None else sample_weight[train]
            weights = balanced_class_weights(labels, head.classes, of_train).to(device)
        self._sample_weight = None if sample_weight is None else sample_weight.float().to(device)
        self._batch = ConfigBatch(
            head,
            configs,
            seed=seed,
            train_config=train_config,
            steps=schedule.steps,
            class_weights=weights,
            standardization=Standardization.of(labels) if head.task == REGRESSION else None,
            device=device,
            precision=precision,
        )
        self._epochs_done = 0
        self._loss_sums = torch.zeros(len(configs), device=device)
        self._losses: list[list[float]] = [[] for _ in configs]
        self._val_curves: list[list[tuple[int, dict[str, float]]]] = [[] for _ in configs]
        self._snapshots: dict[int, _Snapshot] = {}

    @property
    def steps(self) -> int:
        """Steps to take."""
        return self.epochs * self.schedule.steps_per_epoch

    def run(self, *, on_step: Callable[[], None]) -> list[FittedHead]:
        """Train to the end; return the head of each configuration.

        Args:
            on_step: Called after every step.
        """
        for epoch in range(self._epochs_done, self.epochs):
            self._run_epoch(epoch, on_step=on_step)
            if not len(self._batch.active):
                break
        return [self._fitted_head(i) for i in range(len(self.configs))]

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last step, for `torch.save`; tensors are not copied."""
        return {
            "batch": self._batch.state_dict(),
            "step": self.step,
            "epochs_done": self._epochs_done,
            "loss_sums": self._loss_sums,
            "losses": self._losses,
            "val_curves": self._val_curves,
            "snapshots": {index: vars(snapshot) for index, snapshot in self._snapshots.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the `state_dict` of a pass of the same arguments."""
        self._batch.load_state_dict(state["batch"])
        self.step, self._epochs_done = state["step"], state["epochs_done"]
        self._loss_sums = state["loss_sums"].to(self._batch.device)
        self._losses, self._val_curves = state["losses"], state["val_curves"]
        self._snapshots = {
            index: _Snapshot(**values) for index, values in state["snapshots"].items()
        }

    def pause(self) -> dict[HParams, PausedConfig]:
        """Return copies of the configurations that are still in training."""
        state = self._batch.state_dict()
        tensors = {"parameters": state["parameters"], **state["optimizer"]}
        shared = {
            "step": self.step,
            "epochs_done": self._epochs_done,
            "dropout_rng": state["dropout_rng"],
        }
        paused = {}
        for row, index in enumerate(self._batch.active.tolist()):
            snapshot = self._snapshots.get(index)
            paused[self.configs[index]] = PausedConfig(
                tensors={
                    part: {name: value[row].to("cpu", copy=True) for name, value in values.items()}
                    for part, values in tensors.items()
                },
                shared=shared,
                own={
                    "losses": list(self._losses[index]),
                    "val_curves": list(self._val_curves[index]),
                    "snapshots": snapshot and vars(snapshot),
                },
                score=self._select.to_maximize(snapshot.metrics if snapshot else None),
            )
        return paused

    def resume(self, paused: Sequence[PausedConfig]) -> None:
        """Continue configurations that were paused after the same epoch.

        Args:
            paused: One for each configuration of this pass, in their order.
        """
        rows = [paused[index] for index in self._batch.active.tolist()]
        stacked = {
            part: {name: torch.stack([row.tensors[part][name] for row in rows]) for name in names}
            for part, names in paused[0].tensors.items()
        }
        batch = self._batch.state_dict() | {"parameters": stacked.pop("parameters")}
        rngs = [config.shared["dropout_rng"] for config in paused]
        batch["dropout_rng"] = next((rng for rng in rngs if rng is not None), None)
        shared = {name: paused[0].shared[name] for name in ("step", "epochs_done")}
        state = {name: [p.own[name] for p in paused] for name in ("losses", "val_curves")}
        snapshots = {i: p.own["snapshots"] for i, p in enumerate(paused) if p.own["snapshots"]}
        self.load_state_dict(
            {
                "batch": batch | {"optimizer": stacked},
                "loss_sums": torch.zeros(len(rows)),
                "snapshots": snapshots,
                **shared,
                **state,
            }
        )

    def evaluate(self, parameters: Mapping[str, Tensor]) -> None:
        """Take trained parameters for those of the only configuration, and validate them.

        Args:
            parameters: Parameters of branches that were trained to the end; others keep their
                initial values.
        """
        self._batch.parameters |= {
            name: value[None].to(self._batch.device) for name, value in parameters.items()
        }
        self.step, self._epochs_done = self.steps, self.epochs
        self._update_snapshots(self._validate(epochs=self.epochs), epochs=self.epochs)

    def keep_branches(self, kept: TrainedBranches) -> None:
        """Add the branches of a fusion head whose output is the mean of theirs, without a gate.

        With early stopping none is added: the epoch at which a configuration stops depends on both.
        """
        batch = self._batch
        if batch.spec.kind != "fusion" or batch.spec.gate != "scalar":
            return
        if batch.spec.branch or self._train_config.patience is not None:
            return
        for row, index in enumerate(batch.active.tolist()):
            metrics = self._snapshots[index].metrics
            if metrics is None:
                continue
            for branch in (LAYERS, SPATIAL):
                kept.keep(
                    branch,
                    self.configs[index].of_branch(branch),
                    {
                        name: value[row]
                        for name, value in batch.parameters.items()
                        if name.startswith(f"{branch}.")
                    },
                    score=branch_score(metrics, branch, metric=self._select),
                )

    def _run_epoch(self, epoch: int, *, on_step: Callable[[], None]) -> None:
        """Train one epoch, or the rest of one that was begun, and evaluate if it is time."""
        batch, schedule, train_config = self._batch, self.schedule, self._train_config
        dataset = self._dataset
        if self._sample_weight is not None:
            dataset = dataset.with_labels(np.arange(dataset.rows))
        batches = dataset.iter_batches(
            self._train,
            batch_size=schedule.batch_size,
            seed=self._seed,
            epoch=epoch,
            noise=train_config.noise,
            token_groups=self._token_groups,
            train=True,
        )
        for x, y in islice(batches, self.step - epoch * schedule.steps_per_epoch, None):
            weights = None
            if self._sample_weight is not None:
                weights, y = self._sample_weight[y], self._dataset.labels[y]
            self._loss_sums += batch.step(x, y, step=self.step, sample_weight=weights)
            self.step += 1
            on_step()
        mean_losses = (self._loss_sums / schedule.steps_per_epoch).tolist()
        for index, loss in zip(batch.active.tolist(), mean_losses, strict=True):
            self._losses[index].append(loss)
        is_last = epoch + 1 == self.epochs
        if is_last:
            batch.check_finite(step=self.step - 1)
        batch.drop_diverged()
        stops_early = self._val is not None and train_config.patience is not None
        if is_last or stops_early or epoch + 1 in self._val_epochs:
            metrics = self._validate(epochs=epoch + 1)
            if is_last or stops_early:
                self._update_snapshots(metrics, epochs=epoch + 1)
        self._epochs_done = epoch + 1
        self._loss_sums = torch.zeros(len(batch.active), device=batch.device)

    def _validate(self, *, epochs: int) -> list[dict[str, float]] | None:
        """Return the validation metrics of the configurations in training, and keep them."""
        batch = self._batch
        if self._val is None or not len(batch.active):
            return None
        metrics = validate(
            batch,
            self._dataset,
            self._val,
            batch_size=self._train_config.batch,
            select=self._select.name,
        )
        for index, values in zip(batch.active.tolist(), metrics, strict=True):
            self._val_curves[index].append((epochs, values))
        return metrics

    def _update_snapshots(self, metrics: list[dict[str, float]] | None, *, epochs: int) -> None:
        """Store the configurations that improved, and remove those that ran out of patience."""
        batch, patience = self._batch, self._train_config.patience
        rows = []
        for row, index in enumerate(batch.active.tolist()):
            current = metrics[row] if metrics else None
            best = self._snapshots.get(index)
            if (
                patience is None
                or current is None
                or best is None
                or self._select.to_maximize(current)
                > self._select.to_maximize(best.metrics or current)
            ):
                state = {}
                if self._keep_parameters:
                    state = batch.head_state_dict(row, steps=self.step)
                best = self._snapshots[index] = _Snapshot(state, current, epochs)
            if patience is None or epochs - best.epochs < patience:
                rows.append(row)
        if len(rows) < len(batch.active):
            batch.retain(torch.tensor(rows, dtype=torch.int64))

    def _fitted_head(self, index: int) -> FittedHead:
        losses, diverged_at = self._losses[index], self._batch.diverged_at[index]
        snapshot = self._snapshots.get(index) if diverged_at is None else None
        epochs = snapshot.epochs if snapshot else len(losses)
        return FittedHead(
            spec=self._batch.spec,
            state_dict=snapshot.state if snapshot else {},
            hparams=self.configs[index].to_dict(),
            seed=self._seed,
            losses=tuple(losses),
            val_curve=tuple(self._val_curves[index]),
            val_metrics=snapshot.metrics if snapshot else None,
            diverged_at=diverged_at,
            batch_size=self.schedule.batch_size,
            steps=epochs * self.schedule.steps_per_epoch,
            epochs=epochs,
        )

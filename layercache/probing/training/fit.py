"""Trains G configurations of one head in one pass over the tokens; nothing is read or written.

Shapes: N rows of the dataset, S tokens of a row, D width, C classes, G configurations, B rows of a
batch.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.errors import HeadMismatchError, OptionError, ProbeError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics import class_ranks, evaluate, evaluate_ranks, selection_metric
from layercache.probing.training.allocator import retain_freed_memory
from layercache.probing.training.config import HParams, Noise, TrainConfig
from layercache.probing.training.config_batch import ConfigBatch, balanced_class_weights
from layercache.probing.training.memory import plan_passes
from layercache.probing.training.schedule import Schedule

PRECISIONS = ("fp32", "bf16")


class TokenLoader(typing.Protocol):
    """Tokens and labels of one split, in batches."""

    @property
    def rows(self) -> int:
        """N."""

    @property
    def tokens(self) -> int:
        """S."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def labels(self) -> Tensor:
        """int64 (N,), or 0/1 (N, C) if multi-label; on any device."""

    def iter_batches(
        self,
        rows: Tensor,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        noise: Noise | None,
        train: bool,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x float32 (B, S, D), each token L2-normalized, and its labels, on the device.

        Args:
            rows: Rows of the dataset, int64 on the CPU.
            batch_size: Rows of every batch but the last.
            seed: Seed of order and noise.
            epoch: Number of the epoch; order and noise are functions of (seed, epoch) alone.
            noise: Noise of training batches.
            train: Shuffle and add noise; otherwise rows come in the given order.
        """


def fit(
    dataset: TokenLoader,
    *,
    head: HeadSpec,
    configs: Sequence[HParams],
    train: Tensor,
    val: Tensor | None,
    seed: int,
    train_config: TrainConfig,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    configs_per_pass: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_fitted: Callable[[Sequence[FittedHead]], None] | None = None,
) -> list[FittedHead]:
    """Train every configuration and evaluate it; return their heads in order.

    Args:
        dataset: Tokens and labels.
        head: Head to train.
        configs: Hyperparameters of each configuration.
        train: Rows to train on, int64 on the CPU.
        val: Rows to evaluate on, or None.
        seed: Seed of initial parameters, batch order, dropout and noise.
        train_config: Schedule, batch size, noise and loss.
        device: Device to train on.
        precision: Arithmetic of the products over tokens, fp32 or bf16.
        configs_per_pass: Configurations trained together; None: as many as fit into memory.
        on_progress: Called after every step with (steps done, steps in total), over all passes.
        on_fitted: Called with the heads of each pass when it ends, so that a killed search can be
            resumed.

    Raises:
        OptionError: An option is invalid.
        HeadMismatchError: The head and the dataset have different shapes.
        ProbeError: The labels do not allow training.
    """
    device = torch.device(device)
    _check_options(head, configs=configs, precision=precision, configs_per_pass=configs_per_pass)
    _check_dataset(dataset, head=head, train=train)
    schedule = train_config.schedule(len(train))
    passes = plan_passes(
        head,
        len(configs),
        batch_size=schedule.batch_size,
        device=device,
        configs_per_pass=configs_per_pass,
    )
    heads: list[FittedHead] = []
    for number, (first, last) in enumerate(passes):

        def on_step(n_steps: int, *, n_before: int = schedule.steps * number) -> None:
            if on_progress:
                on_progress(n_before + n_steps, schedule.steps * len(passes))

        with retain_freed_memory() if device.type == "cpu" else nullcontext():
            fitted = _fit_pass(
                dataset,
                head=head,
                configs=configs[first:last],
                train=train,
                val=val,
                seed=seed,
                train_config=train_config,
                schedule=schedule,
                device=device,
                precision=precision,
                on_step=on_step,
            )
        heads += fitted
        if on_fitted:
            on_fitted(fitted)
    return heads


def predict(
    head: FittedHead,
    *,
    dataset: TokenLoader,
    rows: Tensor,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    batch_size: int = 2048,
) -> Tensor:
    """Return logits of a trained head, float32 (len(rows), C) on the CPU, in the order of `rows`.

    Args:
        head: Trained head.
        dataset: Tokens.
        rows: Rows of the dataset, int64 on the CPU.
        device: Device of the dataset's batches.
        precision: Arithmetic of the products over tokens, fp32 or bf16.
        batch_size: Rows of a batch.
    """
    device = torch.device(device)
    model = build(head.spec)
    parameters = {name: value.to(device)[None] for name, value in head.state_dict.items()}
    parts = []
    with torch.inference_mode():
        for x, _ in dataset.iter_batches(
            rows, batch_size=batch_size, seed=head.seed, epoch=0, noise=None, train=False
        ):
            preprocessed = model.preprocess(x)
            if precision == "bf16":
                preprocessed = preprocessed.bfloat16()
            parts.append(model.logits(parameters, preprocessed, train=False)[0].float().cpu())
    return torch.cat(parts)


@dataclass(frozen=True)
class _Snapshot:
    """A configuration at the end of its training, or at its best epoch so far."""

    state: dict[str, Tensor]
    metrics: dict[str, float] | None
    epochs: int


def _fit_pass(
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
    on_step: Callable[[int], None],
) -> list[FittedHead]:
    """Train configurations that fit into memory; those that diverge or stop early are removed."""
    weights = None
    if train_config.class_weights and not head.multi_label:
        labels = dataset.labels[train.to(dataset.labels.device)]
        weights = balanced_class_weights(labels, head.classes).to(device)
    batch = ConfigBatch(
        head,
        configs,
        seed=seed,
        train_config=train_config,
        steps=schedule.steps,
        class_weights=weights,
        device=device,
        precision=precision,
    )
    losses: list[list[float]] = [[] for _ in configs]
    snapshots: dict[int, _Snapshot] = {}
    step = 0
    for epoch in range(schedule.epochs):
        loss_sums = torch.zeros(len(batch.active), device=device)
        for x, y in dataset.iter_batches(
            train,
            batch_size=schedule.batch_size,
            seed=seed,
            epoch=epoch,
            noise=train_config.noise,
            train=True,
        ):
            loss_sums += batch.step(x, y, step=step)
            step += 1
            on_step(step)
        mean_losses = (loss_sums / schedule.steps_per_epoch).tolist()
        for index, loss in zip(batch.active.tolist(), mean_losses, strict=True):
            losses[index].append(loss)
        is_last = epoch + 1 == schedule.epochs
        if is_last:
            batch.check_finite(step=step - 1)
        batch.drop_diverged()
        if is_last or (val is not None and train_config.patience is not None):
            metrics = None
            if val is not None and len(batch.active):
                metrics = _evaluate(batch, dataset, val, batch_size=train_config.batch)
            _update_snapshots(
                batch,
                snapshots,
                metrics,
                step=step,
                epochs=epoch + 1,
                patience=train_config.patience,
            )
        if not len(batch.active):
            break
    return [
        _fitted_head(
            head,
            config,
            seed=seed,
            losses=losses[i],
            snapshot=snapshots.get(i),
            diverged_at=batch.diverged_at[i],
            schedule=schedule,
        )
        for i, config in enumerate(configs)
    ]


def _update_snapshots(
    batch: ConfigBatch,
    snapshots: dict[int, _Snapshot],
    metrics: list[dict[str, float]] | None,
    *,
    step: int,
    epochs: int,
    patience: int | None,
) -> None:
    """Store the configurations that improved, and remove those that have run out of patience."""
    key = selection_metric(multi_label=batch.spec.multi_label)
    rows = []
    for row, index in enumerate(batch.active.tolist()):
        current = metrics[row] if metrics else None
        best = snapshots.get(index)
        if (
            patience is None
            or current is None
            or best is None
            or current[key] > (best.metrics or current)[key]
        ):
            best = _Snapshot(batch.state(row, steps=step), current, epochs)
            snapshots[index] = best
        if patience is None or epochs - best.epochs < patience:
            rows.append(row)
    if len(rows) < len(batch.active):
        batch.retain(torch.tensor(rows, dtype=torch.int64))


def _fitted_head(
    head: HeadSpec,
    config: HParams,
    *,
    seed: int,
    losses: list[float],
    snapshot: _Snapshot | None,
    diverged_at: int | None,
    schedule: Schedule,
) -> FittedHead:
    if diverged_at is not None:
        snapshot = None
    epochs = snapshot.epochs if snapshot else len(losses)
    return FittedHead(
        spec=head,
        state_dict=snapshot.state if snapshot else {},
        hparams=dict(vars(config)),
        seed=seed,
        losses=tuple(losses),
        val_metrics=snapshot.metrics if snapshot else None,
        diverged_at=diverged_at,
        batch_size=schedule.batch_size,
        steps=epochs * schedule.steps_per_epoch,
        epochs=epochs,
    )


def _evaluate(
    batch: ConfigBatch, dataset: TokenLoader, rows: Tensor, *, batch_size: int
) -> list[dict[str, float]]:
    """Return the metrics of every configuration.

    Of single-label logits only the rank of the true class is kept: (G, N) instead of (G, N, C).
    """
    multi_label = batch.spec.multi_label
    parts, labels = [], []
    for x, y in dataset.iter_batches(
        rows, batch_size=batch_size, seed=0, epoch=0, noise=None, train=False
    ):
        logits = batch.logits(x)
        parts.append((logits if multi_label else class_ranks(logits, y)).cpu())
        labels.append(y.cpu())
    values, y_n = torch.cat(parts, dim=1).numpy(), torch.cat(labels).numpy()
    if multi_label:
        return [evaluate(logits, y_n, multi_label=True) for logits in values]
    return [evaluate_ranks(ranks, y_n) for ranks in values]


def _check_options(
    head: HeadSpec,
    *,
    configs: Sequence[HParams],
    precision: str,
    configs_per_pass: int | None,
) -> None:
    if precision not in PRECISIONS:
        raise OptionError(f"precision: expected {' or '.join(PRECISIONS)}, got {precision!r}")
    if configs_per_pass is not None and configs_per_pass < 1:
        raise OptionError(f"configs_per_pass: expected at least 1, got {configs_per_pass}")
    if not configs:
        raise OptionError(
            "expected at least one configuration, got none: give a learning rate and a weight decay"
        )
    if head.kind == "linear" and any(config.dropout for config in configs):
        raise OptionError("the linear head has no attention to drop: leave dropout out")


def _check_dataset(dataset: TokenLoader, *, head: HeadSpec, train: Tensor) -> None:
    if (dataset.tokens, dataset.width) != (head.tokens, head.width):
        raise HeadMismatchError(
            f"the head expects {head.tokens} tokens of width {head.width}, got "
            f"{dataset.tokens} x {dataset.width}: build it from the dataset"
        )
    labels = dataset.labels[train.to(dataset.labels.device)]
    if head.multi_label:
        if labels.shape[1:] != (head.classes,):
            raise ProbeError(
                f"a multi-label head of {head.classes} classes expects 0/1 labels "
                f"(N, {head.classes}), got {tuple(labels.shape)}"
            )
        return
    if labels.dim() != 1:
        raise ProbeError(
            f"a single-label head expects class indices (N,), got {tuple(labels.shape)}: the "
            "dataset is multi-label"
        )
    if not len(labels):
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= head.classes:
        raise ProbeError(
            f"expected labels between 0 and {head.classes - 1}, got {lowest} to {highest}: check "
            "the dataset's classes"
        )
    if lowest == highest:
        raise ProbeError(
            f"all {len(labels)} training samples are of class {lowest}: a head needs at least two "
            "classes to train"
        )

"""Trains configurations of one head, in as many passes as memory requires.

Shapes: N rows of the dataset, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from layercache.errors import HeadMismatchError, OptionError, ProbeError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.spec import REGRESSION
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.configs_per_pass import plan_passes
from layercache.probing.training.freed_memory import retain_freed_memory
from layercache.probing.training.search_memory import SearchMemory
from layercache.probing.training.token_loader import TokenLoader
from layercache.probing.training.training_pass import TrainingPass

PRECISIONS = ("fp32", "bf16")


class PassSaver(Protocol):
    """Keeps the states of unfinished passes, so that killed training can be resumed."""

    def load(self, configs: Sequence[HParams]) -> Mapping[str, Any] | None:
        """Return the last state of a pass over these configurations, or None."""

    def save_if_due(self, training: TrainingPass) -> None:
        """Store the state of a pass if it is time; called after every step."""


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
    saver: PassSaver | None = None,
    keep_parameters: bool = True,
    select: str | None = None,
    sample_weight: Tensor | None = None,
    val_epochs: Collection[int] = (),
    stop_epoch: int | None = None,
    memory: SearchMemory | None = None,
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
        configs_per_pass: Configurations trained together; None: see `plan_passes`.
        on_progress: Called after every step with (steps done, steps in total), over all passes.
        on_fitted: Called with the heads of each pass when it ends.
        saver: Keeps the states of unfinished passes; None: a killed pass starts again.
        keep_parameters: False leaves the state dicts of the heads empty, for a search that needs
            the metrics alone.
        select: Metric to evaluate besides the usual ones; early stopping goes by it.
        sample_weight: Positive weights of all rows in the training loss, (N,) on the CPU; None
            weights them equally. Metrics are not weighted.
        val_epochs: Epochs, from 1, after which configurations are evaluated besides the last one,
            for `FittedHead.val_curve`; the training does not depend on it.
        stop_epoch: Epoch, from 1, after which training ends; the learning rate follows the whole
            schedule. None: the last one.
        memory: Configurations of the same rows and seed. Paused ones are continued, those that
            `stop_epoch` stops are added. Of fusion heads, a pair of trained branches is evaluated
            without training, and the best branches are added.

    Raises:
        OptionError: An option is invalid.
        HeadMismatchError: The head and the dataset have different shapes.
        ProbeError: The labels do not allow training.
    """
    device = torch.device(device)
    _check_options(head, configs=configs, precision=precision, configs_per_pass=configs_per_pass)
    train_config.check_head(head)
    _check_dataset(dataset, head=head, train=train)
    schedule = train_config.schedule(len(train))
    # Those that continue come first: no pass mixes them with others. In a pass, configurations of
    # one dropout rate are computed together.
    order = sorted(
        range(len(configs)),
        key=lambda i: (memory is None or configs[i] not in memory, configs[i].dropout),
    )
    n_paused = sum(memory is not None and hparams in memory for hparams in configs)
    passes = [
        [order[i] for i in range(start + first, start + last)]
        for start, count in ((0, n_paused), (n_paused, len(configs) - n_paused))
        if count
        for first, last in plan_passes(
            head,
            count,
            batch_size=schedule.batch_size,
            device=device,
            configs_per_pass=configs_per_pass,
        )
    ]
    heads: dict[int, FittedHead] = {}
    for number, indices in enumerate(passes):
        training = TrainingPass(
            dataset,
            head=head,
            configs=[configs[i] for i in indices],
            train=train,
            val=val,
            seed=seed,
            train_config=train_config,
            schedule=schedule,
            device=device,
            precision=precision,
            keep_parameters=keep_parameters,
            select=select,
            sample_weight=sample_weight,
            val_epochs=val_epochs,
            stop_epoch=stop_epoch,
        )
        if saver and (state := saver.load(training.configs)) is not None:
            training.load_state_dict(state)
        elif memory is not None and (paused := memory.take(training.configs)) is not None:
            training.resume(paused)
        elif memory is not None and (pair := memory.branches.pair(training.configs)) is not None:
            training.evaluate(pair)

        def on_step(*, training: TrainingPass = training, number: int = number) -> None:
            if on_progress:
                n_before = training.steps * number
                on_progress(n_before + training.step, training.steps * len(passes))
            if saver:
                saver.save_if_due(training)

        with retain_freed_memory() if device.type == "cpu" else nullcontext():
            fitted = training.run(on_step=on_step)
        heads |= dict(zip(indices, fitted, strict=True))
        if memory is not None and training.epochs < schedule.epochs:
            memory.keep(training.pause())
        elif memory is not None:
            training.keep_branches(memory.branches)
        if on_fitted:
            on_fitted(fitted)
    return [heads[i] for i in range(len(configs))]


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

    Those of a regression are its predictions, in the unit of its targets.

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
    if not head.has_dropout and any(config.dropout for config in configs):
        raise OptionError(f"the {head.kind} head has no attention to drop: leave dropout out")


def _check_dataset(dataset: TokenLoader, *, head: HeadSpec, train: Tensor) -> None:
    if (dataset.tokens, dataset.width) != (head.tokens, head.input_width):
        raise HeadMismatchError(
            f"the head expects {head.tokens} tokens of width {head.input_width}, got "
            f"{dataset.tokens} x {dataset.width}: build it from the dataset"
        )
    labels = dataset.labels[train.to(dataset.labels.device)]
    if head.task == REGRESSION:
        if not labels.is_floating_point() or labels.shape[1:] != (head.classes,):
            raise ProbeError(
                f"a head for regression of {head.classes} columns expects floats "
                f"(N, {head.classes}), got {labels.dtype} {tuple(labels.shape)}"
            )
        return
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

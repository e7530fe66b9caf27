"""Trains G configurations of one head in one pass over the features. No I/O.

Shapes: N samples, S tokens per image, D width, C classes, G configurations, B rows of a batch.
"""

from __future__ import annotations

import itertools
import logging
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache._devices import free_memory
from layercache._units import format_bytes
from layercache.errors import HeadMismatchError, OptionError, ProbeError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics import class_ranks, evaluate, evaluate_ranks, selection_metric
from layercache.probing.training import allocator
from layercache.probing.training.config import HParams, Noise, Schedule, TrainConfig, class_weights
from layercache.probing.training.config_batch import ConfigBatch, configuration_bytes, row_bytes

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16")


class Batches(typing.Protocol):
    """Features of one split as the engine sees them."""

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
        """int64 (N,), or 0/1 (N, C) when multi-label; on any device."""

    def epoch(
        self, rows: Tensor, *, batch: int, seed: int, epoch: int, noise: Noise | None, train: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches over `rows` (int64, CPU): x float32 (B, S, D), each token L2-normalised, and its labels, both on the features' device.

        With `train`, order and noise are functions of (seed, epoch) alone, and every batch but the last has `batch` rows; without it the rows come in
        the order given and noise is not added.
        """


def fit(
    features: Batches,
    *,
    head: HeadSpec,
    settings: Sequence[HParams],
    train: Tensor,
    val: Tensor | None,
    seed: int,
    protocol: TrainConfig,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    group_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    finished: Callable[[Sequence[FittedHead]], None] | None = None,
) -> list[FittedHead]:
    """Train every setting on the rows `train` and evaluate it on the rows `val` (int64, CPU); one FittedHead per setting, in order.

    `progress(done, total)` is called after every step, over all groups; `finished` gets the fits
    of each group as soon as they are there, so that a killed search need not do them again. Raises ProbeError when the labels do not allow training.
    """
    device = torch.device(device)
    _check(
        features,
        head=head,
        settings=settings,
        train=train,
        precision=precision,
        group_size=group_size,
    )
    plan = protocol.plan(len(train))
    bounds = _group_bounds(
        head, len(settings), batch=plan.batch, device=device, group_size=group_size
    )
    fits: list[FittedHead] = []
    for number, (first, last) in enumerate(bounds):

        def report(done: int, *, before: int = plan.steps * number) -> None:
            if progress:
                progress(before + done, plan.steps * len(bounds))

        with allocator.retain_freed_memory() if device.type == "cpu" else nullcontext():
            done = _fit_group(
                features,
                head=head,
                settings=settings[first:last],
                train=train,
                val=val,
                seed=seed,
                protocol=protocol,
                plan=plan,
                device=device,
                precision=precision,
                progress=report,
            )
        fits += done
        if finished:
            finished(done)
    return fits


def predict(
    head: FittedHead,
    *,
    features: Batches,
    rows: Tensor,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    batch: int = 2048,
) -> Tensor:
    """Logits float32 (len(rows), C) of one trained head, on the CPU, in the order of `rows`."""
    device = torch.device(device)
    model = build(head.spec)
    parameters = {name: value.to(device)[None] for name, value in head.state_dict.items()}
    parts = []
    with torch.inference_mode():
        for x, _ in features.epoch(
            rows, batch=batch, seed=head.seed, epoch=0, noise=None, train=False
        ):
            preprocessed = model.preprocess(x)
            preprocessed = preprocessed.bfloat16() if precision == "bf16" else preprocessed
            parts.append(model.logits(parameters, preprocessed, train=False)[0].float().cpu())
    return torch.cat(parts)


def _fit_group(
    features: Batches,
    *,
    head: HeadSpec,
    settings: Sequence[HParams],
    train: Tensor,
    val: Tensor | None,
    seed: int,
    protocol: TrainConfig,
    plan: Schedule,
    device: torch.device,
    precision: str,
    progress: Callable[[int], None],
) -> list[FittedHead]:
    """Train one group on all epochs; its configurations leave it as they diverge or stop early."""
    key = selection_metric(multi_label=head.multi_label)
    labels = features.labels[train.to(features.labels.device)]
    weights = (
        class_weights(labels, head.classes).to(device)
        if protocol.class_weights and not head.multi_label
        else None
    )
    group = ConfigBatch(
        head,
        settings,
        seed=seed,
        protocol=protocol,
        steps=plan.steps,
        weights=weights,
        device=device,
        precision=precision,
    )
    losses: list[list[float]] = [[] for _ in settings]
    kept: dict[int, _Kept] = {}
    step = 0
    for epoch in range(plan.epochs):
        summed = torch.zeros(len(group.members), device=device)
        for x, y in features.epoch(
            train, batch=plan.batch, seed=seed, epoch=epoch, noise=protocol.noise, train=True
        ):
            summed += group.step(x, y, step=step)
            step += 1
            progress(step)
        for member, value in zip(
            group.members.tolist(), (summed / plan.steps_per_epoch).tolist(), strict=True
        ):
            losses[member].append(value)
        last = epoch + 1 == plan.epochs
        if last:
            group.mark_if_not_finite(step=step - 1)
        group.drop_diverged()
        if last or (val is not None and protocol.patience is not None):
            found = (
                _evaluate(group, features, val, batch=protocol.batch)
                if val is not None and len(group.members)
                else None
            )
            going = []
            for row, member in enumerate(group.members.tolist()):
                metrics = found[row] if found else None
                before = kept.get(member)
                if (
                    protocol.patience is None
                    or metrics is None
                    or before is None
                    or metrics[key] > (before.metrics or metrics)[key]
                ):
                    kept[member] = before = _Kept(group.state(row, steps=step), metrics, epoch + 1)
                if protocol.patience is None or epoch + 1 - before.epoch < protocol.patience:
                    going.append(row)
            if len(going) < len(group.members):
                group.keep(torch.tensor(going, dtype=torch.int64))
        if not len(group.members):
            break
    fits = []
    for i, setting in enumerate(settings):
        diverged = group.diverged_at[i]
        end = kept.get(i) if diverged is None else None
        epochs = end.epoch if end else len(losses[i])
        fits.append(
            FittedHead(
                spec=head,
                state_dict=end.state if end else {},
                hparams=dict(vars(setting)),
                seed=seed,
                losses=tuple(losses[i]),
                val_metrics=end.metrics if end else None,
                diverged_at=diverged,
                batch_size=plan.batch,
                steps=epochs * plan.steps_per_epoch,
                epochs=epochs,
            )
        )
    return fits


@dataclass(frozen=True)
class _Kept:
    """What is kept of a configuration that has ended, or of its best epoch so far."""

    state: dict[str, Tensor]
    metrics: dict[str, float] | None
    epoch: int


def _evaluate(
    group: ConfigBatch, features: Batches, rows: Tensor, *, batch: int
) -> list[dict[str, float]]:
    """Metrics of every configuration of a group. Of single-label logits only the rank of the true class is kept: (G, N) instead of (G, N, C)."""
    parts, labels = [], []
    for x, y in features.epoch(rows, batch=batch, seed=0, epoch=0, noise=None, train=False):
        logits = group.logits(x)
        parts.append((logits if group.spec.multi_label else class_ranks(logits, y)).cpu())
        labels.append(y.cpu())
    values, y_n = torch.cat(parts, dim=1).numpy(), torch.cat(labels).numpy()
    if group.spec.multi_label:
        return [evaluate(one, y_n, multi_label=True) for one in values]
    return [evaluate_ranks(one, y_n) for one in values]


def _group_bounds(
    head: HeadSpec,
    count: int,
    *,
    batch: int,
    device: torch.device,
    group_size: int | None,
) -> list[tuple[int, int]]:
    """Ranges of settings that train together, of nearly equal length: all at once where they fit into half of the free memory."""
    each = configuration_bytes(head)
    if group_size is None:
        free = free_memory(device) // 2 - 4 * batch * row_bytes(head)
        most = max(1, min(count, free // each))
        reason = f"{format_bytes(each)} each, half of the free memory of {device} is {format_bytes(max(free, 0))}"
    else:
        most, reason = group_size, "as requested"
    bounds = group_bounds(count, most)
    if count > 1 and (group_size is None or len(bounds) > 1):
        logger.info("%s", describe_groups(count, bounds, reason=reason))
    return bounds


def group_bounds(count: int, most: int) -> list[tuple[int, int]]:
    """`count` settings in ranges [first, last) of at most `most` and of nearly equal length."""
    groups = -(-count // most)
    return list(itertools.pairwise(count * i // groups for i in range(groups + 1)))


def describe_groups(count: int, bounds: Sequence[tuple[int, int]], *, reason: str) -> str:
    """A line for the user."""
    return f"{count}-setting grid trains in {len(bounds)} group{'s' * (len(bounds) > 1)} of at most {max(b - a for a, b in bounds)} ({reason})"


def _check(
    features: Batches,
    *,
    head: HeadSpec,
    settings: Sequence[HParams],
    train: Tensor,
    precision: str,
    group_size: int | None,
) -> None:
    """Faults of what was asked, before any work."""
    if precision not in PRECISIONS:
        raise OptionError(f"--precision is {' or '.join(PRECISIONS)}, came {precision!r}")
    if group_size is not None and group_size < 1:
        raise OptionError(f"--group-size is at least 1, came {group_size}")
    if not settings:
        raise OptionError("no setting to train: give at least one learning rate and weight decay")
    if head.kind == "linear" and any(s.dropout for s in settings):
        raise OptionError("the linear head has no attention to drop: leave --dropout out")
    if (features.tokens, features.width) != (head.tokens, head.width):
        came = f"{features.tokens} x {features.width}"
        raise HeadMismatchError(
            f"the head takes {head.tokens} tokens of width {head.width}, the features have {came}: build it from the features"
        )
    labels = features.labels[train.to(features.labels.device)]
    if head.multi_label:
        if labels.shape[1:] != (head.classes,):
            raise ProbeError(
                f"a multi-label head of {head.classes} classes needs 0/1 labels (N, {head.classes}), came {tuple(labels.shape)}"
            )
        return
    if labels.dim() != 1:
        raise ProbeError(
            f"a single-label head needs class numbers (N,), came {tuple(labels.shape)}: the data set is multi-label"
        )
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= head.classes):
        raise ProbeError(
            f"labels lie between 0 and {head.classes - 1}, came {int(labels.min())} to {int(labels.max())}: check the data set's classes"
        )
    if len(labels) and int(labels.min()) == int(labels.max()):
        raise ProbeError(
            f"all {len(labels)} training samples are of class {int(labels.min())}: a head needs at least two classes to train"
        )

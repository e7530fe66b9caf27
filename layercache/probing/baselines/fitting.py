"""Fits a baseline to rows of a dataset, for all configurations at once.

Ridge regression and discriminant analysis need only the moments of the training samples if there
are more samples than features, and then samples of any number are streamed. The others need all
samples at once.

Shapes: N samples, S tokens, D width, P = S D features, C classes or columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from layercache._devices import free_memory
from layercache._units import format_bytes
from layercache.errors import OptionError, ProbeError
from layercache.probing.baselines.models import (
    DiscriminantModel,
    Model,
    RidgeModel,
    fit_logistic,
)
from layercache.probing.baselines.neighbors import NeighborModel
from layercache.probing.closed_form.lda import lda, lda_of_moments
from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.neighbors import Neighbors
from layercache.probing.closed_form.ridge import ridge, ridge_of_moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from layercache.probing.data.dataset import LabelledTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION
from layercache.probing.options import MEMORY_FRACTION
from layercache.probing.splits.stratified_split import Rows

BATCH = 4096
"""Rows that are read at a time."""
COPIES = 3
"""Arrays of the size of the samples, in float32, or of their scatter, in float64, that a fit holds
at its peak."""


def fit_model(
    name: str,
    dataset: LabelledTokens,
    configs: Sequence[Mapping[str, float]],
    *,
    rows: Rows,
    head: HeadSpec,
) -> Model:
    """Fit a baseline. Classes have equal weights in all of them but knn.

    Args:
        name: knn, logreg, ridge or lda.
        dataset: Tokens and targets.
        configs: Configurations; ridge, lda and knn do not depend on them.
        rows: Rows to fit to.
        head: A linear head on the same tokens.

    Raises:
        ProbeError: There are no rows.
        OptionError: The fit needs more memory than there is.
    """
    if not len(rows):
        raise ProbeError("there are no samples to train on")
    y = dataset.labels[torch.as_tensor(rows, device=dataset.labels.device)]
    if name in ("ridge", "lda"):
        return _fit_moments(name, dataset, y, rows=rows, head=head)
    x = read_matrix(dataset, rows)
    if name == "logreg":
        return fit_logistic(x, y, head.classes, configs)
    return NeighborModel(Neighbors.of(x, y, head.classes), head)


def iter_features(dataset: LabelledTokens, rows: Rows) -> Iterator[Tensor]:
    """Yield the concatenated tokens of rows, (B, P); each is valid until the next."""
    for tokens, _ in dataset.iter_batches(rows, batch_size=BATCH, train=False):
        yield tokens.flatten(1)


def _fit_moments(
    name: str, dataset: LabelledTokens, y: Tensor, *, rows: Rows, head: HeadSpec
) -> Model:
    """Fit ridge or lda, by moments that are streamed if there are more samples than features."""
    features = dataset.tokens * dataset.width
    classifies = head.task != REGRESSION
    weight = sample_weights(y, head)
    absent = torch.zeros(head.classes, dtype=torch.bool, device=y.device)
    if head.task == CLASSIFICATION:
        absent = torch.bincount(y, minlength=head.classes) == 0
    elif classifies:
        absent = (y == 0).all(0)
    if len(rows) <= features:
        x = read_matrix(dataset, rows)
        if name == "lda":
            return DiscriminantModel(lda(x, y, head.classes, sample_weight=weight))
        solution = ridge(x, numeric_targets(y, head), sample_weight=weight)
        return RidgeModel(solution, classifies, absent)
    _check_memory(
        8 * features**2,
        dataset.device,
        f"products of {dataset.tokens} x {dataset.width} features in float64",
    )
    moments, start = Moments(features, head.classes, device=dataset.device), 0
    for x in iter_features(dataset, rows):
        part = slice(start, start + len(x))
        # not for all rows at once: one-hot targets of many classes are large
        moments.add(x, numeric_targets(y[part], head), weight[part])
        start += len(x)
    if name == "lda":
        return DiscriminantModel(lda_of_moments(moments, dtype=torch.float32))
    return RidgeModel(ridge_of_moments(moments), classifies, absent)


def sample_weights(y: Tensor, head: HeadSpec) -> Tensor:
    """Return the weight of each sample, float64 (N,): classes have the same total."""
    if head.task == CLASSIFICATION:
        return balanced_weights(y, head.classes)
    return torch.ones(len(y), dtype=torch.float64, device=y.device)


def numeric_targets(y: Tensor, head: HeadSpec) -> Tensor:
    """Return targets of a least-squares fit, float64 (N, C): classes as one-hot."""
    return one_hot(y, head.classes) if head.task == CLASSIFICATION else y.double()


def read_matrix(dataset: LabelledTokens, rows: Rows) -> Tensor:
    """Return the concatenated tokens of rows, float32 (N, P), on the device."""
    features = dataset.tokens * dataset.width
    _check_memory(
        4 * len(rows) * features,
        dataset.device,
        f"all tokens at once: {len(rows)} samples x {dataset.tokens} x {dataset.width} in float32",
    )
    x, start = torch.empty((len(rows), features), device=dataset.device), 0
    for part in iter_features(dataset, rows):
        x[start : start + len(part)] = part
        start += len(part)
    return x


def _check_memory(size: int, device: torch.device, what: str) -> None:
    needed, available = COPIES * size, int(MEMORY_FRACTION * free_memory(device))
    if needed > available:
        raise OptionError(
            f"this head needs {what}, and {COPIES - 1} copies of it, {format_bytes(needed)}; half "
            f"of the free memory is {format_bytes(available)}: choose fewer layers or a "
            "train_fraction (--fraction)"
        )

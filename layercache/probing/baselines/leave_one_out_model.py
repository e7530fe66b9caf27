"""Leave-one-out outputs of ridge and lda for all configurations, from one fit to all samples.

Shapes: N samples, P features, C classes or columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from layercache.probing.baselines.fitting import (
    fit_model,
    iter_features,
    numeric_targets,
    read_matrix,
    sample_weights,
)
from layercache.probing.baselines.models import (
    ABSENT_CLASS_LOGIT,
    DiscriminantModel,
    Model,
    RidgeModel,
)
from layercache.probing.closed_form.leave_one_out import (
    lda_leave_one_out_block,
    ridge_leave_one_out,
    ridge_leave_one_out_block,
)
from layercache.probing.data.dataset import LabelledTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.splits.stratified_split import Rows

Config = Mapping[str, float]

LEAVE_ONE_OUT_HEADS = ("ridge", "lda")
"""Heads with a closed form of the prediction for a sample by the fit to all others."""


class LeaveOneOutModel:
    """Outputs for each sample of a model that was fitted to all others.

    The others keep their weights: those that give the classes of all samples the same total.
    """

    def __init__(self, name: str, dataset: LabelledTokens, *, rows: Rows, head: HeadSpec) -> None:
        """Fit the model to all samples.

        Args:
            name: ridge or lda.
            dataset: Tokens and targets.
            rows: Rows to fit to.
            head: A linear head on the same tokens.
        """
        self._dataset, self._rows, self._head = dataset, rows, head
        self._y = dataset.labels[torch.as_tensor(rows, device=dataset.labels.device)]
        self._weight = sample_weights(self._y, head)
        self._counts = torch.zeros(head.classes, dtype=torch.float64, device=self._y.device)
        if head.multi_label:
            self._counts += (self._y > 0).sum(0)
        elif not head.regression:
            self._counts += torch.bincount(self._y, minlength=head.classes)
        self._model: Model | None = None
        if name == "lda" or len(rows) > dataset.tokens * dataset.width:
            self._model = fit_model(name, dataset, [], rows=rows, head=head)

    def outputs(self, configs: Sequence[Config]) -> list[Tensor]:
        """Return the outputs (N, C), float32, for each configuration."""
        if self._model is None:
            x = read_matrix(self._dataset, self._rows)
            penalties = [config["alpha"] for config in configs]
            y = numeric_targets(self._y, self._head)
            left_out = ridge_leave_one_out(x, y, penalties, sample_weight=self._weight)
            return [self._ridge_outputs(outputs, y) for outputs in left_out]
        parts: list[list[Tensor]] = [[] for _ in configs]
        start = 0
        for x in iter_features(self._dataset, self._rows):
            block = slice(start, start + len(x))
            for part, outputs in zip(parts, self._block(x, block, configs), strict=True):
                part.append(outputs)
            start += len(x)
        return [torch.cat(part) for part in parts]

    def _block(self, x: Tensor, block: slice, configs: Sequence[Config]) -> Iterator[Tensor]:
        y, weight, model = self._y[block], self._weight[block], self._model
        if isinstance(model, RidgeModel):
            penalties = [config["alpha"] for config in configs]
            targets, total = numeric_targets(y, self._head), float(self._weight.sum())
            for outputs in ridge_leave_one_out_block(
                model.fitted, x, targets, weight, penalties, total=total
            ):
                yield self._ridge_outputs(outputs, targets)
            return
        assert isinstance(model, DiscriminantModel)
        fitted, classes = model.fitted, self._head.classes
        class_weights = x.new_zeros(classes, dtype=torch.float64)
        class_weights.index_add_(0, self._y, self._weight)
        between = class_weights / class_weights.sum() @ fitted.loadings.square().sum(0)
        variance = float(fitted.variances.sum() + between)
        logits = lda_leave_one_out_block(
            fitted,
            x,
            y,
            weight,
            [config["shrinkage"] for config in configs],
            class_weights=class_weights,
            rounding=10 * torch.finfo(x.dtype).eps * variance,
        )
        for outputs in logits:
            # the softmax does not change with a shift, which keeps single precision
            shifted = outputs - outputs.amax(1, keepdim=True)
            yield shifted.clamp_min(ABSENT_CLASS_LOGIT).float()

    def _ridge_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the outputs of the head: for classes, of targets of 1 and -1."""
        if self._head.regression:
            return outputs.float()
        # a class whose only sample is left out has none
        absent = self._counts - targets <= 0
        return (2 * outputs - 1).masked_fill(absent, ABSENT_CLASS_LOGIT).float()

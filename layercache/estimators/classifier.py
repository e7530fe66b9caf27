"""A probe as a scikit-learn classifier.

Shapes: N samples, T tokens of a sample, D width of a token, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from layercache.errors import OptionError
from layercache.estimators.base import Array, Numbers, ProbeEstimator
from layercache.probing.splits.stratified_split import check_labels
from layercache.probing.training.config import TrainConfig

MULTI_LABEL = "multilabel-indicator"


class ProbeClassifier(ClassifierMixin, ProbeEstimator):  # type: ignore[misc]
    """Attentive or linear probe on tokens, as a scikit-learn classifier.

        probe = layercache.ProbeClassifier(random_state=0).fit(X, y)    # X: (N, T, D)
        probe.predict_proba(X), probe.best_params_, probe.attention(X)

    `fit` trains the whole grid of hyperparameters in one pass on 80 % of the samples, selects the
    configuration with the best balanced accuracy on the other 20 % (mean average precision for
    multi-label), and trains it on all samples: it does what `layercache.probe` does with a cache.
    Tokens are L2-normalized; no other scaling is needed.

    It needs two classes, and enough samples to hold some out while every class keeps one.
    """

    classes_: Array
    """Labels of the classes, (C,); for multi-label 0 to C - 1."""

    def __init__(
        self,
        *,
        head: str = "attentive",
        n_tokens: int | None = None,
        num_heads: int | None = None,
        spatial_tokens: int | None = None,
        gate: str = "scalar",
        lr: Numbers | None = None,
        weight_decay: Numbers | None = None,
        dropout: Numbers | None = None,
        search: str = "full",
        epochs: int | None = None,
        train_config: TrainConfig | None = None,
        select: str | None = None,
        class_weight: str | Mapping[Any, float] | None = "balanced",
        device: str = "auto",
        precision: str = "fp32",
        configs_per_pass: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None:
        """Store the parameters.

        Args:
            head: "attentive", "attentive-tokens" (8 attention heads, for all tokens of a layer),
                "efficient", "scalar-mix" (one weight for each token), "linear", or "fusion" (a head
                over the spatial tokens, one over the others, and a weighted mean of both).
            n_tokens: Number of tokens T of a flat X (N, T * D); by default 1. Not needed for X of
                shape (N, T, D).
            num_heads: Attention heads; by default one for each token, or 8 for attentive-tokens, or
                32 queries for efficient; of fusion those over the tokens that are not spatial.
            spatial_tokens: For fusion: how many tokens are spatial, the last ones of T.
            gate: For fusion: one weight for both branches ("scalar"), one for each class ("class")
                or one for each sample ("sample").
            lr: Learning rates to search; by default the paper's 3.
            weight_decay: Weight decays to search; by default the paper's 7.
            dropout: Attention dropout rates to search; by default the paper's 3, for linear none.
            search: "full" trains every configuration to the end, "halving" drops the worse ones on
                the way, "coordinate" searches the weight decay for the best rates only, "auto"
                chooses; in `cv_results_` the scores of those not trained to the end are NaN.
            epochs: Replaces the epochs of `train_config`.
            train_config: Schedule, batch size and noise; by default the paper's. Its
                `class_weights` is replaced by `class_weight`.
            select: Metric of the selection, see docs/metrics.md; by default balanced accuracy, or
                mean average precision for multi-label.
            class_weight: "balanced" (N / (C n_c), as in the paper), weights by label, or None.
                Without effect on multi-label targets if "balanced".
            device: "auto" (a GPU if there is one), "cpu" or "cuda".
            precision: Arithmetic of the products over tokens, "fp32" or "bf16".
            configs_per_pass: Configurations trained together; by default as many as memory holds.
            random_state: Seed of the validation part, initial parameters, batch order and noise. An
                int is the seed of `layercache.probe`.
            n_jobs: Threads on a CPU, -1 for all; None leaves torch's number.
        """
        super().__init__(
            head=head,
            n_tokens=n_tokens,
            num_heads=num_heads,
            spatial_tokens=spatial_tokens,
            gate=gate,
            lr=lr,
            weight_decay=weight_decay,
            dropout=dropout,
            search=search,
            epochs=epochs,
            train_config=train_config,
            select=select,
            device=device,
            precision=precision,
            configs_per_pass=configs_per_pass,
            random_state=random_state,
            n_jobs=n_jobs,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the grid, select a configuration and train it on all samples.

        Args:
            X: Tokens, (N, T, D), or (N, T * D) with `n_tokens`, or (N, D) for one token.
            y: Labels, (N,), or 0/1 (N, C) for multi-label.
            sample_weight: Weights in the training loss, (N,). Samples of weight 0 are left out;
                validation scores are not weighted.

        Returns:
            The fitted estimator.

        Raises:
            ProbeError: There are fewer than two classes, too few samples to hold any out, or all
                configurations diverged.
            OptionError: A parameter is out of range.
        """
        x_ntd, y = self._validate(X, y)
        check_classification_targets(y)
        weights = self._validate_weights(sample_weight, x_ntd)
        multi_label = type_of_target(y) == MULTI_LABEL
        if multi_label:
            self.classes_ = np.arange(y.shape[1])
            targets = y.astype(np.uint8)
        else:
            self.classes_, targets = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        kept = targets if weights is None else targets[weights > 0]
        check_labels(kept, tuple(map(str, self.classes_)), where="fit")
        weights = self._add_class_weights(weights, targets, multi_label=multi_label)
        self._multi_label = multi_label
        self._search(
            x_ntd,
            targets,
            outputs=len(self.classes_),
            multi_label=multi_label,
            class_weights=self.class_weight == "balanced",
            sample_weight=weights,
        )
        return self

    def decision_function(self, X: Any) -> Array:
        """Return logits, float64 (N, C); for two classes their difference, (N,).

        Args:
            X: Tokens, as for `fit`.
        """
        logits = self._outputs(X).astype(np.float64)
        if self._multi_label or len(self.classes_) > 2:
            return logits
        difference: Array = logits[:, 1] - logits[:, 0]
        return difference

    def predict(self, X: Any) -> Array:
        """Return the label of each sample, (N,), or 0/1 for each class (N, C) if multi-label.

        Args:
            X: Tokens, as for `fit`.
        """
        logits = self._outputs(X)
        if self._multi_label:
            return (logits > 0).astype(np.int64)
        predicted: Array = self.classes_[logits.argmax(1)]
        return predicted

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, float64 (N, C).

        Args:
            X: Tokens, as for `fit`.
        """
        logits = self._outputs(X).astype(np.float64)
        probabilities: Array = expit(logits) if self._multi_label else softmax(logits, axis=1)
        return probabilities

    def _add_class_weights(
        self, weights: Array | None, targets: Array, *, multi_label: bool
    ) -> Array | None:
        """Return the weights of the samples times those of their classes, if given by label."""
        if self.class_weight is None or self.class_weight == "balanced":
            return weights
        if isinstance(self.class_weight, str):
            raise OptionError(
                "class_weight: expected 'balanced', weights by label or None, got "
                f"{self.class_weight!r}"
            )
        if multi_label:
            raise OptionError(
                "class_weight: expected None or 'balanced' for multi-label targets, whose samples "
                "have several classes; got weights by label"
            )
        by_class = compute_class_weight(
            dict(self.class_weight), classes=self.classes_, y=self.classes_[targets]
        )
        product: Array = by_class[targets]
        return product if weights is None else product * weights

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

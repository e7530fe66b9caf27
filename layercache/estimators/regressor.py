"""A probe as a scikit-learn regressor.

Shapes: N samples, T tokens of a sample, D width of a token, K targets.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d

from layercache.estimators.base import Array, ProbeEstimator
from layercache.probing.targets.target import check_floats


class ProbeRegressor(RegressorMixin, ProbeEstimator):  # type: ignore[misc]
    """Attentive or linear probe on tokens, as a scikit-learn regressor.

        probe = layercache.ProbeRegressor(random_state=0).fit(X, y)     # X: (N, T, D)

    `fit` trains the whole grid of hyperparameters in one pass on 80 % of the samples with the mean
    squared error of standardized targets, selects the configuration with the best R2 on the other
    20 %, and trains it on all samples. `predict` returns values in the unit of y. The parameters
    are those of `ProbeClassifier`, without `class_weight`.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the grid, select a configuration and train it on all samples.

        Args:
            X: Tokens, (N, T, D), or (N, T * D) with `n_tokens`, or (N, D) for one token.
            y: Floats, (N,) or (N, K).
            sample_weight: Weights in the training loss, (N,). Samples of weight 0 are left out;
                validation scores are not weighted.

        Returns:
            The fitted estimator.

        Raises:
            ProbeError: All targets are equal, there are too few samples to hold any out, or all
                configurations diverged.
            OptionError: A parameter is out of range.
        """
        x_ntd, y = self._validate(X, y)
        weights = self._validate_weights(sample_weight, x_ntd)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._one_target = y.ndim == 1
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        check_floats(targets if weights is None else targets[weights > 0], where="fit")
        self._search(
            x_ntd, targets, outputs=targets.shape[1], regression=True, sample_weight=weights
        )
        return self

    def predict(self, X: Any) -> Array:
        """Return predictions in the unit of y, float64 (N,) or (N, K).

        Args:
            X: Tokens, as for `fit`.
        """
        predicted = self._outputs(X).astype(np.float64)
        return predicted[:, 0] if self._one_target else predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

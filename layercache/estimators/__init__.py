"""Probes as scikit-learn estimators on arrays of tokens."""

from layercache.estimators.classifier import ProbeClassifier
from layercache.estimators.regressor import ProbeRegressor

__all__ = ["ProbeClassifier", "ProbeRegressor"]

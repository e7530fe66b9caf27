"""scikit-learn's own checks of an estimator."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import check_estimator

from layercache import ProbeClassifier, ProbeRegressor, TrainConfig

QUICK: dict[str, Any] = {
    "weight_decay": [1e-4],
    "train_config": TrainConfig(epochs=5, min_steps=60, batch=64),
    "device": "cpu",
    "random_state": 0,
}
REPEATED = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a repeated sample is drawn into batches and into the validation part by itself, "
        "a weighted one once: both converge to the same loss, not to the same numbers"
    )
}
TWO_FEATURES = {
    "check_classifiers_train": (
        "its data have two features, of which the LayerNorm of a token leaves the sign of their "
        "difference: not enough for three classes"
    )
}

ON_SOME_PROCESSORS = {
    "check_methods_subset_invariance": (
        "products in float32 of other batch sizes may round differently, by 2e-7 on an AMD EPYC, "
        "and the check allows 1e-7"
    )
}


def check(estimator: Any, expected_failed_checks: dict[str, str]) -> None:
    results = check_estimator(
        estimator,
        expected_failed_checks=expected_failed_checks | ON_SOME_PROCESSORS,
        on_skip=None,  # the array API is for other kinds of arrays, and switched off here
    )
    failed = {r["check_name"] for r in results if r["status"] == "xfail"}
    failed -= set(ON_SOME_PROCESSORS)
    assert failed == set(expected_failed_checks), "an expected failure passes: remove it"


@pytest.mark.parametrize("estimator", [ProbeClassifier, ProbeRegressor])
def test_linear_estimators_pass_the_checks_of_scikit_learn(estimator: Any) -> None:
    check(estimator(head="linear", lr=[0.1], **QUICK), REPEATED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "expected_failed_checks"),
    [(ProbeClassifier, REPEATED | TWO_FEATURES), (ProbeRegressor, REPEATED)],
)
def test_attentive_estimators_pass_the_checks_of_scikit_learn(
    estimator: Any, expected_failed_checks: dict[str, str]
) -> None:
    check(estimator(lr=[0.03], dropout=[0.0], **QUICK), expected_failed_checks)

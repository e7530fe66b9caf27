"""The estimators on arrays, next to the same probes on caches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import layercache
from layercache import ProbeClassifier, ProbeRegressor, TrainConfig
from layercache.errors import HeadMismatchError, OptionError, ProbeError, UnknownNameError
from layercache.probing.heads.spec import WITHOUT_DROPOUT
from layercache.probing.search import best_config
from layercache.probing.search.best_config import rank_configs

GRID: dict[str, Any] = {"lr": [0.001, 0.03], "weight_decay": [1e-4, 1e-2]}
QUICK: dict[str, Any] = {"train_config": TrainConfig(epochs=6, min_steps=0), "device": "cpu"}
ONE: dict[str, Any] = {"lr": 0.03, "weight_decay": 1e-4, "random_state": 0, **QUICK}


def tokens_and_labels(
    *, n: int = 200, classes: int = 3, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centers = np.random.default_rng(7).normal(size=(classes, 4, 12))
    return rng.normal(size=(n, 4, 12)).astype(np.float32) + centers[y].astype(np.float32), y


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("head", ["linear", "attentive", "efficient"])
def test_classifier_equals_the_probe_of_the_same_tokens_seed_and_grid(
    planted: Callable[..., Any], head: str, multi_label: bool
) -> None:
    cache = planted(strength=0.3, multi_label=multi_label)
    dropout = None if head in WITHOUT_DROPOUT else [0.0, 0.3]
    options = {"head": head, "dropout": dropout, **GRID, **QUICK}
    (probe,) = layercache.probe(cache, seeds=[3], **options)
    checkpoint = layercache.load_head(probe.path)
    train, test = (
        cache.split(name).read(checkpoint.pairs).transpose(1, 0, 2) for name in ("train", "test")
    )
    estimator = ProbeClassifier(random_state=3, **options).fit(train, cache.split("train").labels)

    assert estimator.best_params_ == dict(checkpoint.hparams)
    metric = "mean_average_precision" if multi_label else "balanced_accuracy"
    scores = [config.val_metrics[metric] for config in probe.configs]
    assert estimator.cv_results_["mean_test_score"].tolist() == scores
    assert estimator.best_score_ == probe.row[f"val_{metric}"]
    assert set(estimator.head_.state_dict) == set(checkpoint.state_dict)
    for name, value in checkpoint.state_dict.items():
        assert torch.equal(estimator.head_.state_dict[name], value), name
    logits = probe.predictions().logits
    if multi_label:
        assert np.array_equal(estimator.predict(test), logits > 0)
    else:
        assert np.array_equal(estimator.decision_function(test), logits.astype(np.float64))
        assert estimator.score(test, cache.split("test").labels) == probe.row["test_top1_accuracy"]


def test_fusion_classifier_equals_the_probe_on_the_same_tokens(planted: Callable[..., Any]) -> None:
    kinds = ("cls", "ap", *(f"grid:2/{i}" for i in range(4)))
    cache = planted(strength=0.3, kinds=kinds)
    options = {"head": "fusion", "lr": [0.01], "weight_decay": 1e-4, "dropout": [0.0, 0.3], **QUICK}
    (probe,) = layercache.probe(cache, tokens="cls", spatial="grid:2", seeds=[3], **options)
    checkpoint = layercache.load_head(probe.path)
    train, test = (
        cache.split(name).read(checkpoint.pairs).transpose(1, 0, 2) for name in ("train", "test")
    )
    estimator = ProbeClassifier(spatial_tokens=4, random_state=3, **options)
    estimator.fit(train, cache.split("train").labels)
    assert dict(estimator.head_.hparams) == dict(checkpoint.hparams)
    for name, value in checkpoint.state_dict.items():
        assert torch.equal(estimator.head_.state_dict[name], value), name
    logits = probe.predictions().logits
    assert np.array_equal(estimator.decision_function(test), logits.astype(np.float64))


def test_fusion_classifier_names_the_hyperparameters_of_each_branch(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("cls", "ap", *(f"grid:2/{i}" for i in range(4)))
    cache = planted(strength=0.3, kinds=kinds)
    options = {"head": "fusion", "lr": [0.03, 0.0003], "weight_decay": 1e-4, **QUICK}
    pairs = [("layers", 0.03, 0.0003), ("spatial", 0.0003, 0.03)]
    ranked = rank_configs

    def prefer(search: Any, configs: Any, *, branch: str = "") -> Any:
        """Rank by the branch as if the layers did best with the first, the others with the last."""
        best = {name: lr for name, lr, _ in pairs}.get(branch)
        return sorted(ranked(search, configs), key=lambda config: config.hparams["lr"] != best)

    monkeypatch.setattr(best_config, "rank_configs", prefer)
    train = cache.split("train").read([(1, kind) for kind in kinds]).transpose(1, 0, 2)
    estimator = ProbeClassifier(spatial_tokens=4, **options).fit(train, cache.split("train").labels)
    assert estimator.best_params_["lr"] == 0.03
    assert estimator.best_params_["spatial_lr"] == 0.0003
    results = estimator.cv_results_
    assert results["params"][estimator.best_index_] == estimator.best_params_
    assert results["mean_test_score"][estimator.best_index_] == estimator.best_score_
    assert np.isnan(results["param_spatial_lr"][:-1]).all()


@pytest.mark.parametrize("gate", ["scalar", "class", "sample"])
def test_fusion_estimators_weight_each_branch_and_give_its_module(gate: str) -> None:
    x, y = tokens_and_labels()
    options = {"head": "fusion", "spatial_tokens": 1, "gate": gate, **ONE}
    classifier = ProbeClassifier(**options).fit(x, y)
    x_test, y_test = tokens_and_labels(seed=1)
    assert classifier.score(x_test, y_test) > 0.9
    weights = classifier.attention(x)
    assert weights.shape == (200, 3 + 8, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not weights[:, :3, 3:].any()
    assert not weights[:, 3:, :3].any()
    module = classifier.to_module()
    logits = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(logits, classifier.decision_function(x), atol=1e-4, rtol=1e-4)
    regressor = ProbeRegressor(**options).fit(x, (y - 1.0))
    assert regressor.score(x_test, y_test - 1.0) > 0.5


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"head": "fusion"}, "expected 1 to 3 of 4 tokens, got None"),
        ({"head": "fusion", "spatial_tokens": 4}, "expected 1 to 3 of 4 tokens, got 4"),
        ({"spatial_tokens": 2}, "belong to the fusion head, got head 'attentive'"),
    ],
)
def test_wrong_number_of_spatial_tokens_is_refused(options: dict[str, Any], problem: str) -> None:
    x, y = tokens_and_labels()
    with pytest.raises(OptionError, match=problem):
        ProbeClassifier(**{**ONE, **options}).fit(x, y)


def test_flat_tokens_are_those_of_the_array_and_classes_keep_their_names() -> None:
    x, y = tokens_and_labels()
    names = np.array(["owl", "fox", "ant"])[y]
    estimator = ProbeClassifier(**ONE).fit(x, names)
    flat = ProbeClassifier(n_tokens=4, **ONE).fit(x.reshape(len(x), -1), names)
    assert estimator.classes_.tolist() == ["ant", "fox", "owl"]
    assert estimator.n_features_in_ == flat.n_features_in_ == 48
    x_test, y_test = tokens_and_labels(seed=1)
    assert estimator.score(x_test, np.array(["owl", "fox", "ant"])[y_test]) > 0.9
    assert np.array_equal(flat.predict_proba(x), estimator.predict_proba(x))
    assert np.array_equal(estimator.predict(x.reshape(len(x), -1)), estimator.predict(x))
    assert ProbeClassifier(**ONE).fit(x[:, 0], y).n_tokens_ == 1


def test_attention_and_module_are_those_of_the_trained_head() -> None:
    x, y = tokens_and_labels()
    estimator = ProbeClassifier(**ONE).fit(x, y)
    module = estimator.to_module()
    tokens = torch.from_numpy(x)
    logits = module(tokens).detach().numpy()
    np.testing.assert_allclose(logits, estimator.decision_function(x), atol=1e-4, rtol=1e-4)
    weights = module.attention(tokens).detach()
    np.testing.assert_allclose(weights, estimator.attention(x), atol=1e-6)
    with pytest.raises(ProbeError, match="a linear head has no attention"):
        ProbeClassifier(head="linear", **ONE).fit(x, y).attention(x)


def test_whole_grid_is_searched_and_described_as_scikit_learn_does() -> None:
    x, y = tokens_and_labels()
    estimator = ProbeClassifier(head="linear", random_state=0, **GRID, **QUICK).fit(x, y)
    results = estimator.cv_results_
    assert len(results["params"]) == 4
    assert results["params"][estimator.best_index_] == estimator.best_params_
    assert results["mean_test_score"][estimator.best_index_] == estimator.best_score_
    assert results["rank_test_score"][estimator.best_index_] == 1
    assert set(results["param_lr"]) == {0.001, 0.03}


@pytest.mark.parametrize("search", ["halving", "coordinate"])
def test_cheaper_search_has_no_score_for_configurations_that_it_left_out(search: str) -> None:
    x, y = tokens_and_labels()
    options = {"head": "linear", "random_state": 0, "lr": [0.001, 0.01, 0.03], **QUICK}
    options["weight_decay"] = [1e-3, 1e-1]
    full = ProbeClassifier(**options).fit(x, y)
    estimator = ProbeClassifier(search=search, **options).fit(x, y)
    scores = estimator.cv_results_["mean_test_score"]
    assert len(estimator.cv_results_["params"]) == len(scores) == 6
    trained = ~np.isnan(scores)
    assert 0 < trained.sum() < 6
    np.testing.assert_allclose(scores[trained], full.cv_results_["mean_test_score"][trained])
    assert estimator.best_score_ == np.nanmax(scores)
    assert estimator.cv_results_["rank_test_score"][estimator.best_index_] == 1
    assert estimator.score(x, y) > 0.9


def test_estimator_works_in_pipelines_searches_clones_and_files(tmp_path: Path) -> None:
    x, y = tokens_and_labels()
    estimator = ProbeClassifier(head="linear", **ONE)
    assert cross_val_score(estimator, x, y, cv=3).mean() > 0.9
    pipeline = make_pipeline(FunctionTransformer(np.tanh), clone(estimator)).fit(x, y)
    assert pipeline.score(x, y) > 0.9
    search = GridSearchCV(estimator, {"head": ["linear", "attentive"]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.9
    fitted = estimator.fit(x, y)
    joblib.dump(fitted, tmp_path / "probe.joblib")
    for other in (joblib.load(tmp_path / "probe.joblib"), pickle.loads(pickle.dumps(fitted))):
        assert np.array_equal(other.predict_proba(x), fitted.predict_proba(x))


def test_weights_of_samples_and_classes_change_the_fit() -> None:
    x, y = tokens_and_labels(classes=2)
    wrong = np.arange(len(y)) % 5 < 2
    noisy = np.where(wrong, 1 - y, y)
    x_test, y_test = tokens_and_labels(classes=2, seed=1)
    plain = ProbeClassifier(head="linear", **ONE).fit(x, noisy)
    for small in (0.0, 1e-6):
        weighted = clone(plain).fit(x, noisy, sample_weight=np.where(wrong, small, 1.0))
        assert weighted.score(x_test, y_test) > plain.score(x_test, y_test)
    same = clone(plain).fit(x, noisy, sample_weight=np.full(len(y), 2.0))
    np.testing.assert_allclose(same.predict_proba(x), plain.predict_proba(x), atol=1e-4)
    kept = ~wrong
    left_out = clone(plain).fit(x, noisy, sample_weight=kept.astype(float))
    without = clone(plain).fit(x[kept], y[kept], sample_weight=np.ones(kept.sum()))
    assert np.array_equal(left_out.predict_proba(x), without.predict_proba(x))
    tilted = clone(plain).set_params(class_weight={0: 20.0}).fit(x, noisy)
    assert (tilted.predict(x_test) == 0).mean() > (plain.predict(x_test) == 0).mean() + 0.1


def test_random_state_draws_another_seed_unless_it_is_a_number() -> None:
    x, y = tokens_and_labels()
    options = {**ONE, "head": "linear"}

    def fit(random_state: Any) -> np.ndarray[Any, Any]:
        estimator = ProbeClassifier(**options | {"random_state": random_state})
        return estimator.fit(x, y).decision_function(x)

    assert np.array_equal(fit(5), fit(5))
    assert not np.array_equal(fit(5), fit(6))
    generator = np.random.RandomState(0)
    assert not np.array_equal(fit(generator), fit(generator))


def test_n_jobs_is_the_number_of_threads_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = tokens_and_labels()
    before = torch.get_num_threads()
    requested: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", requested.append)
    ProbeClassifier(head="linear", n_jobs=7, **ONE).fit(x, y).predict(x)
    assert requested == [7, before, 7, before]


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_regressor_predicts_a_planted_target_in_its_unit(head: str, columns: int) -> None:
    x, classes = tokens_and_labels(n=300)
    x_test, classes_test = tokens_and_labels(n=100, seed=1)
    values = np.array([[1000.0, 5.0], [1020.0, 5.2], [990.0, 4.9]])
    values = values[:, 0] if columns == 1 else values
    estimator = ProbeRegressor(head=head, **ONE).fit(x, values[classes])
    assert estimator.predict(x_test).shape == values[classes_test].shape
    assert estimator.score(x_test, values[classes_test]) > 0.7
    assert estimator.best_score_ > 0.7
    shuffled = np.random.default_rng(0).permutation(values[classes])
    other = ProbeRegressor(head=head, **ONE).fit(x, shuffled)
    assert other.score(x_test, values[classes_test]) < 0.3


def test_invalid_input_is_refused_with_a_remedy() -> None:
    x, y = tokens_and_labels()
    with pytest.raises(UnknownNameError, match="unknown head 'atentive': did you mean attentive"):
        ProbeClassifier(head="atentive").fit(x, y)
    with pytest.raises(OptionError, match="48 features are not 5 tokens of the same width"):
        ProbeClassifier(n_tokens=5).fit(x.reshape(len(x), -1), y)
    with pytest.raises(OptionError, match="n_tokens is 5, but X has the shape"):
        ProbeClassifier(n_tokens=5).fit(x, y)
    with pytest.raises(OptionError, match="class_weight: expected 'balanced'"):
        ProbeClassifier(class_weight="balance").fit(x, y)
    with pytest.raises(ProbeError, match="only class '1' occurs"):
        ProbeClassifier().fit(x, np.ones(len(x), int))
    with pytest.raises(ValueError, match=r"at least one non-zero|a weight above 0"):
        ProbeClassifier().fit(x, y, sample_weight=np.zeros(len(x)))
    fitted = ProbeClassifier(head="linear", **ONE).fit(x, y)
    with pytest.raises(HeadMismatchError, match=r"expected tokens \(samples, 4, width\)"):
        fitted.predict(x[:, :3])
    with pytest.raises(ProbeError, match="all 200 values are 7"):
        ProbeRegressor().fit(x, np.full(len(x), 7.0))


def test_probabilities_of_a_linear_probe_resemble_logistic_regression() -> None:
    x, y = tokens_and_labels()
    x_test, y_test = tokens_and_labels(seed=1)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    other = LogisticRegression(C=100).fit(unit.reshape(len(x), -1), y)
    estimator = ProbeClassifier(head="linear", **ONE).fit(x, y)
    unit_test = x_test / np.linalg.norm(x_test, axis=-1, keepdims=True)
    agreement = estimator.predict(x_test) == other.predict(unit_test.reshape(len(x_test), -1))
    assert agreement.mean() > 0.9
    assert estimator.score(x_test, y_test) > 0.9


def test_regressor_equals_the_probe_of_the_same_tokens_targets_and_seed(
    planted: Callable[..., Any],
) -> None:
    cache = planted(strength=0.5)
    targets = {
        name: cache.split(name).labels + np.linspace(0, 1, cache.split(name).rows)
        for name in ("train", "test")
    }
    frame = cache.annotations[["split"]].copy()
    frame["age"] = np.concatenate(list(targets.values()))
    layercache.annotate(cache, frame)
    options = {"head": "linear", **GRID, **QUICK}
    (probe,) = layercache.probe(cache, target="age", seeds=[3], **options)
    checkpoint = layercache.load_head(probe.path)
    train, test = (cache.split(name).read(checkpoint.pairs).transpose(1, 0, 2) for name in targets)
    estimator = ProbeRegressor(random_state=3, **options).fit(train, targets["train"])
    assert estimator.best_params_ == dict(checkpoint.hparams)
    for name, value in checkpoint.state_dict.items():
        assert torch.equal(estimator.head_.state_dict[name], value), name
    assert np.array_equal(estimator.predict(test), probe.predictions().logits[:, 0])
    module = layercache.heads.load(probe)
    predicted = module(torch.from_numpy(test.copy())).detach()[:, 0]
    np.testing.assert_allclose(predicted, estimator.predict(test), rtol=1e-4, atol=1e-4)

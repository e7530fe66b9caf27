from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from layercache.errors import OptionError
from layercache.probing.baselines import (
    GRIDS,
    BaselineTrainer,
    NeighborClassifier,
    check_task,
    fitting,
)
from layercache.probing.closed_form import logistic
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens
from layercache.probing.heads import HeadSpec, build
from layercache.probing.metrics import evaluate

PAIRS = ((1, "cls"), (2, "ap"))


def features(split: Any) -> ResidentTokens:
    return ResidentTokens(
        SplitSelection((TokenSource(split, PAIRS),), np.arange(split.rows)),
        device=torch.device("cpu"),
    )


def matrix(split: Any) -> np.ndarray:
    """The normalised tokens side by side, in float64 and the slow way."""
    tokens = [
        split.x[layer - 1, split.tokens.index(token)].astype(np.float64) for layer, token in PAIRS
    ]
    return np.concatenate([t / np.linalg.norm(t, axis=1, keepdims=True) for t in tokens], axis=1)


def baseline(name: str, *, classes: int = 3, **head: bool) -> BaselineTrainer:
    return BaselineTrainer(
        name=name,
        seed=0,
        head=HeadSpec(kind="linear", tokens=2, width=8, classes=classes, **head),
        on_progress=None,
    )


def scores_of(trainer: BaselineTrainer, *args: Any, **options: Any) -> list[Any]:
    scores: list[Any] = []
    trainer.score(
        *args,
        fold=0,
        on_scores=scores.extend,
        **{name: value for name, value in options.items() if name != "fold"},
    )
    return scores


def tokens_of(split: Any, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(matrix(split)[rows].reshape(len(rows), 2, 8)).float()


def test_knn_votes_as_scikit_learn_on_float64_tokens(
    memory_split: Callable[..., Any],
) -> None:
    split, rows, rest = memory_split(), np.arange(60), np.arange(60, 100)
    trained = baseline("knn").train(features(split), {"k": 5}, rows=rows, epochs=None)
    predicted = trained.predict(tokens_of(split, rest)).numpy()
    alone = KNeighborsClassifier(n_neighbors=5).fit(matrix(split)[rows], split.labels[rows])
    np.testing.assert_allclose(
        np.exp(predicted), alone.predict_proba(matrix(split)[rest]), atol=1e-4
    )
    assert isinstance(trained, NeighborClassifier)


@pytest.mark.parametrize("k", [1, 2, 4, 20])
def test_knn_metrics_do_not_depend_on_the_numbering_of_the_classes(
    memory_split: Callable[..., Any], k: int
) -> None:
    split, rows, rest = memory_split(rows=400), np.arange(300), np.arange(300, 400)
    labels = np.random.default_rng(0).integers(0, 8, 400)
    found = []
    for numbers in (np.arange(8), np.arange(8)[::-1], np.random.default_rng(1).permutation(8)):
        split.labels = numbers[labels]
        trained = baseline("knn", classes=8).train(
            features(split), {"k": k}, rows=rows, epochs=None
        )
        logits = trained.predict(tokens_of(split, rest)).numpy()
        found.append((evaluate(logits, split.labels[rest]), logits[:, numbers]))
    for metrics, logits in found:
        assert metrics == pytest.approx(found[0][0], rel=1e-12)
        np.testing.assert_array_equal(logits, found[0][1])


def test_knn_ranks_classes_by_votes_and_then_by_their_nearest_sample(
    memory_split: Callable[..., Any],
) -> None:
    split, rows, rest = memory_split(rows=200), np.arange(150), np.arange(150, 200)
    split.labels = np.random.default_rng(0).integers(0, 6, 200)
    x = matrix(split)
    distances = np.linalg.norm(x[rest][:, None] - x[rows], axis=2)
    trained = baseline("knn", classes=7).train(features(split), {"k": 4}, rows=rows, epochs=None)
    logits = trained.predict(tokens_of(split, rest)).numpy()
    ties = 0
    for row, distance in zip(logits, distances, strict=True):
        votes = np.bincount(split.labels[np.argsort(distance)[:4]], minlength=7)
        nearest = [distance[split.labels[rows] == c].min(initial=np.inf) for c in range(7)]
        assert list(np.argsort(-row)) == sorted(range(7), key=lambda c: (-votes[c], nearest[c]))
        ties += np.sum(votes == votes.max()) > 1
        np.testing.assert_allclose(np.exp(row), votes / 4, atol=1e-4)
    assert ties > 5


@pytest.mark.parametrize("classes", [2, 3])
def test_logreg_returns_a_linear_head(memory_split: Callable[..., Any], classes: int) -> None:
    split, rows, rest = memory_split(), np.arange(60), np.arange(60, 100)
    split.labels = split.labels % classes
    trained = baseline("logreg", classes=classes).train(
        features(split), {"C": 10.0}, rows=rows, epochs=None
    )
    x = tokens_of(split, rest)
    head = build(trained.spec)
    logits = head.logits(
        {name: p[None] for name, p in trained.state_dict.items()}, head.preprocess(x), train=False
    )[0]
    alone = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, tol=1e-8).fit(
        matrix(split)[rows], split.labels[rows]
    )
    np.testing.assert_allclose(
        logits.softmax(1), alone.predict_proba(matrix(split)[rest]), atol=2e-3
    )


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("converged", [True, False])
def test_logreg_records_whether_it_converged(
    memory_split: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    multi_label: bool,
    converged: bool,
) -> None:
    split, rows = memory_split(), np.arange(60)
    if multi_label:
        split.labels = (np.arange(300).reshape(100, 3) % 2).astype(np.uint8)
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1000 if converged else 1)
    trainer = baseline("logreg", multi_label=multi_label)
    trained = trainer.train(features(split), {"C": 10.0}, rows=rows, epochs=None)
    assert trained.converged is converged


def test_baseline_never_predicts_a_class_without_samples(memory_split: Callable[..., Any]) -> None:
    split, rows = memory_split(), np.arange(100)
    for name, hparams in (
        ("knn", {"k": 5}),
        ("knn", {"k": 5, "temperature": 0.1}),
        ("logreg", {"C": 1.0}),
        ("ridge", {"alpha": 1.0}),
        ("lda", {"shrinkage": 0.1}),
    ):
        trainer = baseline(name, classes=5)
        trained = trainer.train(features(split), hparams, rows=rows, epochs=None)
        x = tokens_of(split, rows)
        if isinstance(trained, NeighborClassifier):
            predicted = trained.predict(x).numpy()
        else:
            predicted = (
                x.flatten(1) @ trained.state_dict["classifier.weight"].T
                + trained.state_dict["classifier.bias"]
            ).numpy()
        assert predicted.shape == (100, 5)
        assert predicted.argmax(1).max() < 3


@pytest.mark.parametrize(
    ("name", "hparams"),
    [
        ("knn", {"k": 3}),
        ("knn", {"k": 10, "temperature": 0.1}),
        ("logreg", {"C": 10.0}),
        ("ridge", {"alpha": 0.1}),
    ],
)
def test_baseline_of_multi_label_targets_scores_each_class(
    memory_split: Callable[..., Any], name: str, hparams: dict[str, float]
) -> None:
    split, rows = memory_split(), np.arange(100)
    x = matrix(split)
    split.labels = np.stack([x[:, 0] > 0, x[:, 3] > 0.1, np.ones(100)], axis=1).astype(np.uint8)
    (score,) = scores_of(
        baseline(name, multi_label=True),
        features(split),
        [hparams],
        train=rows[:60],
        val=rows[60:],
        fold=0,
    )
    assert score.val_metrics["mean_average_precision"] > 0.75
    split.labels[:, :2] = np.random.default_rng(1).permutation(split.labels[:, :2])
    (chance,) = scores_of(
        baseline(name, multi_label=True),
        features(split),
        [hparams],
        train=rows[:60],
        val=rows[60:],
        fold=0,
    )
    assert (
        chance.val_metrics["mean_average_precision"]
        < score.val_metrics["mean_average_precision"] - 0.05
    )


def test_knn_with_fewer_samples_than_neighbors_uses_all(memory_split: Callable[..., Any]) -> None:
    split = memory_split()
    (score,) = scores_of(
        baseline("knn"),
        features(split),
        [{"k": 50}],
        train=np.arange(20),
        val=np.arange(20, 100),
        fold=0,
    )
    assert 0 <= score.val_metrics["balanced_accuracy"] <= 1


def test_baseline_beyond_free_memory_raises(
    memory_split: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = features(memory_split())
    monkeypatch.setattr(fitting, "free_memory", lambda device: 1000)
    with pytest.raises(
        OptionError,
        match=r"100 samples x 2 x 8 in float32, and 2 copies of it, 19.2 kB; half of the free "
        r"memory is 500 bytes",
    ):
        scores_of(baseline("knn"), held, [{"k": 1}], train=np.arange(100), val=np.arange(2), fold=0)


def test_baseline_reports_progress_per_configuration(memory_split: Callable[..., Any]) -> None:
    calls: list[tuple[int, int]] = []
    trainer = BaselineTrainer(
        name="knn",
        seed=0,
        head=baseline("knn").head,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    scores_of(
        trainer,
        features(memory_split()),
        [{"k": 1}, {"k": 2}],
        train=np.arange(50),
        val=np.arange(50, 100),
        fold=0,
    )
    assert calls == [(1, 2), (2, 2)]


ALONE: dict[str, Callable[[float], Any]] = {
    "ridge": lambda value: RidgeClassifier(value, class_weight="balanced"),
    "lda": lambda value: LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=value, priors=np.full(3, 1 / 3)
    ),
    "logreg": lambda value: LogisticRegression(
        C=value, class_weight="balanced", max_iter=1000, tol=1e-8
    ),
}


@pytest.mark.parametrize("samples", [12, 60])
@pytest.mark.parametrize("name", list(ALONE))
def test_all_configurations_score_as_scikit_learn_alone(
    memory_split: Callable[..., Any], name: str, samples: int
) -> None:
    split, rows, rest = memory_split(), np.arange(samples), np.arange(60, 100)
    split.labels = np.arange(100) % 3
    scores = scores_of(baseline(name), features(split), GRIDS[name], train=rows, val=rest, fold=0)
    assert [score.hparams for score in scores] == list(GRIDS[name])
    for score in scores:
        x = matrix(split)
        (value,) = score.hparams.values()
        alone = ALONE[name](value).fit(x[rows], split.labels[rows])
        trained = baseline(name).train(features(split), score.hparams, rows=rows, epochs=None)
        predicted = trained.predict(tokens_of(split, rest)).argmax(1).numpy()
        expected = alone.predict(x[rest])
        assert (predicted == expected).mean() >= 0.95  # some are nearly tied
        accuracy = evaluate(np.eye(3)[expected], split.labels[rest])["balanced_accuracy"]
        assert score.val_metrics["balanced_accuracy"] == pytest.approx(accuracy, abs=0.06)


@pytest.mark.parametrize("name", ["ridge", "lda", "logreg", "knn"])
def test_streamed_tokens_are_fitted_as_resident_ones(
    memory_split: Callable[..., Any], name: str
) -> None:
    split, rows = memory_split(), np.arange(80)
    resident = features(split)
    streamed = StreamedTokens(
        resident.selection, device=torch.device("cpu"), memory_budget=2 * 100 * 2 * 8 * 4
    )
    x = tokens_of(split, np.arange(80, 100))
    one, other = (
        baseline(name).train(dataset, GRIDS[name][3], rows=rows, epochs=None).predict(x)
        for dataset in (resident, streamed)
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "hparams", "alone"),
    [
        ("ridge", {"alpha": 0.01}, Ridge(0.01)),
        ("knn", {"k": 5}, KNeighborsRegressor(5)),
    ],
)
def test_regression_predicts_in_the_unit_of_the_targets(
    memory_split: Callable[..., Any], name: str, hparams: dict[str, float], alone: Any
) -> None:
    split, rows, rest = memory_split(), np.arange(60), np.arange(60, 100)
    x = matrix(split)
    targets = np.stack([x[:, 0] * 1000 + 5000, x[:, 9]], axis=1)
    dataset = features(split).with_labels(targets)
    trainer = baseline(name, classes=2, regression=True)
    trained = trainer.train(dataset, hparams, rows=rows, epochs=None)
    predicted = trained.predict(tokens_of(split, rest)).numpy()
    expected = alone.fit(x[rows], targets[rows]).predict(x[rest])
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-3)
    (score,) = scores_of(trainer, dataset, [hparams], train=rows, val=rest, fold=0)
    expected_r2 = r2_score(targets[rest], expected)
    assert score.val_metrics["r2"] == pytest.approx(expected_r2, abs=1e-4)


def test_head_for_classes_alone_refuses_other_targets() -> None:
    with pytest.raises(
        OptionError,
        match="head lda is trained for classification, and this target is for multi-label: "
        "choose knn, logreg, ridge or linear",
    ):
        check_task("lda", "multi-label")
    check_task("attentive", "regression")

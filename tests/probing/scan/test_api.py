from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, r2_score

import layercache
from layercache import testing
from layercache.cache.reading.split import Split
from layercache.errors import OptionError, ProbeError, UnknownNameError

CLASSES, WIDTH, LAYERS = 3, 8, 4


def make(
    root: Path,
    *,
    rows: int = 160,
    test: int = 80,
    val: int = 0,
    labels: Callable[..., Any] | None = None,
) -> layercache.Cache:
    """A cache whose later layers tell the classes apart better."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((LAYERS, 2, CLASSES, WIDTH))
    tokens, targets = {}, {}
    for split, n in (("train", rows), ("test", test), ("val", val)):
        if not n:
            continue
        y = np.arange(n) % CLASSES
        noise = rng.standard_normal((LAYERS, 2, n, WIDTH))
        strength = np.linspace(0.1, 0.8, LAYERS)[:, None, None, None]
        x = noise + strength * centers[:, :, y] + 1.0
        tokens[split] = x.astype(np.float16)
        targets[split] = y if labels is None else labels(x, y)
    return testing.write_cache(tokens, targets, root=root, classes=CLASSES)


def unit(cache: layercache.Cache, split: str, pairs: list[tuple[int, str]]) -> np.ndarray:
    """Normalized tokens side by side, in float64."""
    opened = cache.split(split)
    x = opened.read(pairs).astype(np.float64)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return np.concatenate(list(x), axis=1)


def value_of(row: Any) -> float:
    return float(row["config"].partition("=")[2])


def pairs_of(row: Any) -> list[tuple[int, str]]:
    if row["n_tokens"] == 1:
        return [(int(row["layers"]), row["tokens"])]
    layers = {"last": [4], "mid-last": [2, 4], "quarter": [1, 2, 3, 4]}[row["layers"]]
    return [(layer, kind) for layer in layers for kind in ("cls", "ap")]


@pytest.mark.parametrize("rows", [40, 160])
def test_heads_score_as_scikit_learn_with_the_selected_setting(tmp_path: Path, rows: int) -> None:
    cache = make(tmp_path, rows=rows)
    table = layercache.scan(cache, heads=["ridge", "lda"]).table
    assert len(table) == 2 * (8 + 3)
    y = {split: cache.split(split).labels for split in ("train", "test")}
    for _, row in table.iterrows():
        x = {split: unit(cache, split, pairs_of(row)) for split in y}
        if row["head"] == "ridge":
            alone = RidgeClassifier(value_of(row), class_weight="balanced")
        else:
            alone = LinearDiscriminantAnalysis(
                solver="lsqr", shrinkage=value_of(row), priors=np.full(CLASSES, 1 / CLASSES)
            )
        alone.fit(x["train"], y["train"])
        expected = balanced_accuracy_score(y["test"], alone.predict(x["test"]))
        assert row["test_balanced_accuracy"] == pytest.approx(expected, abs=0.013)
        low, high = row["test_ci95_low"], row["test_ci95_high"]
        assert low <= row["test_balanced_accuracy"] <= high


def test_later_layers_and_several_together_score_better(tmp_path: Path) -> None:
    result = layercache.scan(make(tmp_path))
    for head in ("ridge", "lda", "knn"):
        curve = result.curve(head, "cls")["test_balanced_accuracy"].to_numpy()
        assert curve[-1] > curve[0] + 0.2
    assert result.ranking()["n_tokens"].iloc[0] > 1
    text = result.to_text()
    assert "ridge" in text
    assert "settings were selected by 32 of 160 training samples" in text


def test_scan_of_shuffled_labels_is_at_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cache = make(tmp_path, test=600, labels=lambda x, y: rng.permutation(y))
    table = layercache.scan(cache).table
    assert abs(table["test_balanced_accuracy"].mean() - 1 / 3) < 0.05


def test_every_token_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(tmp_path)
    reads: Counter[tuple[str, int, Any]] = Counter()
    read = Split.read_stored

    def count(self: Split, pairs: Any, *, rows: Any = None, **options: Any) -> Any:
        for row in range(*rows):
            reads.update((self.name, row, pair) for pair in pairs)
        return read(self, pairs, rows=rows, **options)

    monkeypatch.setattr(Split, "read_stored", count)
    layercache.scan(cache)
    assert set(reads.values()) == {1}
    assert len(reads) == (160 + 80) * LAYERS * 2


def test_regression_is_scanned_with_ridge_and_knn(tmp_path: Path) -> None:
    cache = make(tmp_path)
    values = {}
    for split in ("train", "test"):
        x = unit(cache, split, [(4, "cls")])
        values[split] = 100 + 10 * x[:, 0]
    index = cache.annotations.reset_index()
    rows = index.assign(score=np.concatenate([values[s] for s in ("train", "test")]))
    layercache.annotate(cache, rows[["id", "split", "score"]])
    table = layercache.scan(layercache.open_cache(cache.path), target="score").table
    assert set(table["head"]) == {"ridge", "knn"}
    best = table[table["head"] == "ridge"].set_index(["layers", "tokens"]).loc["4", "cls"]
    x = {split: unit(cache, split, [(4, "cls")]) for split in values}
    alone = Ridge(value_of(best)).fit(x["train"], values["train"])
    expected = r2_score(values["test"], alone.predict(x["test"]))
    assert best["test_r2"] == pytest.approx(expected, abs=1e-3)


def test_several_labels_are_scanned_with_ridge_and_knn(tmp_path: Path) -> None:
    def labels(x: Any, y: Any) -> Any:
        return np.stack([x[3, 0, :, 0] > 1, x[3, 1, :, 1] > 1, y == 0], axis=1).astype(np.uint8)

    result = layercache.scan(make(tmp_path, labels=labels))
    assert set(result.table["head"]) == {"ridge", "knn"}
    assert result.ranking()["test_mean_average_precision"].iloc[0] > 0.8


def test_scan_without_a_test_split_has_validation_scores_alone(tmp_path: Path) -> None:
    result = layercache.scan(make(tmp_path), test_split=None, heads="ridge")
    assert not result.tested
    assert "val balanced accuracy of single tokens" in result.to_text()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"heads": "logreg"}, UnknownNameError, "head of a scan"),
        ({"heads": []}, OptionError, "at least one of ridge, lda and knn"),
    ],
)
def test_wrong_options_raise(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        layercache.scan(make(tmp_path), **options)


def test_one_sample_per_class_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="leave none for validation"):
        layercache.scan(make(tmp_path, rows=3))


@pytest.mark.parametrize("rows", [40, 160])
def test_validation_split_selects_and_is_not_trained_on(tmp_path: Path, rows: int) -> None:
    cache = make(tmp_path, rows=rows, val=60)
    result = layercache.scan(cache, heads=["ridge", "knn"])
    assert "settings were selected by 60 of 60 samples of split val" in result.notes
    table = result.table
    y = {split: cache.split(split).labels for split in ("train", "val", "test")}
    for _, row in table[table["head"] == "ridge"].iterrows():
        x = {split: unit(cache, split, pairs_of(row)) for split in y}
        alone = RidgeClassifier(value_of(row), class_weight="balanced")
        alone.fit(x["train"], y["train"])
        for part in ("val", "test"):
            expected = balanced_accuracy_score(y[part], alone.predict(x[part]))
            assert row[f"{part}_balanced_accuracy"] == pytest.approx(expected, abs=0.02)
    again = layercache.scan(cache, heads=["ridge", "knn"], val_split=None)
    assert f"settings were selected by {rows // 5} of {rows} training samples" in again.notes


def test_group_stays_on_one_side_and_the_intervals_draw_groups(tmp_path: Path) -> None:
    cache = make(tmp_path)
    index = cache.annotations.reset_index()
    patients = [f"p{i // 8}" for i in range(len(index))]
    layercache.annotate(cache, index.assign(patient=patients)[["id", "split", "patient"]])
    cache = layercache.open_cache(cache.path)
    plain = layercache.scan(cache, heads="ridge").table
    grouped = layercache.scan(cache, heads="ridge", group="patient")
    assert any("without a patient on both sides" in note for note in grouped.notes)
    assert not grouped.table["test_ci95_low"].equals(plain["test_ci95_low"])
    with pytest.raises(UnknownNameError, match="did you mean patient"):
        layercache.scan(cache, group="patent")


def test_split_that_is_tested_on_cannot_select(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="tested on, so it cannot select"):
        layercache.scan(make(tmp_path), val_split="test")


def test_default_subsets_beyond_memory_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(tmp_path)
    monkeypatch.setattr("layercache.probing.scan.memory.FEATURE_MATRICES", 10**6)
    monkeypatch.setattr("layercache.probing.scan.api.free_memory", lambda device: 10**9)
    result = layercache.scan(cache, heads="ridge")
    assert "left out, as it needs more memory than there is: quarter" in " ".join(result.notes)
    assert set(result.table["layers"]) == {"1", "2", "3", "4", "last"}


def test_remedy_of_a_scan_beyond_memory_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(tmp_path)
    monkeypatch.setattr("layercache.probing.scan.memory.FEATURE_MATRICES", 10**6)
    monkeypatch.setattr("layercache.probing.scan.api.free_memory", lambda device: 10**9)
    with pytest.raises(OptionError, match=r"this scan needs 4\.1.* --subsets none\)"):
        layercache.scan(cache, heads="ridge", subsets=["quarter"])
    assert len(layercache.scan(cache, heads="ridge", subsets=[]).table) == 8

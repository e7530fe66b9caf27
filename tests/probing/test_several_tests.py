"""Several test sets of one selected head: further splits, other datasets, and leakage into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from layercache.cache import Cache
from layercache.cache.annotate import annotate
from layercache.errors import (
    CacheNotFoundError,
    HeadMismatchError,
    OptionError,
    ProbeError,
    UnknownNameError,
)
from layercache.probing.api import probe
from layercache.probing.results.reading import read_results
from layercache.probing.training import trainer
from tests.logs import logged
from tests.probing.quick import ONE_CONFIG

RNG = np.random.default_rng(0)
DIRECTIONS = RNG.normal(size=(4, 8))
NAMES = ("ant", "bee", "cat")


def tokens_of(labels: np.ndarray[Any, Any], *, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return tokens (2, 2, N, 8) whose mean depends on the label."""
    noise = np.random.default_rng(seed).normal(size=(2, 2, len(labels), 8))
    return (noise + 0.7 * DIRECTIONS[labels]).astype("float16")


@pytest.fixture
def main(write_cache: Callable[..., Cache]) -> Cache:
    """Classes ant, bee and cat; splits train, test and shifted."""
    labels = {name: np.arange(n) % 3 for name, n in (("train", 90), ("test", 45), ("shifted", 30))}
    tokens = {name: tokens_of(y, seed=i) for i, (name, y) in enumerate(labels.items())}
    return write_cache(tokens, labels, classes=NAMES, dataset="own")


@pytest.fixture
def other(write_cache: Callable[..., Cache]) -> Callable[..., Cache]:
    """other(names, ...): a cache with only a test split and the classes of these names."""

    def make(names: tuple[str, ...], *, dataset: str = "elsewhere", **options: Any) -> Cache:
        known = ["ant", "bee", "cat", "dog"]
        labels = np.arange(40) % len(names)
        tokens = tokens_of(np.array([known.index(name) for name in names])[labels], seed=9)
        split = options.pop("split", "test")
        return write_cache(
            {split: tokens}, {split: labels}, classes=names, dataset=dataset, **options
        )

    return make


def test_probe_of_several_tests_equals_probes_of_one_each(main: Cache) -> None:
    heads = ["linear", "attentive", "knn"]
    both = probe(main, head=heads, test_split=["test", "shifted"], **ONE_CONFIG)
    for name, column in (("test", ""), ("shifted", "@shifted")):
        alone = probe(main, head=heads, test_split=name, **ONE_CONFIG)
        for one, several in zip(alone, both, strict=True):
            for metric in ("balanced_accuracy", "top1_accuracy", "ci95_low", "ci95_high"):
                assert one.row[f"test_{metric}"] == several.row[f"test_{metric}{column}"]
            assert one.row["test_rows"] == several.row[f"test_rows{column}"]
            stored, expected = several.predictions(name), one.predictions()
            assert np.array_equal(stored.logits, expected.logits)
            assert stored.sample_ids == expected.sample_ids
    assert both.probes[0].tests == ("test", "shifted")
    with pytest.raises(UnknownNameError, match="unknown test set"):
        both.probes[0].predictions("tset")


def test_probe_trains_once_for_several_tests(main: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    fit = trainer.fit
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: fits.append(1) or fit(*a, **k))
    probe(main, head="linear", test_split=["test", "shifted"], **ONE_CONFIG)
    assert len(fits) == 2, "the search and the refit"


def test_table_has_columns_for_each_test(main: Cache) -> None:
    results = probe(main, head="linear", seeds=2, test_split=["test", "shifted"], **ONE_CONFIG)
    table = results.table
    column = "test_balanced_accuracy@shifted"
    assert table[column].tolist() == [p.row[column] for p in results]
    assert set(table["further_tests"]) == {"shifted"}
    over = results.over_seeds()
    assert over[f"{column}_mean"].tolist() == [pytest.approx(table[column].mean())]
    text = results.to_text()
    assert "shifted" in text
    assert "shifted" in results.to_text(over_seeds=True)
    (stored,) = {p.spec["splits"][1] for p in read_results(main)}
    assert stored == "test"


def test_gain_is_over_a_baseline_with_fewer_tests(main: Cache) -> None:
    baseline = {"head": "linear", "layers": "last", "tokens": "cls"}
    probe(main, **baseline, **ONE_CONFIG)
    results = probe(main, head="linear", test_split=["test", "shifted"], **ONE_CONFIG)
    gains = results.with_gain(among=read_results(main))
    assert gains["gain"].notna().all()


def test_probe_on_another_dataset_matches_classes_by_name(
    main: Cache, other: Callable[..., Cache]
) -> None:
    reordered = other(("cat", "ant", "bee"))
    (trained,) = probe(main, head="linear", test_cache=reordered, **ONE_CONFIG)
    stored = trained.predictions("elsewhere")
    expected = np.array([2, 0, 1])[reordered.split("test").labels]
    assert np.array_equal(stored.targets, expected)
    x = reordered.split("test").read(trained.pairs).astype(np.float32).transpose(1, 0, 2)
    predicted = trained.head().predict(x).argmax(1).numpy()
    score = balanced_accuracy_score(expected, predicted)
    assert trained.row["test_balanced_accuracy@elsewhere"] == pytest.approx(score)
    assert score > 0.6
    assert trained.spec["tests"][0]["fingerprint"] == reordered.spec.fingerprint


def test_probe_on_a_dataset_with_other_classes_counts_them(
    main: Cache, other: Callable[..., Cache]
) -> None:
    cache = other(("dog", "bee", "ant"))
    with logged() as lines:
        (trained,) = probe(main, head="linear", test_cache=cache, **ONE_CONFIG)
    labels = cache.split("test").labels
    assert trained.row["test_rows@elsewhere"] == int((labels != 0).sum())
    assert set(trained.predictions("elsewhere").targets.tolist()) == {0, 1}
    assert any(
        "14 of 40 samples are left out, of classes that the head does not have: dog" in line
        for line in lines
    )
    assert any("without 1 of the 3 classes of the head" in line for line in lines)


def test_probe_on_a_dataset_without_a_common_class_raises(
    main: Cache, other: Callable[..., Cache]
) -> None:
    with pytest.raises(ProbeError, match="no class in common: dog there, ant, bee and cat here"):
        probe(main, head="linear", test_cache=other(("dog",)), **ONE_CONFIG)


def test_test_cache_is_found_by_folder_or_name(main: Cache, other: Callable[..., Cache]) -> None:
    cache = other(("bee", "cat"), split="val")
    ids = {
        probe(main, head="linear", test_cache=given, **ONE_CONFIG).probes[0].id
        for given in (cache, str(cache.path), "elsewhere", "elsewhere@val")
    }
    assert len(ids) == 1
    with pytest.raises(CacheNotFoundError, match="there is no cache of vit_small_made on it"):
        probe(main, head="linear", test_cache="nowhere", **ONE_CONFIG)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"weights": "cd" * 32}, HeadMismatchError, "expected a cache of the same weights"),
        ({"kinds": ("cls", "std")}, OptionError, r"2 of the 4 tokens .* such as 'ap' of layer 1"),
    ],
)
def test_test_cache_of_another_backbone_or_other_tokens_raises(
    main: Cache, other: Callable[..., Cache], options: dict[str, Any], error: Any, text: str
) -> None:
    with pytest.raises(error, match=text):
        probe(main, head="linear", test_cache=other(NAMES, **options), **ONE_CONFIG)


def test_multi_label_test_cache_matches_columns_by_name(
    write_cache: Callable[..., Cache],
) -> None:
    rng = np.random.default_rng(0)

    def made(n: int, seed: int, classes: tuple[str, ...], dataset: str, *splits: str) -> Cache:
        labels = {s: (rng.random((n, len(classes))) < 0.5).astype(np.uint8) for s in splits}
        tokens = {
            s: np.random.default_rng(seed).normal(size=(1, 2, n, 8)).astype("float16")
            for s in splits
        }
        return write_cache(tokens, labels, classes=classes, dataset=dataset)

    main = made(40, 0, NAMES, "own", "train", "test")
    cache = made(20, 1, ("dog", "cat", "ant"), "elsewhere", "test")
    (trained,) = probe(main, head="linear", test_cache=cache, **ONE_CONFIG)
    targets, labels = trained.predictions("elsewhere").targets, cache.split("test").labels
    assert np.array_equal(targets[:, [0, 2]], labels[:, [2, 1]])
    assert not targets[:, 1].any()


def test_leakage_of_images_is_counted(write_cache: Callable[..., Cache]) -> None:
    labels = {"train": np.arange(60) % 3, "val": np.arange(20) % 3, "test": np.arange(30) % 3}
    tokens = {name: tokens_of(y, seed=i) for i, (name, y) in enumerate(labels.items())}
    tokens["test"][:, :, :7] = tokens["train"][:, :, 10:17]
    tokens["val"][:, :, :3] = tokens["train"][:, :, :3]
    cache = write_cache(tokens, labels, classes=NAMES)
    for features in ("resident", "stream"):
        with logged() as lines:
            results = probe(cache, head="linear", features=features, refresh=True, **ONE_CONFIG)
        assert results.probes[0].row["test_rows_in_train"] == 7
        assert any("leakage: split test: 7 of 30 images are in train, too" in x for x in lines)
        assert any("leakage: split val: 3 of 20 images are in train, too" in x for x in lines)
    assert "leakage, in train and in test: 7 of 30 images of test" in results.to_text()


def test_leakage_is_none_for_different_images(main: Cache) -> None:
    with logged() as lines:
        results = probe(main, head="linear", **ONE_CONFIG)
    assert results.probes[0].row["test_rows_in_train"] == 0
    assert results.probes[0].row["test_groups_in_train"] is None
    assert not any("leakage" in line for line in lines)
    assert "leakage" not in results.to_text()


def test_leakage_of_groups_is_counted_and_intervals_are_of_groups(main: Cache) -> None:
    table = main.annotations
    split = table["split"].astype(str).to_numpy()
    patients = np.array([f"{s}-{i // 5}" for i, s in enumerate(split)], object)
    row = np.flatnonzero(split == "test")
    patients[row[:10]] = "train-0"
    patients[row[10:15]] = "train-1"
    annotate(main, pd.DataFrame({"id": table.index, "split": split, "patient": patients}))
    with logged() as lines:
        (trained,) = probe(main, head="linear", group="patient", **ONE_CONFIG)
    assert trained.row["test_groups_in_train"] == 2
    assert any("leakage: split test: 2 groups are in train, too" in line for line in lines)
    assert trained.predictions().groups == tuple(patients[row])
    (plain,) = probe(main, head="linear", **ONE_CONFIG)
    assert trained.row["test_ci95_low"] != plain.row["test_ci95_low"]


def test_probe_of_corrected_labels_of_another_dataset_is_another_one(
    main: Cache, other: Callable[..., Cache]
) -> None:
    cache = other(("ant", "bee"))
    (first,) = probe(main, head="linear", test_cache=cache, **ONE_CONFIG)
    table = cache.annotations
    corrected = table["label"].astype(str).to_numpy()[::-1]
    annotate(cache, pd.DataFrame({"id": table.index, "label": corrected}))
    (second,) = probe(main, head="linear", test_cache=cache, **ONE_CONFIG)
    assert first.id != second.id
    assert first.settings.experiment_key != second.settings.experiment_key
    assert first.row["test_balanced_accuracy"] == second.row["test_balanced_accuracy"]
    score = "test_balanced_accuracy@elsewhere"
    assert first.row[score] > 0.6 > second.row[score]
    with logged() as lines:
        assert [probe.id for probe in read_results(main)] == [second.id]
    assert any("1 probe of superseded annotations left out (label " in line for line in lines)
    assert [probe.id for probe in read_results(main, superseded=True)] == [first.id]


def test_probe_on_a_further_test_set_reuses_the_search(
    main: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = ["linear", "attentive", "knn"]
    options = {**ONE_CONFIG, "lr": [0.03, 0.01]}
    first = probe(main, head=heads, **options)
    alone = [
        p.predictions().logits
        for p in probe(main, head=heads, test_split="shifted", refresh=True, **options)
    ]
    searches: list[bool] = []
    fit = trainer.fit
    monkeypatch.setattr(
        trainer, "fit", lambda *a, **k: searches.append(k["val"] is not None) or fit(*a, **k)
    )
    with logged() as lines:
        both = probe(main, head=heads, test_split=["test", "shifted"], **options)
    assert searches == [False, False], "the final fits alone"
    assert sum("only the final fit and the tests are to be done" in line for line in lines) == 3
    for earlier, probed, logits in zip(first, both, alone, strict=True):
        assert np.array_equal(probed.predictions().logits, earlier.predictions().logits)
        assert np.array_equal(probed.predictions("shifted").logits, logits)
        for name in ("lr", "weight_decay", "config", "val_balanced_accuracy", "n_configs"):
            assert probed.row[name] == earlier.row[name]
        assert [c.val_metrics for c in probed.configs] == [c.val_metrics for c in earlier.configs]


def test_samples_without_a_target_in_further_tests_are_counted(
    main: Cache, other: Callable[..., Cache]
) -> None:
    elsewhere = other(NAMES)
    for cache in (main, elsewhere):
        table = cache.annotations
        values = np.random.default_rng(1).normal(size=len(table))
        values[np.isin(table["split"], ["shifted", "test"]).nonzero()[0][:4]] = np.nan
        shifted = (table["split"] == "shifted").to_numpy().nonzero()[0]
        values[shifted[-7:]] = np.nan
        annotate(cache, table[["split"]].assign(size=values).reset_index())
    with logged() as lines:
        results = probe(
            main,
            head=["ridge", "linear"],
            target="size",
            test_split=["test", "shifted"],
            test_cache=elsewhere,
            **ONE_CONFIG,
        )
    row = results.probes[0].row
    missing = 30 - row["test_rows@shifted"]
    assert 7 <= missing < 30
    for line in (
        f"{missing} of 30 samples of split shifted have no value in column 'size'",
        "test elsewhere: 4 of 40 samples of split test have no value in column 'size'",
    ):
        assert len([text for text in lines if line in text]) == 1, (line, lines)


def test_further_test_without_the_target_is_found_before_training(
    main: Cache, other: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = other(NAMES)
    annotate(main, main.annotations[["split"]].assign(size=np.arange(165.0)).reset_index())
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(UnknownNameError, match="'size'"):
        probe(main, head="linear", target="size", test_cache=elsewhere, **ONE_CONFIG)
    with pytest.raises(ProbeError, match="no class in common"):
        probe(main, head="linear", test_cache=other(("dog",), dataset="dogs"), **ONE_CONFIG)


def test_table_of_many_test_sets_is_not_fragmented(main: Cache) -> None:
    results = probe(main, head="linear", test_split=["test", "shifted"], **ONE_CONFIG)
    table = results.table
    assert table._mgr.nblocks < table.shape[1] / 2, "pandas warns above 100 blocks"

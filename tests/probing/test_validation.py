"""Validation splits, groups, folds and repeats, from `probe` to the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layercache.cache import Cache
from layercache.cache.annotate import annotate
from layercache.errors import OptionError, ProbeError, UnknownNameError
from layercache.probing.api import probe
from layercache.probing.plan import plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.results.table.table import Results
from layercache.probing.splits.train_subset import sample_subset
from layercache.probing.training import trainer
from tests.logs import logged
from tests.probing.quick import ONE_CONFIG

ROWS = {"train": 120, "val": 40, "test": 60}


@pytest.fixture
def divided(write_cache: Callable[..., Cache]) -> Callable[..., Cache]:
    """divided(val=name, ...): a cache with a validation split of this name."""

    def make(val: str = "val", **options: Any) -> Cache:
        rng = np.random.default_rng(0)
        directions = rng.normal(size=(3, 8))
        tokens, labels = {}, {}
        for name, n in ROWS.items():
            y = rng.permutation(np.arange(n) % 3)
            split = val if name == "val" else name
            tokens[split] = (rng.normal(size=(2, 2, n, 8)) + directions[y]).astype("float16")
            labels[split] = y
        return write_cache(tokens, labels, **options)

    return make


@pytest.fixture
def rows_of_fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """Numbers of rows that each fit trains on and is scored on."""
    seen: list[tuple[int, int | None]] = []
    fit = trainer.fit
    monkeypatch.setattr(
        trainer,
        "fit",
        lambda *a, **k: (
            seen.append((len(k["train"]), None if k["val"] is None else len(k["val"])))
            or fit(*a, **k)
        ),
    )
    return seen


def annotated(cache: Cache, **columns: Any) -> Cache:
    """Add columns of values for all samples, split by split in the order of the cache's table."""
    table = cache.annotations
    values = {"id": table.index, "split": table["split"].astype(str).to_numpy(), **columns}
    annotate(cache, pd.DataFrame(values))
    return cache


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
def test_probe_selects_on_the_validation_split_and_trains_on_train(
    divided: Callable[..., Cache], name: str, rows_of_fits: list[tuple[int, int | None]]
) -> None:
    with logged() as lines:
        (trained,) = probe(divided(name), head="linear", **ONE_CONFIG)
    assert rows_of_fits == [(120, 40), (120, None)]
    row = trained.row
    assert (row["train_rows"], row["val_rows"], row["n_folds"]) == (120, 40, 1)
    assert trained.spec["validation"] == {"split": name}
    assert any(f"split {name!r} selects the configurations" in line for line in lines)


def test_probe_scores_on_the_validation_split_as_its_head_does(
    divided: Callable[..., Cache],
) -> None:
    cache = divided()
    (trained,) = probe(cache, head="linear", **ONE_CONFIG)
    val = cache.split("val")
    x = val.read(trained.pairs).astype(np.float32).transpose(1, 0, 2)
    predicted = trained.head().predict(x).argmax(1).numpy()
    expected = np.mean([(predicted[val.labels == c] == c).mean() for c in range(3)])
    assert trained.row["val_balanced_accuracy"] == pytest.approx(expected)


def test_probe_refits_on_train_and_val_if_asked_to(
    divided: Callable[..., Cache], rows_of_fits: list[tuple[int, int | None]]
) -> None:
    (trained,) = probe(divided(), head="linear", refit="train+val", **ONE_CONFIG)
    assert rows_of_fits == [(120, 40), (160, None)]
    assert trained.row["train_rows"] == 160


def test_probe_without_its_validation_split_equals_one_of_a_dataset_without(
    divided: Callable[..., Cache], rows_of_fits: list[tuple[int, int | None]]
) -> None:
    cache = divided()
    (trained,) = probe(cache, head="linear", val_split=None, **ONE_CONFIG)
    assert rows_of_fits == [(96, 24), (120, None)]
    assert "validation" not in trained.spec
    (spec,) = plan_probes(cache, ProbeRequest(head="linear", val_split=None))
    subset = sample_subset(spec, cache.split("train"))
    assert subset.roles.shape == (1, 120)


def test_probe_of_one_shot_is_selected_on_the_validation_split(
    divided: Callable[..., Cache], rows_of_fits: list[tuple[int, int | None]]
) -> None:
    (trained,) = probe(divided(), head="linear", shots=1, **ONE_CONFIG)
    assert rows_of_fits == [(3, 40), (3, None)]
    assert trained.row["val_balanced_accuracy"] is not None


def test_probe_with_a_streamed_validation_split_scores_as_a_resident_one(
    divided: Callable[..., Cache],
) -> None:
    cache = divided()
    (resident,) = probe(cache, head="linear", **ONE_CONFIG)
    (streamed,) = probe(cache, head="linear", features="stream", refresh=True, **ONE_CONFIG)
    assert (streamed.row["features"], streamed.row["val_rows"]) == ("stream", 40)
    assert abs(resident.row["val_balanced_accuracy"] - streamed.row["val_balanced_accuracy"]) < 0.15


def test_baselines_and_attentive_heads_select_on_the_validation_split(
    divided: Callable[..., Cache],
) -> None:
    heads = ["knn", "logreg", "attentive"]
    table = probe(divided(), head=heads, **ONE_CONFIG).table
    assert table["val_rows"].tolist() == [40] * 3
    assert set(table["val_split"]) == {"val"}
    assert table["val_balanced_accuracy"].notna().all()


def test_plan_uses_no_split_twice(divided: Callable[..., Cache]) -> None:
    cache = divided()
    with logged() as lines:
        (spec,) = plan_probes(cache, ProbeRequest(head="linear", test_split="val"))
    assert spec.validation.split is None
    assert any("split 'val' is tested on, so 20 % of train selects" in line for line in lines)
    with logged() as lines:
        (spec,) = plan_probes(cache, ProbeRequest(head="linear", folds=3))
    assert spec.validation.split is None
    assert any("split 'val' is not used: parts of train select" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"val_split": "test"}, OptionError, "split 'test' is tested on, so it cannot select"),
        ({"val_split": "train"}, OptionError, "split 'train' is trained on"),
        ({"val_split": "val", "folds": 3}, OptionError, "folds: folds are parts of the training"),
        ({"val_split": "nowhere"}, UnknownNameError, "unknown split 'nowhere'"),
        ({"folds": 1}, OptionError, "folds: expected 2 to 100, got 1"),
        ({"repeats": 0, "val_split": None}, OptionError, "repeats: expected at least 1"),
        ({"refit": "all"}, OptionError, r"refit: expected train or train\+val, got 'all'"),
        ({"refit": "train+val", "val_split": None}, OptionError, "unless validation is a split"),
        ({"group": "patient"}, UnknownNameError, "unknown annotation column 'patient'"),
    ],
)
def test_probe_with_contradictory_options_raises(
    divided: Callable[..., Cache], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        probe(divided(), head="linear", **options, **ONE_CONFIG)


def test_plan_with_two_validation_splits_asks_for_one(write_cache: Callable[..., Cache]) -> None:
    splits = ("train", "val", "dev", "test")
    cache = write_cache(
        {name: np.ones((1, 2, 9, 8), "float16") for name in splits},
        {name: np.arange(9) % 3 for name in splits},
    )
    with pytest.raises(OptionError, match="several validation splits, val, dev: choose one"):
        plan_probes(cache, ProbeRequest(head="linear"))
    (spec,) = plan_probes(cache, ProbeRequest(head="linear", val_split="dev"))
    assert spec.validation.split == "dev"


def test_probe_of_folds_and_repeats_scores_by_the_mean_over_all(
    planted: Callable[..., Cache], rows_of_fits: list[tuple[int, int | None]]
) -> None:
    cache = planted(rows=60)
    (trained,) = probe(cache, head="linear", folds=3, repeats=2, **ONE_CONFIG)
    assert rows_of_fits == [(40, 20)] * 6 + [(60, None)]
    assert (trained.row["n_folds"], trained.row["val_rows"]) == (6, 60)
    (once,) = probe(cache, head="linear", folds=3, **ONE_CONFIG)
    (plain,) = probe(cache, head="linear", **ONE_CONFIG)
    assert len({trained.id, once.id, plain.id}) == 3
    keys = {p.settings.data_key for p in (trained, once, plain)}
    assert len(keys) == 3, "a gain compares probes of the same validation only"
    results = probe(cache, head="linear", folds=3, seeds=2, **ONE_CONFIG).over_seeds()
    assert results["n_seeds"].tolist() == [2]
    assert results["folds"].tolist() == [3]


def test_probe_by_group_holds_out_whole_groups(planted: Callable[..., Cache]) -> None:
    patients = np.arange(240 + 120) // 6
    cache = annotated(planted(rows=240, test_rows=120), patient=patients)
    for options in ({}, {"folds": 4}, {"folds": 3, "repeats": 2}, {"shots": 3}, {"shots": 20}):
        (spec,) = plan_probes(cache, ProbeRequest(head="linear", group="patient", **options))
        subset = sample_subset(spec, cache.split("train"))
        groups = patients[:240][subset.rows]
        assert subset.n_folds
        for number in range(subset.n_folds):
            fold = subset.fold(number)
            assert not set(groups[fold.train]) & set(groups[fold.val])
    (trained,) = probe(cache, head="linear", group="patient", **ONE_CONFIG)
    assert trained.spec["validation"] == {"group": "patient"}
    assert "interval over groups of test images" in Results((trained,)).summary()
    (other,) = probe(cache, head="linear", **ONE_CONFIG)
    assert "interval over test images" in Results((other,)).summary()
    assert trained.spec["annotations"]["patient"] == cache.annotation_digests["patient"]
    assert 0.15 < trained.row["val_rows"] / 240 < 0.25
    assert trained.settings.data["validation"] == "20 % of train by patient"


def test_probe_of_corrected_groups_is_another_one(planted: Callable[..., Cache]) -> None:
    cache = annotated(planted(rows=60, test_rows=30), patient=np.arange(90) // 3)
    (first,) = plan_probes(cache, ProbeRequest(head="linear", group="patient"))
    annotated(cache, patient=np.arange(90) // 5)
    (second,) = plan_probes(cache, ProbeRequest(head="linear", group="patient"))
    assert first.id != second.id


def test_probe_with_a_fold_column_scores_on_the_given_folds(
    planted: Callable[..., Cache], rows_of_fits: list[tuple[int, int | None]]
) -> None:
    folds = np.array([0.0] * 20 + [1.0] * 25 + [np.nan] * 15 + [0.0] * 30)
    cache = annotated(planted(rows=60, test_rows=30), part=folds)
    (trained,) = probe(cache, head="linear", fold_column="part", **ONE_CONFIG)
    assert rows_of_fits == [(40, 20), (35, 25), (60, None)]
    assert (trained.row["n_folds"], trained.row["val_rows"]) == (2, 45)


def test_probe_with_folds_that_divide_a_group_raises(planted: Callable[..., Cache]) -> None:
    cache = annotated(
        planted(rows=60, test_rows=30), part=np.arange(90) % 3, patient=np.arange(90) // 3
    )
    with pytest.raises(ProbeError, match="20 groups of column 'patient' are in several folds"):
        probe(cache, head="linear", fold_column="part", group="patient", **ONE_CONFIG)


def test_probe_of_samples_without_a_group_counts_them(planted: Callable[..., Cache]) -> None:
    patients = (np.arange(90) // 3).astype(float)
    patients[:5] = np.nan
    cache = annotated(planted(rows=60, test_rows=30), patient=patients)
    with logged() as lines:
        probe(cache, head="linear", group="patient", **ONE_CONFIG)
    assert any("5 training samples of 60 have no patient" in line for line in lines)


def test_interrupted_search_over_folds_continues(
    planted: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted(rows=60)
    fits: list[int] = []
    fit = trainer.fit

    def fail_in_the_third(*arguments: Any, **options: Any) -> Any:
        fits.append(len(options["train"]))
        if len(fits) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(trainer, "fit", fail_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, head="linear", folds=2, repeats=2, **ONE_CONFIG)
    fits.clear()
    fits.extend([0] * 3)
    with logged() as lines:
        (trained,) = probe(cache, head="linear", folds=2, repeats=2, **ONE_CONFIG)
    assert fits[3:] == [30, 30, 60], "two of the four folds were scored"
    assert trained.row["n_folds"] == 4
    assert any("2 of 4 fits of the search are scored" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"group": "part"}, "group: a fold leaves .* class .*: use more training .* group out"),
        ({"group": "part", "folds": 2}, "group: a fold leaves .*, all of class"),
        ({"fold_column": "part"}, "fold_column: a fold leaves 60 samples .*: correct the folds"),
    ],
)
def test_fold_that_leaves_one_class_to_train_on_raises(
    write_cache: Callable[..., Cache], options: dict[str, Any], text: str
) -> None:
    labels = {"train": np.repeat([0, 1], 60), "test": np.arange(20) % 2}
    tokens = {name: np.ones((2, 2, len(y), 8), "float16") for name, y in labels.items()}
    cache = write_cache(tokens, labels, classes=("ant", "bee"))
    annotated(cache, part=[f"p{y}" for split in cache.spec.dataset.splits for y in labels[split]])
    for head in ("ridge", "linear"):
        with pytest.raises(ProbeError, match=text):
            probe(cache, head=head, **options, **ONE_CONFIG)

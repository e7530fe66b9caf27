from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from layercache.cache import Cache
from layercache.cache.annotate import annotate
from layercache.errors import OptionError, UnknownNameError
from layercache.probing.api import probe
from layercache.probing.results.reading import read_results
from layercache.probing.results.table import scores_by_value
from tests.logs import logged
from tests.probing.quick import ONE_CONFIG


def annotated(cache: Cache, **columns: Any) -> Cache:
    table = cache.annotations
    values = {"id": table.index, "split": table["split"].astype(str).to_numpy(), **columns}
    annotate(cache, pd.DataFrame(values))
    return cache


@pytest.fixture
def cache(planted: Callable[..., Cache]) -> Cache:
    """A cache whose test samples are of the hospitals north, south, or none."""
    hospitals = np.array(["north", "south", "south", None], object)[np.arange(200) % 4]
    return annotated(planted(rows=80, test_rows=120, strength=0.8), hospital=hospitals)


def test_scores_by_equal_those_of_the_samples_with_each_value(cache: Cache) -> None:
    results = probe(cache, head=["linear", "knn"], **ONE_CONFIG)
    scores = results.scores_by("hospital")
    assert len(scores) == 2 * 3
    values = np.array(["north", "south", "south", "(none)"])[np.arange(80, 200) % 4]
    for trained in results:
        stored = trained.predictions()
        part = scores[scores["probe"] == trained.id].set_index("value")
        assert list(part.index) == ["north", "south", "(none)"]
        for value in part.index:
            rows = values == value
            expected = balanced_accuracy_score(stored.targets[rows], stored.logits[rows].argmax(1))
            assert part.loc[value, "score"] == pytest.approx(expected)
            assert part.loc[value, "rows"] == rows.sum()
        worst = part[part["worst"]]
        assert worst["score"].tolist() == [part.loc[["north", "south"], "score"].min()]


def test_text_by_shows_each_value_and_the_worst(cache: Cache) -> None:
    results = probe(cache, head="linear", seeds=2, by="hospital", **ONE_CONFIG)
    text = results.to_text()
    for word in ("north", "south", "worst", "test by hospital: 120 samples (north 30, south 60"):
        assert word in text
    assert "north" not in read_results(cache).to_text()
    assert "north" in read_results(cache).text_by("hospital")


def test_scores_by_a_column_of_another_dataset_use_its_own_samples(
    cache: Cache, planted: Callable[..., Cache]
) -> None:
    other = planted(rows=9, test_rows=30, dataset="elsewhere", seed=3)
    annotated(other, hospital=["east"] * 39)
    results = probe(cache, head="linear", test_cache=other, **ONE_CONFIG)
    scores = results.scores_by("hospital")
    assert scores[scores["test"] == "elsewhere"]["value"].tolist() == ["east"]
    assert set(scores["test"]) == {"test", "elsewhere"}


def test_scores_by_an_unknown_or_too_fine_column_raise(cache: Cache) -> None:
    with pytest.raises(UnknownNameError, match="unknown annotation column 'hospitals'"):
        probe(cache, head="linear", by="hospitals", **ONE_CONFIG)
    results = probe(cache, head="linear", **ONE_CONFIG)
    with pytest.raises(UnknownNameError, match="did you mean hospital"):
        results.scores_by("hospitals")
    annotated(cache, age=np.arange(200) / 7)
    results = read_results(cache)
    assert len(results.scores_by("age")) == 120
    many = annotated(cache, number=np.arange(200))

    assert scores_by_value.MAX_VALUES == 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores_by_value, "MAX_VALUES", 50)
        with pytest.raises(OptionError, match="at most 50 values, got 120 of 'number'"):
            read_results(many).scores_by("number")


def test_many_values_show_the_worst_alone(cache: Cache) -> None:
    annotated(cache, device=np.arange(200) % 12)
    text = probe(cache, head="linear", by="device", **ONE_CONFIG).to_text()
    assert "12 values, the rarest with 10" in text
    assert "worst" in text


def test_scores_by_an_unknown_column_name_each_test_set_once(cache: Cache) -> None:
    results = probe(cache, head=["linear", "ridge"], **ONE_CONFIG)
    with logged() as lines, pytest.raises(UnknownNameError):
        results.scores_by("planet")
    assert lines.count("test set test has no annotation 'planet'") == 1, lines

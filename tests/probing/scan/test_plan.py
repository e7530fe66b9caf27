from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercache import testing
from layercache.errors import OptionError, UnknownNameError
from layercache.probing.scan.plan import plan_scan


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    spec = testing.make_spec(depth=8, layers=(2, 4, 6, 8), width=8)
    return testing.make_cache(tmp_path, spec, splits=("train", "test"))


def words(plan: Any) -> list[str]:
    return [subset.layers for subset in plan.subsets if not subset.single]


def test_every_token_comes_first_and_then_the_subsets_each_once(cache: Any) -> None:
    plan = plan_scan(cache, rows=50)
    assert [s.tokens for s in plan.subsets[:8]] == [(i,) for i in range(8)]
    assert words(plan) == ["last", "mid-last", "quarter"]  # quarter are all of these layers
    assert plan.subsets[9].tokens == (2, 3, 6, 7)


def test_subset_that_costs_too_much_is_left_out_unless_it_is_requested(
    cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layercache.probing.scan.plan.SMALL_COST", 0)
    plan = plan_scan(cache, rows=10_000)
    assert words(plan) == ["last", "mid-last"]
    assert [subset.layers for subset in plan.left_out] == ["quarter"]
    assert words(plan_scan(cache, rows=10_000, subsets="quarter")) == ["quarter"]


def test_subset_of_fewer_samples_than_features_is_solved_in_samples(cache: Any) -> None:
    plan = plan_scan(cache, rows=40)
    assert [plan.in_samples(subset) for subset in plan.subsets[-3:]] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"subsets": "lst"}, UnknownNameError, "last"),
        ({"subsets": "all"}, OptionError, "subset all needs the layers 1, 2, 3"),
        ({"layers": "9"}, OptionError, "numbers from 1 to 8"),
        ({"tokens": "grid:2"}, UnknownNameError, "token kind"),
    ],
)
def test_plan_of_what_is_not_there_raises(
    cache: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        plan_scan(cache, rows=50, **options)

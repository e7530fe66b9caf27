from __future__ import annotations

import pytest

from layercache.errors import UnknownNameError
from layercache.probing.search.strategy_choice import choose_search
from layercache.probing.training.config import paper_grid
from tests.logs import logged

PAPER = [hparams.to_dict() for hparams in paper_grid("attentive")]
LINEAR = [hparams.to_dict() for hparams in paper_grid("linear")]


def test_auto_takes_coordinates_where_they_train_a_third_of_the_grid_and_says_so() -> None:
    with logged() as lines:
        assert choose_search("auto", head="attentive", grid=PAPER, epochs=True) == "coordinate"
        assert choose_search("auto", head="linear", grid=LINEAR, epochs=True) == "full"
        compatible = choose_search(
            "auto", head="attentive", grid=PAPER, epochs=True, paper_compat=True
        )
        assert compatible == "full"
    same = (
        "{}: {} of {} configurations not trained, as their results are identical to those of "
        "others (the weight decay rounds to nothing in float32)"
    )
    assert [line for line in lines if "search auto" not in line] == [
        same.format("attentive", 3, 63),
        same.format("linear", 1, 21),
        same.format("attentive", 3, 63),
    ]
    lines = [line for line in lines if "search auto" in line]
    assert lines[1:] == [
        "linear: search auto takes full, 20 of 21 configurations are trained",
        "attentive: search auto takes full, 60 of 63 configurations are trained",
    ]
    assert lines[0] == (
        "attentive: search auto takes coordinate, at most 14 of 63 configurations are trained"
    )


@pytest.mark.parametrize("search", ["full", "halving", "coordinate"])
def test_requested_search_is_taken(search: str) -> None:
    distinct = [hparams for hparams in PAPER if hparams["weight_decay"] > 1e-5]
    with logged() as lines:
        assert choose_search(search, head="attentive", grid=distinct, epochs=True) == search
    assert lines == []


def test_heads_without_epochs_score_all_configurations() -> None:
    with logged() as lines:
        assert choose_search("auto", head="ridge", grid=LINEAR, epochs=False) == "full"
        assert choose_search("halving", head="ridge", grid=LINEAR, epochs=False) == "full"
    assert lines == [
        "ridge: all configurations are scored, as it is not trained in epochs; search halving has "
        "no effect"
    ]


def test_unknown_search_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="halving"):
        choose_search("halfing", head="attentive", grid=PAPER, epochs=True)

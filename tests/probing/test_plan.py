from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from layercache.errors import OptionError
from layercache.probing.api import probe
from layercache.probing.plan import make_grid, plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.training.config import HParams
from tests.logs import logged


@pytest.mark.parametrize(
    ("options", "kept", "said"),
    [
        ({"seeds": [0, 0, 1]}, 2, "1 of the 3 requested probes"),
        ({"seeds": [1], "layers": ["last", "4"]}, 1, "linear last cls seed 1 (2 times)"),
        ({"tokens": ["cls", "cls,cls", "cls+cls"]}, 1, "linear all cls seed 0 (3 times)"),
        ({"head": ["linear", "linear"], "seeds": 9}, 9, "and 4 more"),
        ({"lr": [1, 1.0], "weight_decay": [0, 0.0]}, 1, ""),
        ({"train_fraction": [1, 1.0]}, 1, "linear all cls seed 0 (2 times)"),
        ({"seeds": 3}, 3, ""),
    ],
)
def test_plan_probes_holds_each_probe_once_and_says_so(
    planted: Callable[..., Any], options: dict[str, Any], kept: int, said: str
) -> None:
    with logged() as log:
        specs = plan_probes(
            planted(), ProbeRequest(**{"head": "linear", "tokens": "cls", **options})
        )
    assert len(specs) == kept == len({spec.id for spec in specs})
    assert said in "\n".join(log)
    repeated = [line for line in log if "identical to those of others" not in line]
    assert bool(repeated) == bool(said)


def test_search_of_a_head_is_logged_once_for_all_selections_of_tokens(
    planted: Callable[..., Any],
) -> None:
    with logged() as log:
        specs = plan_probes(planted(), ProbeRequest(head="linear", tokens=["cls", "ap"], seeds=2))
    assert len(specs) == 4
    assert sum("identical to those of others" in line for line in log) == 1


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        ({"train_fraction": 1}, True),
        ({"train_fraction": 0.999}, True),
        ({"train_fraction": 0.9}, False),
        ({"shots": 80}, True),
        ({"shots": 1000}, True),
        ({"shots": 79}, False),
    ],
)
def test_plan_probes_of_all_samples_is_the_probe_without_a_subset(
    planted: Callable[..., Any], options: dict[str, Any], whole: bool
) -> None:
    cache = planted(rows=240)
    with logged() as log:
        (spec,) = plan_probes(cache, ProbeRequest(**options))
    (plain,) = plan_probes(cache, ProbeRequest())
    assert (spec.id == plain.id) is whole
    assert any("takes all 240 training samples" in line for line in log) is whole


def test_plan_probes_of_few_shots_keeps_their_folds(planted: Callable[..., Any]) -> None:
    cache = planted(rows=9)
    (spec,) = plan_probes(cache, ProbeRequest(shots=3))
    assert spec.shots == 3, "three folds instead of one held-out part"


def test_plan_probes_with_shots_and_fraction_is_an_error(planted: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="expected shots or train_fraction, got both"):
        plan_probes(planted(), ProbeRequest(shots=5, train_fraction=0.5))


def test_plan_probes_gives_the_ids_of_the_probes_of_probe(planted: Callable[..., Any]) -> None:
    cache = planted()
    (knn,) = probe(cache, head="knn", train_fraction=0.5, device="cpu")
    (spec,) = plan_probes(cache.path, ProbeRequest(head="knn", train_fraction=0.5))
    assert spec.id == knn.id


def test_make_grid_takes_each_configuration_once() -> None:
    options = {"lr": None, "weight_decay": None, "dropout": None}
    same = [HParams(lr=1, weight_decay=0), HParams(lr=1.0, weight_decay=0.0)]
    assert len(make_grid("linear", configs=same, **options)) == 1


def test_make_grid_refuses_a_pair_which_the_search_finds_itself() -> None:
    options = {"lr": None, "weight_decay": None, "dropout": None}
    one, other = (HParams(lr=lr, weight_decay=0) for lr in (1, 2))
    with pytest.raises(OptionError, match="leave spatial out, and list both"):
        make_grid("fusion", configs=[replace(one, spatial=other)], **options)
    assert len(make_grid("fusion", configs=[one, other], **options)) == 2  # the remedy


def test_grid_by_default_is_the_papers() -> None:
    options = {"configs": None, "lr": None, "weight_decay": None, "dropout": None}
    assert [
        len(make_grid(head, **options))
        for head in ("linear", "attentive", "attentive-tokens", "hybrid")
    ] == [21, 63, 63, 63]

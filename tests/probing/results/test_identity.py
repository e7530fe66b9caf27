from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from layercache.probing.results.identity import (
    data_key,
    differences,
    experiment_key,
    variant_key,
)
from layercache.probing.training.config import Noise, TrainConfig
from tests.probing.probe_specs import grid, make_probe_spec

KEYS = (experiment_key, data_key, variant_key)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, (True, True, True)),
        ({"seed": 1}, (True, False, True)),
        ({"test_split": "val"}, (False, False, True)),
        ({"train_split": "val"}, (False, False, True)),
        ({"shots": 5}, (False, False, True)),
        ({"train_fraction": 0.1}, (False, False, True)),
        ({"precision": "bf16"}, (False, True, False)),
        ({"train_config": TrainConfig(epochs=41)}, (False, True, False)),
        ({"train_config": TrainConfig(noise=Noise(std=0.1))}, (False, True, False)),
        ({"train_config": TrainConfig(noise=None)}, (False, True, False)),
        ({"grid": grid((0.1, 1e-4, 0.0))}, (False, True, False)),
        ({"grid": grid((0.1, 1e-4, 0.0), (0.2, 1e-3, 0.0))}, (False, True, False)),
        ({"layers": "6,12"}, (False, True, True)),
        ({"tokens": "ap"}, (False, True, True)),
        ({"head": "attentive"}, (False, True, True)),
        ({"cache": {"tap": "block"}}, (False, True, False)),
        ({"cache": {"precision": "bf16"}}, (False, True, False)),
        ({"cache": {"preprocessing": {"mean": [0.0] * 3}}}, (False, True, False)),
        ({"cache": {"weights": "cd" * 32}}, (False, False, True)),
        ({"cache": {"rows": 60}}, (False, False, True)),
        # what a cache stores next to the tokens of the probe is no part of the experiment
        ({"cache": {"tokens": ("cls",)}}, (True, True, True)),
        ({"cache": {"layers": (12,)}}, (True, True, True)),
        # two names of one choice
        ({"layers": "12"}, (True, True, True)),
    ],
)
def test_keys_change_with_what_they_stand_for(
    changes: dict[str, Any], same: Sequence[bool]
) -> None:
    one = make_probe_spec()
    other = make_probe_spec(**changes)
    assert tuple(key(one) == key(other) for key in KEYS) == tuple(same)
    assert bool(differences(one, other)) is not same[2]


def test_keys_tell_grids_of_equal_values_apart() -> None:
    crossed = [
        make_probe_spec(head="attentive", grid=points)
        for i, points in enumerate(
            [
                grid((0.1, 1e-4, 0.0), (0.01, 1e-3, 0.0)),
                grid((0.1, 1e-3, 0.0), (0.01, 1e-4, 0.0)),
                grid((0.1, 1e-3, 0.0), (0.01, 1e-4, 0.3)),
                grid((0.1, 1e-3, 0.3), (0.01, 1e-4, 0.0)),
            ]
        )
    ]
    assert len({experiment_key(spec) for spec in crossed}) == 4
    assert [variant_key(spec) == variant_key(crossed[3]) for spec in crossed] == [
        False, True, True, True,
    ]  # fmt: skip


def test_differences_name_setting_and_both_values() -> None:
    one = make_probe_spec()
    other = make_probe_spec(
        cache={"tap": "block"},
        train_config=TrainConfig(epochs=1, noise=None),
        grid=grid((0.1, 1e-4, 0.0), (0.01, 1e-4, 0.0)),
    )
    found = differences(one, other)
    assert found["tap"] == ("norm2", "block")
    assert found["epochs"] == ("40", "1")
    assert found["noise"] == ("std 0.05, probability 0.5", "off")
    assert found["lr grid"] == ("0.001, 0.01, 0.1", "0.01, 0.1")
    assert set(found) == {"tap", "epochs", "noise", "lr grid", "weight decay grid"}


def test_training_of_a_baseline_is_not_compared_with_that_of_a_head() -> None:
    linear = make_probe_spec(train_config=TrainConfig(epochs=1))
    assert differences(make_probe_spec(head="knn"), linear) == {}
    logreg = make_probe_spec(head="logreg", cache={"tap": "block"})
    assert differences(logreg, linear) == {"tap": ("block", "norm2")}


def test_keys_of_a_stored_probe_are_those_of_its_spec(planted: Callable[..., Any]) -> None:
    from layercache.probing.api import probe

    knn, again = probe(planted(), head="knn", seeds=2, device="cpu")
    assert experiment_key(knn.spec) == experiment_key(again.spec)
    assert data_key(knn.spec) != data_key(again.spec)

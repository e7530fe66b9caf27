from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercache.cache import Cache
from layercache.probing.heads import HeadSpec
from layercache.probing.results.identity import (
    data_key,
    differences,
    experiment_key,
    variant_key,
)
from layercache.probing.spec import ProbeSpec, select_tokens
from layercache.probing.training.config import Noise, TrainConfig, paper_grid
from layercache.testing import make_spec

KEYS = (experiment_key, data_key, variant_key)


def make_probe_spec(root: Path, *, cache: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Return the spec of a probe as probe.json stores it."""
    opened = Cache(root, make_spec(**(cache or {})))  # nothing is read
    head = changes.pop("head", "linear")
    selection = select_tokens(
        opened,
        head=head,
        layers=changes.pop("layers", "last"),
        tokens=changes.pop("tokens", "cls"),
    )
    kind = "linear" if head in ("knn", "logreg") else head
    spec = ProbeSpec(
        tokens=selection,
        head=head,
        head_spec=HeadSpec(kind=kind, tokens=len(selection.pairs), width=8, classes=3),
        grid=tuple(dict(vars(hparams)) for hparams in paper_grid(kind)),
        seed=0,
        shots=None,
        train_fraction=None,
        train_config=TrainConfig(),
        precision="fp32",
    )
    return json.loads(json.dumps(replace(spec, **changes).to_json()))


def grid(*points: tuple[float, float, float]) -> tuple[dict[str, float], ...]:
    names = ("lr", "weight_decay", "dropout")
    return tuple(dict(zip(names, point, strict=True)) for point in points)


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
        # what a cache stores beside the tokens of the probe is no part of the experiment
        ({"cache": {"tokens": ("cls",)}}, (True, True, True)),
        ({"cache": {"layers": (12,)}}, (True, True, True)),
        # two names of one choice
        ({"layers": "12"}, (True, True, True)),
    ],
)
def test_keys_change_with_what_they_stand_for(
    tmp_path: Path, changes: dict[str, Any], same: Sequence[bool]
) -> None:
    one = make_probe_spec(tmp_path / "one")
    other = make_probe_spec(tmp_path / "other", **changes)
    assert tuple(key(one) == key(other) for key in KEYS) == tuple(same)
    assert bool(differences(one, other)) is not same[2]


def test_keys_tell_grids_of_equal_values_apart(tmp_path: Path) -> None:
    crossed = [
        make_probe_spec(tmp_path / str(i), head="attentive", grid=points)
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


def test_differences_name_setting_and_both_values(tmp_path: Path) -> None:
    one = make_probe_spec(tmp_path / "one")
    other = make_probe_spec(
        tmp_path / "other",
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


def test_training_of_a_baseline_is_not_compared_with_that_of_a_head(tmp_path: Path) -> None:
    linear = make_probe_spec(tmp_path / "one", train_config=TrainConfig(epochs=1))
    assert differences(make_probe_spec(tmp_path / "two", head="knn"), linear) == {}
    logreg = make_probe_spec(tmp_path / "three", head="logreg", cache={"tap": "block"})
    assert differences(logreg, linear) == {"tap": ("block", "norm2")}


def test_keys_of_a_stored_probe_are_those_of_its_spec(planted: Callable[..., Any]) -> None:
    from layercache.probing.api import probe

    knn, again = probe(planted(), head="knn", seeds=2, device="cpu")
    assert experiment_key(knn.spec) == experiment_key(again.spec)
    assert data_key(knn.spec) != data_key(again.spec)

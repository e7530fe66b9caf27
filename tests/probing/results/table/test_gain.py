from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layercache.probing.results.table.table import Results
from layercache.probing.training.config import TrainConfig
from tests.probing.probe_specs import grid
from tests.probing.results.made import FUSION, made

EPOCHS_1 = {"train_config": TrainConfig(epochs=1)}
TAP = {"cache": {"tap": "block"}}


def fusion(name: str = "x", score: float = 0.9, **changes: Any) -> Any:
    return made(name, test_balanced_accuracy=score, **{**FUSION, **changes})


def one_line(results: Results) -> str:
    return " ".join(results.to_text(gain=True).split())


def test_gain_is_over_the_linear_head_of_the_same_data_and_seed() -> None:
    probes = [
        made("base0", test_balanced_accuracy=0.5),
        made("base1", seed=1, test_balanced_accuracy=0.6),
        fusion("a"),
        fusion("b", seed=1),
        fusion("c", seed=2),
        fusion("d", spec={"cache": {"rows": 60}}),
        fusion("e", spec={"cache": {"weights": "cd" * 32}}),
        fusion("f", shots=5),
        fusion("g", train_fraction=0.5),
        fusion("h", test_split="val"),
        fusion("i", train_split="val"),
    ]
    table = Results(probes).with_gain()
    assert table["baseline"].tolist()[:4] == ["base0", "base1", "base0", "base1"]
    np.testing.assert_allclose(table["gain"][:4], [0, 0, 0.4, 0.3])
    assert table["gain"][4:].isna().all()
    alone = Results(probes[2:3])
    assert alone.with_gain()["gain"].isna().all()
    np.testing.assert_allclose(alone.with_gain(among=Results(probes))["gain"], [0.4])


def test_gain_of_each_test_split_is_over_the_baseline_on_that_split() -> None:
    probes = [
        made("on val", test_split="val", test_balanced_accuracy=0.78),
        fusion("on test", 0.85),
    ]
    assert Results(probes).with_gain()["gain"].isna()[1]
    probes.append(made("base", test_balanced_accuracy=0.68))
    table = Results(probes).with_gain()
    assert table["baseline"].tolist() == ["on val", "base", "base"]
    np.testing.assert_allclose(table["gain"], [0, 0.17, 0])


@pytest.mark.parametrize(
    ("spec", "difference"),
    [
        (EPOCHS_1, "epochs (1 instead of 40)"),
        (TAP, "tap (block instead of norm2)"),
        ({"precision": "bf16"}, "precision (bf16 instead of fp32)"),
        ({"cache": {"precision": "bf16"}}, "extraction precision (bf16 instead of fp32)"),
        (
            {"grid": grid((1e-5, 1e-4, 0.0))},
            "lr grid (1e-05 instead of 0.001, 0.01, 0.1) and weight decay grid",
        ),
        (TAP | EPOCHS_1, "tap (block instead of norm2) and epochs (1 instead of 40)"),
    ],
)
def test_baseline_of_another_variant_gives_no_gain_and_the_difference_is_named(
    spec: dict[str, Any], difference: str
) -> None:
    results = Results([made("base", spec=spec), fusion("1"), fusion("2")])
    assert results.with_gain()["gain"].isna().tolist() == [False, True, True]
    assert (
        "no gain for 2 probes: the nearest baseline on the same data differs in " + difference
    ) in one_line(results)
    # a baseline of the same variant takes its place, whatever other ones exist
    results = Results([*results, made("same", test_balanced_accuracy=0.6)])
    assert results.with_gain()["baseline"].tolist() == ["base", "same", "same", "same"]
    assert "no gain" not in one_line(results)


def test_baseline_in_a_cache_that_stores_other_tokens_is_found() -> None:
    base = made("base", spec={"cache": {"layers": (12,), "tokens": ("cls",)}})
    assert Results([base, fusion()]).with_gain()["baseline"].tolist() == ["base", "base"]


def test_knn_has_a_gain_over_the_only_baseline_and_none_over_one_of_two() -> None:
    knn = made("knn", head="knn", test_balanced_accuracy=0.75)
    first = made("first", spec=EPOCHS_1)
    results = Results([knn, first])
    np.testing.assert_allclose(results.with_gain()["gain"], [0.25, 0])
    results = Results([knn, first, made("second")])
    assert results.with_gain()["gain"].isna().tolist() == [True, False, False]
    assert (
        "no gain for 1 probe: there are 2 baselines on the same data, which differ in epochs"
    ) in one_line(results)

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from layercache.probing.heads import HeadSpec
from layercache.probing.heads.spec import LAYERS, SPATIAL
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit
from layercache.probing.training.search_memory import SearchMemory, TrainedBranches
from layercache.testing import make_separable_tokens
from tests.logs import logged

CONFIGS = (
    HParams(lr=1e-2, weight_decay=1e-2, dropout=0.3),
    HParams(lr=1e38, weight_decay=1.0, dropout=0.3),
    HParams(lr=1e-3, weight_decay=0.0, dropout=0.0),
    HParams(lr=3e-2, weight_decay=0.0, dropout=0.1),
)
OPTIONS: dict[str, Any] = {
    "head": HeadSpec(kind="attentive", tokens=4, width=16, classes=3),
    "train": torch.arange(200),
    "val": torch.arange(200, 300),
    "seed": 3,
    "train_config": TrainConfig(epochs=6, min_steps=0, batch=50),
}


@pytest.mark.parametrize("patience", [None, 3])
def test_paused_configurations_continue_in_another_group_as_if_never_stopped(
    patience: int | None,
) -> None:
    dataset = make_separable_tokens(strength=0.3)
    options = OPTIONS | {"train_config": replace(OPTIONS["train_config"], patience=patience)}
    whole = fit(dataset, configs=CONFIGS, **options)
    paused = SearchMemory()
    first = fit(
        dataset, configs=CONFIGS, stop_epoch=2, memory=paused, configs_per_pass=2, **options
    )
    for one, other in zip(first, whole, strict=True):
        if not one.diverged:
            assert one.losses == pytest.approx(other.losses[:2], rel=1e-5)
    assert [hparams in paused for hparams in CONFIGS] == [True, False, True, True], "diverged"
    steps: list[int] = []
    rest = [CONFIGS[3], CONFIGS[0]]
    continued = fit(
        dataset,
        configs=rest,
        memory=paused,
        on_progress=lambda done, total: steps.append(done),
        **options,
    )
    assert steps[0] == 2 * 5 + 1, "not from the start"
    for one, other in zip(continued, (whole[3], whole[0]), strict=True):
        assert one.hparams == other.hparams
        assert one.epochs == other.epochs
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
        for name, value in one.state_dict.items():
            torch.testing.assert_close(value, other.state_dict[name], rtol=1e-4, atol=1e-6)
    assert CONFIGS[0] not in paused, "taken"
    assert CONFIGS[2] in paused


def test_paused_configurations_beyond_memory_start_again_with_the_same_result() -> None:
    dataset = make_separable_tokens(strength=0.3)
    whole = fit(dataset, configs=CONFIGS, **OPTIONS)
    paused = SearchMemory(memory_fraction=0.0)
    with logged() as lines:
        fit(dataset, configs=CONFIGS, stop_epoch=2, memory=paused, **OPTIONS)
    assert sum(hparams in paused for hparams in CONFIGS) == 0
    assert any("the others train from the start" in line for line in lines)
    continued = fit(dataset, configs=CONFIGS[2:], memory=paused, **OPTIONS)
    for one, other in zip(continued, whole[2:], strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)


def test_paused_configurations_train_beside_new_ones_in_passes_of_their_own() -> None:
    dataset = make_separable_tokens(strength=0.3)
    whole = fit(dataset, configs=CONFIGS, **OPTIONS)
    paused = SearchMemory()
    fit(dataset, configs=CONFIGS[2:3], stop_epoch=4, memory=paused, **OPTIONS)
    mixed = fit(dataset, configs=CONFIGS, memory=paused, **OPTIONS)
    assert [head.hparams for head in mixed] == [head.hparams for head in whole], "in order"
    for one, other in zip(mixed, whole, strict=True):
        assert one.diverged == other.diverged
        if not one.diverged:
            assert one.losses == pytest.approx(other.losses, rel=1e-5)


PAIR = replace(CONFIGS[2], spatial=CONFIGS[3])
FUSION = HeadSpec(kind="fusion", tokens=4, width=16, classes=3, spatial_tokens=2, gate="scalar")


def test_pair_of_trained_branches_is_evaluated_without_training_and_scores_as_trained() -> None:
    dataset = make_separable_tokens(strength=0.3)
    options = OPTIONS | {"head": FUSION}
    memory, steps = SearchMemory(), list[int]()
    fit(dataset, configs=CONFIGS, memory=memory, **options)
    (evaluated,) = fit(
        dataset,
        configs=[PAIR],
        memory=memory,
        on_progress=lambda done, total: steps.append(done),
        **options,
    )
    assert not steps
    (trained,) = fit(dataset, configs=[PAIR], **options)
    assert evaluated.hparams == trained.hparams
    assert evaluated.epochs == trained.epochs
    assert evaluated.val_metrics == pytest.approx(trained.val_metrics, rel=1e-4)
    for name, value in trained.state_dict.items():
        torch.testing.assert_close(evaluated.state_dict[name], value, rtol=1e-4, atol=1e-6)


def test_a_pair_of_which_a_branch_is_not_kept_is_trained() -> None:
    dataset = make_separable_tokens(strength=0.3)
    memory, steps = SearchMemory(), list[int]()
    fit(dataset, configs=CONFIGS[:3], memory=memory, **OPTIONS | {"head": FUSION})
    fit(
        dataset,
        configs=[PAIR],
        memory=memory,
        on_progress=lambda done, total: steps.append(done),
        **OPTIONS | {"head": FUSION},
    )
    assert len(steps) == 6 * 5


@pytest.mark.parametrize(
    ("gate", "patience", "kept"),
    [("scalar", None, True), ("scalar", 3, False), ("class", None, False), ("sample", None, False)],
)
def test_branches_are_kept_where_the_pair_would_end_as_they_did(
    gate: str, patience: int | None, kept: bool
) -> None:
    """A learned gate depends on both branches, and so does the epoch of early stopping."""
    memory = SearchMemory()
    options = OPTIONS | {
        "head": replace(FUSION, gate=gate),
        "train_config": replace(OPTIONS["train_config"], patience=patience),
    }
    fit(make_separable_tokens(strength=0.3), configs=CONFIGS, memory=memory, **options)
    assert (memory.branches.pair([PAIR]) is not None) == kept
    assert memory.branches.pair([PAIR, CONFIGS[0]]) is None
    assert memory.branches.pair([CONFIGS[0]]) is None


def test_trained_branches_keep_the_best() -> None:
    branches = TrainedBranches()
    configs = [HParams(lr=lr, weight_decay=0.0) for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    for config, score in zip(configs, (0.2, 0.9, 0.5, 0.1, 0.7), strict=True):
        for branch in (LAYERS, SPATIAL):
            branches.keep(branch, config, {f"{branch}.a": torch.tensor(score)}, score=(score, 0.0))
    kept = [branches.pair([replace(config, spatial=configs[1])]) is not None for config in configs]
    assert kept == [False, True, True, False, True]
    assert branches.pair([replace(configs[2], spatial=configs[4])]) == {
        "layers.a": torch.tensor(0.5),
        "spatial.a": torch.tensor(0.7),
    }

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from layercache.probing.heads import HeadSpec
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit
from layercache.probing.training.paused_configs import PausedConfigs
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
    paused = PausedConfigs()
    first = fit(
        dataset, configs=CONFIGS, stop_epoch=2, paused=paused, configs_per_pass=2, **options
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
        paused=paused,
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
    paused = PausedConfigs(memory_fraction=0.0)
    with logged() as lines:
        fit(dataset, configs=CONFIGS, stop_epoch=2, paused=paused, **OPTIONS)
    assert sum(hparams in paused for hparams in CONFIGS) == 0
    assert any("the others train from the start" in line for line in lines)
    continued = fit(dataset, configs=CONFIGS[2:], paused=paused, **OPTIONS)
    for one, other in zip(continued, whole[2:], strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)


def test_paused_configurations_train_beside_new_ones_in_passes_of_their_own() -> None:
    dataset = make_separable_tokens(strength=0.3)
    whole = fit(dataset, configs=CONFIGS, **OPTIONS)
    paused = PausedConfigs()
    fit(dataset, configs=CONFIGS[2:3], stop_epoch=4, paused=paused, **OPTIONS)
    mixed = fit(dataset, configs=CONFIGS, paused=paused, **OPTIONS)
    assert [head.hparams for head in mixed] == [head.hparams for head in whole], "in order"
    for one, other in zip(mixed, whole, strict=True):
        assert one.diverged == other.diverged
        if not one.diverged:
            assert one.losses == pytest.approx(other.losses, rel=1e-5)

from __future__ import annotations

import pytest

from layercache.probing.results.config_score import (
    ConfigScore,
    config_columns,
    join_pair,
    split_pair,
)

LAYERS = {"lr": 0.1, "weight_decay": 1e-4, "dropout": 0.0}
SPATIAL = {"lr": 0.01, "weight_decay": 1.0, "dropout": 0.3}
PAIR = join_pair(LAYERS, SPATIAL)


def test_split_pair_undoes_join_pair_and_leaves_other_names_alone() -> None:
    assert split_pair(PAIR) == (LAYERS, SPATIAL)
    assert split_pair(LAYERS) == (LAYERS, {})
    share = {**LAYERS, "spatial_share": 0.5}
    assert split_pair(share) == (share, {})
    assert len({ConfigScore(hparams=h, fold=0, val_metrics={}).key for h in (PAIR, LAYERS)}) == 2


@pytest.mark.parametrize(
    ("hparams", "share", "shown", "config"),
    [
        (LAYERS, None, LAYERS, ""),
        (LAYERS, 0.5, LAYERS, ""),
        (join_pair(LAYERS, {**LAYERS, "lr": 0.5}), 0.5, LAYERS, "spatial_lr=0.5"),
        (PAIR, 0.0, LAYERS, ""),
        (PAIR, 1.0, SPATIAL, ""),
        (PAIR, 0.5, LAYERS, "spatial_lr=0.01, spatial_weight_decay=1, spatial_dropout=0.3"),
        ({"k": 5, "T": 0.07}, None, dict.fromkeys(LAYERS), "k=5, T=0.07"),
    ],
)
def test_config_columns_show_the_hyperparameters_of_the_branches_that_a_head_has(
    hparams: dict[str, float], share: float | None, shown: dict[str, float], config: str
) -> None:
    assert config_columns(hparams, share=share) == {**shown, "config": config}

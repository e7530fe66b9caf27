from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.probing.metrics import metrics_of
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.table.table import Results
from layercache.probing.training.config import TrainConfig
from layercache.testing import write_planted_cache
from layercache.testing.probes import write_probe
from tests.probing.probe_specs import grid
from tests.probing.results.made import FUSION, made

EDGES = [
    ConfigScore(
        hparams={"lr": 0.1 / (i + 1), "weight_decay": 1e-6 * (i + 1), "dropout": 0.1 * i},
        fold=None,
        val_metrics={"balanced_accuracy": score},
    )
    for i, score in enumerate((0.9, 0.5, 0.9))
]
LONG = {
    "model": "vit_b16",
    "dataset": "fashion_mnist",
    "head": "attentive-tokens",
    "layers": "6,12",
}


@pytest.mark.parametrize("over_seeds", [False, True])
@pytest.mark.parametrize("gain", [False, True])
def test_to_text_of_many_columns_fits_100_characters(over_seeds: bool, gain: bool) -> None:
    probes = [
        made(
            f"{i}",
            **{**LONG, **changes},
            lr=0.1 / (i + 1),
            weight_decay=1e-6 * (i + 1),
            dropout=0.1 * i,
            shots=5 * (i + 1),
            seed=i,
            n_params=10**7 * (i + 1),
            configs=EDGES,
        )
        for i, changes in enumerate([{}, {"model": "clip_b16"}, {"dataset": "flowers"}])
    ]
    text = Results(probes).to_text(gain=gain, over_seeds=over_seeds)
    assert max(map(len, text.splitlines())) <= 100, "the remarks below the table, too"
    if not over_seeds:
        assert "left out for width: seconds" in text
        assert "test" in text.split("---")[0], "the test score is never left out"


@pytest.mark.parametrize(
    ("spec", "column"),
    [
        ({"grid": grid((1e-5, 1e-4, 0.0))}, "lr grid"),
        ({"train_config": TrainConfig(epochs=41)}, "epochs"),
        ({"cache": {"tap": "block"}}, "tap"),
        ({"cache": {"rows": 60}}, "dataset digest"),
        ({"cache": {"weights": "cd" * 32}}, "weights digest"),
    ],
)
@pytest.mark.parametrize("over_seeds", [False, True])
def test_to_text_of_rows_that_look_alike_shows_what_differs(
    spec: dict[str, Any], column: str, over_seeds: bool
) -> None:
    results = Results([made("1"), made("2", spec=spec)])
    heading, _, _ = results.to_text(over_seeds=over_seeds).partition("---")
    assert column.split()[-1] in heading.split()
    heading, _, _ = Results([made("1"), made("3", **FUSION)]).to_text().partition("---")
    assert column.split()[-1] not in heading.split(), "and only where it is needed"


def test_to_text_over_seeds_writes_mean_and_std_in_one_column() -> None:
    probes = [made(str(s), seed=s, test_balanced_accuracy=v) for s, v in enumerate((0.5, 0.6))]
    text = Results([*probes, made("9", **FUSION)]).to_text(over_seeds=True)
    assert "55.00 ± 7.07" in text
    (single_seed,) = (line for line in text.splitlines() if "attentive" in line)
    assert "50.00" in single_seed
    assert "±" not in single_seed
    assert "mean ± standard deviation over seeds" in text


def test_scores_that_do_not_fit_stand_in_several_tables_none_wider_than_100(
    tmp_path: Path,
) -> None:
    cache = write_planted_cache(root=tmp_path)
    n = cache.split("test").rows
    probes = [
        write_probe(cache, np.random.default_rng(seed).normal(size=(n, 3)), layers=layers)
        for seed, layers in enumerate(("last", "all"))
    ]
    names = [name for name in metrics_of("classification") if name != "top5_accuracy"]
    text = Results(probes).to_text(metrics=names, intervals=True)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("95 %") >= len(names)
    rows = [line for line in text.splitlines() if line.startswith("linear  all")]
    assert len(rows) > 1
    assert probes[0].id in text

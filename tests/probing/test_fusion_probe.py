"""Probes with the fusion head whose chosen share is 0 or 1: record, head, notes and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from layercache import heads, probe
from layercache.probing.results.config_score import split_pair
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.notes import selected_config
from layercache.probing.results.table.table import Results
from layercache.probing.training import validation_metrics
from layercache.probing.training.trainer import SGDTrainer
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import FigureBlock
from layercache.reporting.sections.head_weights import token_weights, weight_section
from tests.probing.quick import ONE_CONFIG

KINDS = ("cls", "ap", "patch/0", "patch/1")
N_POOLED, N_PATCHES = 8, 2


@pytest.fixture
def train(planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Probe]:
    """Train a probe, or one per seed, whose search chooses the given share."""

    def run(share: float, **options: Any) -> Probe:
        def choose(by_share: Any, *, metric: Any) -> dict[str, float]:
            return {
                **by_share[validation_metrics.SHARES.index(share)],
                validation_metrics.SHARE: share,
            }

        monkeypatch.setattr(validation_metrics, "best_share", choose)
        options = {"gate": "class", **ONE_CONFIG, **options}
        (trained,) = probe(planted(kinds=KINDS), head="fusion", spatial="patch", **options)
        return trained

    return run


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_probe_of_one_branch_is_stored_without_the_other_and_predicts_what_is_stored(
    train: Callable[..., Probe], planted: Callable[..., Any], share: float
) -> None:
    whole, trained = train(0.5, gate="scalar"), train(share)
    assert trained.row["spatial_share"] == share
    head = trained.head()
    assert trained.row["n_params"] == head.n_params < whole.row["n_params"]
    x = planted(kinds=KINDS).split("test").read(trained.pairs).astype(np.float32)
    x = torch.from_numpy(x.transpose(1, 0, 2).copy())
    stored = trained.predictions()
    np.testing.assert_allclose(head.predict(x), stored.logits, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(stored.gate_mean, np.full(len(stored.gate_mean), share))
    n_heads = 8 if share else N_POOLED
    assert trained.attention().mean.shape == (n_heads, N_POOLED + N_PATCHES)
    assert whole.attention().mean.shape == (N_POOLED + 8, N_POOLED + N_PATCHES)

    module = heads.load(trained)
    assert isinstance(module, heads.FusionBranch)
    torch.testing.assert_close(module(x), head.predict(x), atol=1e-4, rtol=1e-4)
    name = "the spatial tokens" if share else "the layers"
    note = f"validation chose one branch alone for fusion: {name} (1 probe)"
    assert note in Results([trained]).to_text()


@pytest.mark.parametrize(
    ("share", "options"),
    [
        (0.0, {"head": "attentive"}),
        (1.0, {"head": "attentive-tokens", "layers": "last", "tokens": "patch"}),
    ],
)
def test_probe_of_one_branch_is_the_probe_of_that_head_to_the_bit(
    train: Callable[..., Probe], planted: Callable[..., Any], share: float, options: dict[str, Any]
) -> None:
    """With noise and dropout, in the search and in the final fit."""
    trained = train(share, dropout=0.3)
    (alone,) = probe(planted(kinds=KINDS), **{**ONE_CONFIG, "dropout": 0.3, **options})
    np.testing.assert_array_equal(trained.predictions().logits, alone.predictions().logits)
    for name in ("val_balanced_accuracy", "test_balanced_accuracy", "n_params", "steps"):
        assert trained.row[name] == alone.row[name], name


GRID = {"lr": [0.03, 0.0003], "weight_decay": [0.0, 1.0], "dropout": [0.0, 0.3]}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_each_branch_has_the_configuration_that_it_would_have_alone(
    train: Callable[..., Probe], planted: Callable[..., Any], share: float
) -> None:
    """Searched over a grid in which the branches prefer different configurations."""
    trained = train(share, gate="scalar", **GRID)
    layers, spatial = (
        next(iter(probe(planted(kinds=KINDS), **{**ONE_CONFIG, **GRID, **options})))
        for options in (
            {"head": "attentive"},
            {"head": "attentive-tokens", "layers": "last", "tokens": "patch"},
        )
    )
    names = ("lr", "weight_decay", "dropout")
    assert [layers.row[n] for n in names] != [spatial.row[n] for n in names]
    expected = (1 - share) * layers.predictions().logits + share * spatial.predictions().logits
    np.testing.assert_allclose(trained.predictions().logits, expected, atol=1e-5, rtol=1e-5)
    first = spatial if share == 1 else layers
    assert [trained.row[n] for n in names] == [first.row[n] for n in names]
    different = [n for n in names if layers.row[n] != spatial.row[n]] if share == 0.5 else []
    words = ", ".join(f"spatial_{n}={spatial.row[n]:g}" for n in different)
    assert trained.row["config"] == words
    selected = selected_config(trained)
    assert selected is not None
    assert split_pair(selected.hparams) == tuple(
        {n: member.row[n] for n in names} for member in (layers, spatial)
    )
    table = Results([trained]).to_text()
    assert ("spatial_lr" in table) == ("lr" in different)
    report = load_report_data([planted(kinds=KINDS)])
    assert report is not None


def test_search_interrupted_before_its_pair_continues_and_ends_as_if_it_was_not(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branches are no longer in memory, so the pair is trained; nothing else is."""
    options = {**ONE_CONFIG, **GRID, "head": "fusion", "spatial": "patch"}
    (whole,) = probe(planted(kinds=KINDS), **options)
    pair = whole.configs[-1].hparams
    assert "spatial_lr" in pair, "the branches prefer different configurations"
    trained: list[Mapping[str, float]] = []
    score, broken = SGDTrainer.score, [True]

    def interrupted(self: SGDTrainer, dataset: Any, configs: Any, **more: Any) -> None:
        if broken and "spatial_lr" in configs[0]:
            raise KeyboardInterrupt
        trained.extend(configs)
        score(self, dataset, configs, **more)

    monkeypatch.setattr(SGDTrainer, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe(planted(kinds=KINDS), refresh=True, **options)
    assert len(trained) == len(whole.configs) - 1
    trained.clear()
    broken.clear()
    (continued,) = probe(planted(kinds=KINDS), refresh=True, **options)
    assert trained == [pair]
    assert continued.id == whole.id
    np.testing.assert_array_equal(continued.predictions().logits, whole.predictions().logits)


def test_attention_of_both_branches_that_an_older_version_stored_at_share_zero_is_read(
    train: Callable[..., Probe],
) -> None:
    whole = train(0.5)
    older = replace(whole, row={**whole.row, "spatial_share": 0.0})
    assert older.attention().mean.shape == (N_POOLED + 8, N_POOLED + N_PATCHES)


def test_report_leaves_out_the_tokens_of_a_branch_that_was_not_trained(
    train: Callable[..., Probe], planted: Callable[..., Any]
) -> None:
    captions, rows = {}, {}
    for seed, share in ((0, 0.0), (1, 1.0)):
        trained = train(share, seeds=[seed])
        weights = token_weights(trained)
        np.testing.assert_allclose(weights.sum(), 1, atol=1e-6)
        other = weights[:N_POOLED] if share else weights[N_POOLED:]
        assert not other.any()
        section = weight_section(load_report_data([planted(kinds=KINDS)]))
        assert section is not None
        (figure,) = [block for block in section.blocks if isinstance(block, FigureBlock)]
        captions[share] = figure.caption
        rows[share] = [text.get_text() for text in figure.figure.axes[0].get_yticklabels()]
    assert "one branch alone for 1 of 1 head (1 over the layers)" in captions[0.0]
    assert len(rows[0.0]) == 2, "CLS and AP, no patches"
    assert len(rows[1.0]) == 3, "the heads of both seeds together use all tokens"
    assert "2 of 2 heads (" in captions[1.0]
    assert "1 over spatial tokens" in captions[1.0]

from __future__ import annotations

import numpy as np
import pytest

from layercache.probing.metrics import compute
from layercache.reporting.analysis.published import BASELINE, FUSION
from layercache.reporting.api import compose
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import CommandHint, Table
from layercache.reporting.sections.metrics import metric_section, metric_table
from tests.reporting import synthetic


@pytest.fixture
def cache(tmp_path):
    return synthetic.make_cache(tmp_path)


def test_metric_section_shows_means_over_seeds_of_the_chosen_metrics(cache):
    probes = [
        synthetic.save_probe(cache, **vars(kind), correct=synthetic.first(n + seed), seed=seed)
        for kind, n in ((BASELINE, 80), (FUSION, 120))
        for seed in range(2)
    ]
    data = load_report_data([cache], metrics=["roc_auc", "log_loss", "r2"])
    (table,) = metric_section(data).blocks
    assert isinstance(table, Table)
    assert "Lower is better: log loss." in table.caption
    frame = metric_table(data)
    assert list(frame["n_seeds"]) == [2, 2]
    assert frame["r2"].isna().all()
    for row in frame.itertuples():
        seeds = [probe for probe in probes if probe.row["head"] == row.head]
        expected = [
            compute(p.predictions().logits, p.predictions().targets, task="classification")
            for p in seeds
        ]
        assert row.roc_auc == pytest.approx(np.mean([e["roc_auc"] for e in expected]))
        assert row.log_loss_std == pytest.approx(np.std([e["log_loss"] for e in expected], ddof=1))
    assert "±" in table.view["AUROC, %"].iloc[0]
    assert compose(data).html()


def test_metric_section_without_a_choice_shows_the_command(cache):
    (hint,) = metric_section(load_report_data([cache])).blocks
    assert isinstance(hint, CommandHint)
    assert hint.commands[0].startswith("layercache report --metrics roc_auc,f1_macro,log_loss")


def test_predictions_are_read_once_for_the_gain(cache, monkeypatch):
    for kind, n in ((BASELINE, 80), (FUSION, 120)):
        probe = synthetic.save_probe(cache, **vars(kind), correct=synthetic.first(n))
    reads = []
    original = type(probe).predictions
    monkeypatch.setattr(
        type(probe), "predictions", lambda self: reads.append(self.id) or original(self)
    )
    data = load_report_data([cache])
    (combination,) = data.combinations.values()
    assert data.bootstrap(combination, FUSION).gain == pytest.approx(0.25)
    assert len(reads) == 2

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layercache.probing.api import probe
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import FigureBlock, Table
from layercache.reporting.sections.training import training_section
from tests.probing.quick import QUICK
from tests.reporting import synthetic


@pytest.fixture
def trained(tmp_path: Any) -> tuple[Any, list[Any]]:
    cache = synthetic.make_cache(tmp_path)
    options = {"lr": [0.1, 0.01], "weight_decay": 1e-4, "dropout": 0.0, "train_config": QUICK}
    heads = [
        *probe(cache, head="attentive", device="cpu", **options),
        *probe(cache, head="linear", layers="last", tokens="cls", device="cpu", **options),
        *probe(cache, head="knn", device="cpu"),
    ]
    return cache, heads


def test_curves_of_heads_that_train_by_epochs_are_drawn(trained: Any) -> None:
    cache, heads = trained
    section = training_section(load_report_data([cache]))
    assert section is not None
    figure, table = section.blocks
    assert isinstance(figure, FigureBlock)
    assert isinstance(table, Table)
    above, _ = np.reshape(figure.figure.axes, (2, -1))
    assert [axes.get_title(loc="left").split(",")[0] for axes in above] == ["attentive", "linear"]
    for axes, stored in zip(above, heads, strict=False):
        curves = stored.curves()
        drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
        np.testing.assert_array_equal(drawn["final fit on all training images"], curves.final_loss)
        selected = [0.1, 0.01].index(stored.row["lr"])
        np.testing.assert_array_equal(drawn["selected, in the search"], curves.train_loss[selected])
        assert len(axes.lines) == 3
    assert set(table.frame["head"]) == {"attentive", "linear"}
    assert set(table.frame["fit"]) == {"search", "final"}


def test_probes_without_curves_have_no_section(tmp_path: Any) -> None:
    cache = synthetic.make_cache(tmp_path)
    synthetic.save_probe(
        cache, head="linear", layers="last", tokens="cls", correct=synthetic.first(80)
    )
    assert training_section(load_report_data([cache])) is None

"""Pages of probes of annotation columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layercache.cache import Cache, open_cache
from layercache.cache.annotate import annotate
from layercache.errors import OptionError
from layercache.reporting import report
from layercache.reporting.analysis.published import BASELINE, FUSION
from layercache.reporting.data.loading import load_report_data
from tests.reporting import synthetic


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache whose label, float and two classes each have the attentive head and the baseline."""
    made = synthetic.make_cache(tmp_path_factory.mktemp("targets"))
    frames = []
    for split in ("train", "test"):
        labels = synthetic.labels_of(split)
        noise = np.random.default_rng(0).normal(0, 0.1, len(labels))
        frames.append(
            pd.DataFrame(
                {
                    "id": synthetic.ids_of(split),
                    "split": split,
                    "body length": 2.5 * labels + noise,
                    "legs": np.where(labels < 2, "six", "four"),
                }
            )
        )
    annotate(made, pd.concat(frames))
    made = open_cache(made.path)
    for target in (None, "body length", "legs"):
        for kind in (BASELINE, FUSION):
            synthetic.train(
                made, target=target, head=kind.head, layers=kind.layers, tokens=kind.tokens
            )
    return made


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_page_of_a_float_has_its_metric_a_plot_of_values_and_no_confusions(
    cache: Cache, tmp_path: Path
) -> None:
    made = report(tmp_path, root=cache.path.parents[2], target="body length", cka_images=50)
    text = text_of(made.page)
    assert "R² goes from" in made.headline[0]
    assert "Predicted and true values" in text
    assert "onfusions" not in text
    assert "balanced accuracy" not in text
    assert "within each class" not in text
    assert "Few training images" not in text
    assert "--target &#39;body length&#39;" in text
    assert "--task regression" in text
    assert any(path.name.startswith("values-") for path in made.figures)
    (table,) = (path for path in made.tables if path.name.startswith("values-"))
    values = pd.read_csv(table)
    assert set(values["id"]) == set(synthetic.ids_of("test"))
    assert (values["fusion_error"].abs().diff().dropna() <= 1e-9).all()
    assert "Not on this page: probes of other targets, label (2 probes) and legs (2" in text


def test_page_without_a_target_has_those_that_share_the_metric_of_the_label(cache: Cache) -> None:
    data = load_report_data([cache])
    assert [c.name for c in data.combinations.values()] == [
        "vit_toy on toys",
        "vit_toy on toys (legs)",
    ]
    assert data.other_targets == {"body length": 2}
    assert data.metric == "balanced accuracy"
    legs = list(data.combinations.values())[1]
    predictions = data.paired_predictions(legs, FUSION)
    assert predictions is not None
    assert set(data.class_names(legs, predictions[0])) == {"four", "six"}
    assert len({c.dataset_digest for c in data.combinations.values()}) == 2


def test_target_of_a_dataset_in_the_paper_has_no_published_gain(cache: Cache) -> None:
    table = load_report_data([cache], targets=["body length"]).table
    assert table["dataset_name"].unique().tolist() == ["toys (body length)"]


def test_bootstrap_of_a_float_is_that_of_its_r2(cache: Cache) -> None:
    data = load_report_data([cache], targets=["body length"])
    (combination,) = data.combinations.values()
    result = data.bootstrap(combination, FUSION)
    assert result is not None
    fusion, baseline = (data.probes_of(combination, kind)[0] for kind in (FUSION, BASELINE))
    assert result.gain == pytest.approx(fusion.row["test_r2"] - baseline.row["test_r2"], abs=1e-6)


def test_targets_without_probes_or_of_two_metrics_raise(cache: Cache) -> None:
    with pytest.raises(OptionError, match="no probe of age, only of body length, label, legs"):
        load_report_data([cache], targets=["age"])
    with pytest.raises(OptionError, match="one page compares one metric"):
        load_report_data([cache], targets=["label", "body length"])

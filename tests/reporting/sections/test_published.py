from __future__ import annotations

import pytest

from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import Table
from layercache.reporting.sections.published import published_section, published_table
from tests.reporting import synthetic

ALL_LINEAR = ProbeKind(head="linear", layers="all", tokens="cls+ap")
MIDDLE = ProbeKind(head="attentive", layers="mid-last", tokens="cls+ap")


def test_published_table_has_own_accuracy_theirs_and_the_difference(tmp_path):
    cache = synthetic.make_cache(tmp_path, model="clip_b16", dataset="flowers", test=False)
    for seed, count in ((0, 144), (1, 152)):
        synthetic.save_probe(cache, **vars(FUSION), correct=synthetic.first(count), seed=seed)
    synthetic.save_probe(cache, **vars(BASELINE), correct=synthetic.first(120))
    synthetic.save_probe(cache, **vars(MIDDLE), correct=synthetic.first(120))  # not published
    baseline, fusion = published_table(load_report_data([cache])).itertuples(index=False)
    assert (baseline.accuracy, baseline.paper_accuracy) == (pytest.approx(75), 94.24)
    assert baseline.difference == pytest.approx(75 - 94.24)
    assert (fusion.n_seeds, fusion.accuracy) == (2, pytest.approx(100 * 148 / 160))
    assert (fusion.paper_accuracy, fusion.difference) == (95.71, pytest.approx(92.5 - 95.71))


def test_published_section_names_the_mean_and_the_largest_difference(tmp_path):
    caches = [
        synthetic.make_cache(tmp_path, model=model, dataset="eurosat", test=False)
        for model in ("vit_s16", "dinov2_b14")
    ]
    for cache, count in zip(caches, (152, 80), strict=True):
        synthetic.save_probe(cache, **vars(ALL_LINEAR), correct=synthetic.first(count))
    section = published_section(load_report_data(caches))
    assert section is not None
    text, table = section.blocks
    # 95 - 98.03 and 50 - 98.14
    assert "differ from it by \N{MINUS SIGN}25.6 points on average" in text.text
    assert "\N{MINUS SIGN}48.1 (dinov2_b14 on eurosat, linear, all layers, CLS+AP)" in text.text
    assert isinstance(table, Table)
    assert "n_seeds" not in table.view


def test_published_section_of_other_backbones_or_datasets_is_left_out(tmp_path):
    for model, dataset in (("vit_toy", "flowers"), ("clip_b16", "toys")):
        cache = synthetic.make_cache(tmp_path, model=model, dataset=dataset, test=False)
        synthetic.save_probe(cache, **vars(FUSION), correct=synthetic.first(80))
        assert published_section(load_report_data([cache])) is None

from __future__ import annotations

import pytest

from layercache.reporting.analysis.published import BASELINE, FUSION
from layercache.reporting.api import compose
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.data.probe_selection import training_variant
from layercache.reporting.page import CommandHint, FigureBlock, Table
from layercache.reporting.sections.gains import differently_trained, gains_section
from tests.reporting import synthetic


def test_gains_section_without_class_token_says_so(tmp_path):
    cache = synthetic.make_cache(tmp_path, tokens=("ap",), test=False)
    synthetic.save_probe(
        cache, head="linear", layers="last", tokens="ap", correct=synthetic.first(80)
    )
    words = [b.text for b in gains_section(load_report_data([cache])).blocks]
    assert words[0].startswith(
        "No CLS is cached for vit_toy on toys: without it there is no baseline"
    )


def test_differently_trained_names_the_combinations_of_another_variant(tmp_path):
    caches = [synthetic.make_cache(tmp_path, dataset=name, test=False) for name in "abc"]
    for cache, n_configs in zip(caches, (2, 2, 1), strict=True):
        for kind in (BASELINE, FUSION):
            synthetic.save_probe(
                cache, **vars(kind), correct=synthetic.first(40), n_configs=n_configs
            )
    assert differently_trained(load_report_data(caches[:2])) == []
    assert differently_trained(load_report_data(caches)) == ["vit_toy on c"]


def test_gains_section_lists_what_is_left_out_and_how_to_report_on_it(tmp_path):
    cache = synthetic.make_cache(tmp_path, test=False)
    for kind in (BASELINE, FUSION):
        synthetic.save_probe(cache, **vars(kind), correct=synthetic.first(80))
    other = synthetic.save_probe(cache, **vars(BASELINE), correct=synthetic.first(120), n_configs=3)
    data = load_report_data([cache])
    blocks = gains_section(data).blocks
    (table,) = [b.frame for b in blocks if isinstance(b, Table) and b.name == "left-out"]
    (row,) = table.itertuples(index=False)
    assert row[:3] == ("vit_toy on toys", 1, training_variant(other.spec))
    assert row.difference == "lr grid (0.01, 0.1, 1.0 instead of 1.0)"
    commands = [c for b in blocks if isinstance(b, CommandHint) for c in b.commands]
    assert "layercache report --variant VARIANT" in commands
    sentences = compose(data).headline
    assert sentences[-1].startswith("Left out: 1 probe trained in another way")


def test_report_keeps_a_pilot_and_the_whole_dataset_apart(tmp_path):
    """A3 of issue 11: they became one dataset, whose gain was the mean of both."""
    gains = {None: 40, 200: 8}
    caches = [synthetic.make_cache(tmp_path, limit=limit, test=False) for limit in gains]
    for cache, gain in zip(caches, gains.values(), strict=True):
        synthetic.save_probe(cache, **vars(BASELINE), correct=synthetic.first(80))
        synthetic.save_probe(cache, **vars(FUSION), correct=synthetic.first(80 + gain))
    page = compose(load_report_data(caches))
    assert page.tiles[0].number == "1 × 2"
    blocks = [block for section in page.sections for block in section.blocks]
    tables = {b.name: b.frame for b in blocks if isinstance(b, Table)}
    means = tables["gains-mean"].set_index("dataset")["gain"]
    assert means.to_dict() == pytest.approx({"toys (all images)": 25, "toys (limit 200)": 5})
    names = [b.name for b in blocks if isinstance(b, FigureBlock)]
    assert len(set(names)) == len(names)
    overview = next(b.figure for b in blocks if getattr(b, "name", "") == "attention-vit_toy")
    rows = [label.get_text() for label in overview.axes[0].get_yticklabels()]
    assert sorted(rows) == ["toys (all images)", "toys (limit 200)"]


def test_gains_section_of_single_layers_only_has_them_in_the_file(tmp_path):
    cache = synthetic.make_cache(tmp_path, test=False)
    for layers in ("last", "1"):
        synthetic.save_probe(
            cache, head="linear", layers=layers, tokens="cls", correct=synthetic.first(80)
        )
    blocks = gains_section(load_report_data([cache])).blocks
    (table,) = [b for b in blocks if isinstance(b, Table) and b.name == "gains-mean"]
    assert (len(table.frame), table.rows()) == (1, [])

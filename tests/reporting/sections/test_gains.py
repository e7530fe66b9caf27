from __future__ import annotations

from layercache.reporting.data import load_report_data
from layercache.reporting.sections.gains import gains_section, mixed_training
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


def test_mixed_training_names_heads_trained_in_two_ways(tmp_path):
    cache = synthetic.make_cache(tmp_path)
    synthetic.save_probe(
        cache, head="linear", layers="last", tokens="cls", correct=synthetic.first(40)
    )
    synthetic.save_probe(
        cache, head="linear", layers="all", tokens="cls+ap", correct=synthetic.first(40)
    )
    assert mixed_training(load_report_data([cache])) == []
    synthetic.save_probe(
        cache, head="linear", layers="1", tokens="cls", correct=synthetic.first(40), n_configs=2
    )
    assert mixed_training(load_report_data([cache])) == ["vit_toy on toys, linear"]

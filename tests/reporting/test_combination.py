from __future__ import annotations

from layercache.reporting.combination import find_combinations
from layercache.reporting.data import load_report_data
from layercache.reporting.gains import gains_over_baseline
from tests.reporting import synthetic


def test_find_combinations_groups_caches_of_different_tokens(tmp_path):
    plain = synthetic.make_cache(tmp_path)
    dense = synthetic.make_cache(tmp_path, layers=(4,), tokens=("cls", "patch/0", "patch/1"))
    other = synthetic.make_cache(tmp_path, model="vit_other")
    combinations = find_combinations([dense, other, plain])
    assert {c.name: [cache.path for cache in c.caches] for c in combinations} == {
        "vit_toy on toys": [plain.path, dense.path],
        "vit_other on toys": [other.path],
    }


def test_gains_over_caches_of_one_combination_are_computed(tmp_path):
    plain = synthetic.make_cache(tmp_path)
    dense = synthetic.make_cache(tmp_path, layers=(4,), tokens=("cls", "patch/0", "patch/1"))
    synthetic.save_probe(
        plain, head="linear", layers="last", tokens="cls", correct=synthetic.first(40)
    )
    synthetic.save_probe(
        dense, head="attentive", layers="last", tokens="all", correct=synthetic.first(80)
    )
    assert list(gains_over_baseline(load_report_data([plain, dense]).standard)["gain"]) == [25.0]

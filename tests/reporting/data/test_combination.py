from __future__ import annotations

from layercache.reporting.analysis.gains import gains_over_baseline
from layercache.reporting.data.combination import find_combinations
from layercache.reporting.data.loading import load_report_data
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


def test_find_combinations_of_one_name_have_their_own_labels_and_files(tmp_path):
    caches = [
        synthetic.make_cache(tmp_path, test=False),
        synthetic.make_cache(tmp_path, limit=200, test=False),
        synthetic.make_cache(tmp_path, weights="others", test=False),
        synthetic.make_cache(tmp_path, dataset="犬", test=False),
        synthetic.make_cache(tmp_path, dataset="猫", test=False),
    ]
    combinations = find_combinations(caches)
    assert len({c.name for c in combinations}) == len({c.slug for c in combinations}) == 5
    assert {c.dataset_label for c in combinations} == {
        "toys (all images)",
        "toys (limit 200)",
        "犬",
        "猫",
    }
    digests = {digest: c.dataset_label for c in combinations if (digest := c.dataset_digest)}
    assert len(digests) == 4
    models = {c.weights_digest: c.model_label for c in combinations}
    assert len(set(models.values())) == 2
    assert all(label.startswith("vit_toy (weights ") for label in models.values())
    # commands need the names that were given to `extract`
    assert {c.model for c in combinations} == {"vit_toy"}


def test_find_combinations_of_one_backbone_under_two_names_are_one(tmp_path):
    caches = [
        synthetic.make_cache(tmp_path, model=name, weights="same", test=False)
        for name in ("vit_b16", "vit_base_patch16_224")
    ]
    assert len(find_combinations(caches)) == 1


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

from __future__ import annotations

import os

import pytest

from layercache.errors import OptionError
from layercache.probing.results.reading import read_results
from layercache.reporting.analysis.gains import gains_over_baseline, select_kind
from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.data.probe_selection import training_variant
from tests.probing.sealed import edit_sealed
from tests.reporting import synthetic

KNN = ProbeKind(head="knn", layers="all", tokens="cls+ap")


@pytest.fixture
def cache(tmp_path):
    return synthetic.make_cache(tmp_path, test=False)


class Clock:
    """Saves probes one second after another, in files whose times a copy has changed."""

    def __init__(self, cache):
        self.cache = cache
        self.now = 1_700_000_000
        self.now_of_copies = 1_800_000_000

    def save(self, kind, n_correct, **options):
        self.now += 1
        correct = synthetic.first(n_correct)
        probe = synthetic.save_probe(self.cache, **vars(kind), correct=correct, **options)
        path = probe.path / "probe.json"
        edit_sealed(path, lambda record: record.update(written_at=self.now))
        os.utime(path, (self.now_of_copies, self.now_of_copies))
        return probe


@pytest.fixture
def clock(cache):
    return Clock(cache)


def gain_of(data, kind=FUSION):
    gains = select_kind(gains_over_baseline(data.standard), kind)
    return gains["gain"].round(9).tolist()


def fusion_gain(cache, **options):
    return gain_of(load_report_data([cache], **options))


def test_gain_does_not_change_with_unrelated_probes(cache, clock):
    """A4 of issue 11: a baseline of few epochs was subtracted from a probe of many."""
    clock.save(BASELINE, 80)
    fusion = clock.save(FUSION, 96)
    assert fusion_gain(cache) == [10]
    # more seeds and a larger grid: neither decides
    for seed in range(3):
        clock.save(BASELINE, 112, epochs=5, n_configs=3, seed=seed)
    assert fusion_gain(cache) == [10]
    clock.save(FUSION, 40, n_configs=2)
    clock.save(BASELINE, 40, test_split="val")
    data = load_report_data([cache])
    assert fusion_gain(cache) == [10]
    table = read_results(cache).with_gain().set_index("probe")
    assert table.loc[fusion.id, "gain"] == pytest.approx(0.1)
    reasons = {left.reason: left.n_probes for left in data.left_out}
    assert reasons == {
        "epochs (5 instead of 40) and lr grid (0.01, 0.1, 1.0 instead of 1.0)": 3,
        "lr grid (0.1, 1.0 instead of 1.0)": 1,
        "test split (val instead of test)": 1,
    }


def test_newest_variant_with_a_gain_is_reported(cache, clock):
    clock.save(BASELINE, 80)
    clock.save(FUSION, 96)
    clock.save(BASELINE, 80, epochs=5)
    newest = clock.save(FUSION, 112, epochs=5)
    assert fusion_gain(cache) == [20]
    data = load_report_data([cache])
    assert set(data.table["variant"]) == {training_variant(newest.spec)}
    assert [left.reason for left in data.left_out] == ["epochs (40 instead of 5)"]
    # the other one is reported when it is named
    other = data.left_out[0].variant
    assert fusion_gain(cache, variant=other[:6]) == [10]
    with pytest.raises(OptionError, match=r"variant: expected the first digits of one of \w+, \w+"):
        load_report_data([cache], variant="x")


def test_baseline_of_another_seed_is_no_complete_variant(cache, clock):
    clock.save(BASELINE, 80)
    clock.save(FUSION, 96)
    clock.save(BASELINE, 80, epochs=5, seed=1)
    clock.save(FUSION, 112, epochs=5)
    assert fusion_gain(cache) == [10]


def test_nearest_neighbours_belong_to_every_variant_of_their_splits(cache, clock):
    clock.save(KNN, 88)
    clock.save(KNN, 120, test_split="val")
    clock.save(BASELINE, 80)
    clock.save(FUSION, 96)
    assert gain_of(load_report_data([cache]), KNN) == [5]
    # without a trained head, the newest split counts
    other = Clock(synthetic.make_cache(cache.path.parents[2], dataset="other", test=False))
    other.save(KNN, 88)
    other.save(KNN, 120, test_split="val")
    data = load_report_data([other.cache])
    assert data.table["accuracy"].tolist() == [0.75]
    assert [left.reason for left in data.left_out] == ["test split (test instead of val)"]


def test_two_grids_of_dropout_are_not_two_seeds(cache, clock):
    clock.save(BASELINE, 80)
    clock.save(FUSION, 96, dropouts=(0.0, 0.1))
    clock.save(FUSION, 112)
    data = load_report_data([cache])
    assert fusion_gain(cache) == [20]
    (left,) = data.left_out
    assert (left.n_probes, left.reason) == (1, "dropout grid (0.0, 0.1 instead of 0.0)")


def test_one_probe_in_two_caches_counts_once(tmp_path):
    plain = Clock(synthetic.make_cache(tmp_path, test=False))
    dense = Clock(synthetic.make_cache(tmp_path, tokens=("cls", "ap", "patch/0"), test=False))
    plain.save(BASELINE, 80)
    plain.save(FUSION, 96)
    dense.save(FUSION, 96)
    data = load_report_data([plain.cache, dense.cache])
    assert gain_of(data) == [10]
    assert select_kind(gains_over_baseline(data.standard), FUSION)["n_seeds"].tolist() == [1]
    assert [left.reason for left in data.left_out] == ["the same probes in another cache"]


def test_given_probes_are_selected_in_the_same_way(cache, clock):
    own = [clock.save(BASELINE, 80), clock.save(FUSION, 96)]
    clock.save(BASELINE, 80, epochs=5)
    clock.save(FUSION, 112, epochs=5)
    assert fusion_gain(cache, probes=own) == [10]
    assert load_report_data([cache], probes=own).left_out == []

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from layercache.cache import find_caches
from layercache.cache.format.origin import Origin
from layercache.cache.origin_records import record_origin
from layercache.probing.results.reading import read_results
from layercache.reporting.analysis.gains import gains_over_baseline, select_kind
from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind
from layercache.reporting.data.loading import load_report_data
from tests.reporting import synthetic


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = synthetic.make_cache(tmp_path_factory.mktemp("caches"))
    synthetic.save_all_probes(cache)
    synthetic.save_probe(
        cache, head="attentive", layers="all", tokens="cls+ap", correct=synthetic.first(128), seed=1
    )
    return cache


def test_load_report_data_has_one_row_per_probe(cache):
    data = load_report_data([cache])
    assert len(data.table) == len(list((cache.path / "probes").iterdir()))
    base = select_kind(data.standard, BASELINE)
    assert list(base["accuracy"]) == [0.5]
    fusion = select_kind(data.standard, FUSION).sort_values("seed")
    assert list(fusion["accuracy"]) == [0.75, 0.8]
    # other numbers of heads and few-shot probes are not in the standard rows
    assert sorted(data.table["num_heads"].dropna()) == [2]
    assert set(data.table["shots"].dropna()) == {1, 5}
    assert len(data.standard) == len(data.table) - 5


def test_gains_are_those_of_the_results_table(cache):
    """The fusion probe has seeds 0 and 1, the baseline only seed 0."""
    result = select_kind(gains_over_baseline(load_report_data([cache]).standard), FUSION).iloc[0]
    assert result["gain"] == pytest.approx(25)
    assert result["n_seeds"] == 1
    expected = read_results(cache).with_gain()
    expected = expected[expected["shots"].isna() & (expected["num_heads"] != 2)]
    expected = select_kind(expected, FUSION)["gain"]
    assert result["gain"] == pytest.approx(100 * expected.mean())


def test_load_report_data_of_given_probes_leaves_out_those_of_others(tmp_path):
    cache = synthetic.make_cache(tmp_path)
    options = {"head": "attentive", "layers": "all", "tokens": "cls+ap"}
    for seed in range(3):  # a pilot, which has more seeds
        synthetic.save_probe(cache, **options, correct=synthetic.first(40), n_configs=3, seed=seed)
    own = [
        synthetic.save_probe(cache, **options, correct=synthetic.first(80), seed=seed)
        for seed in range(2)
    ]
    data = load_report_data([cache], probes=own)
    assert list(data.table["accuracy"]) == [0.5, 0.5]
    assert set(data.probes) == {str(probe.path) for probe in own}
    assert data.left_out == []


def test_bootstrap_and_predictions_are_paired_over_the_same_images(cache):
    data = load_report_data([cache])
    combination = data.detailed[0]
    result = data.bootstrap(combination, FUSION)
    assert result.n_images == 160
    assert result.gain == pytest.approx(0.25)  # seed 0, which both have
    assert data.bootstrap(combination, ProbeKind(head="hybrid", layers="all", tokens="cls")) is None
    fusion, baseline = data.paired_predictions(combination, FUSION)
    assert (
        fusion.logits.argmax(1) == fusion.targets
    ).mean() == 0.75  # seed 0, which the baseline has too
    assert (baseline.logits.argmax(1) == baseline.targets).mean() == 0.5


def test_test_ids_are_those_of_the_cache_or_none(cache, tmp_path):
    data = load_report_data([cache])
    combination = data.detailed[0]
    predictions = data.probes_of(combination, FUSION)[0].predictions()
    assert data.test_ids(combination, predictions) == synthetic.ids_of("test")
    predictions = replace(predictions, sample_ids=None)  # as older versions stored them
    assert data.test_ids(combination, predictions) == synthetic.ids_of("test")
    untested = synthetic.make_cache(tmp_path, test=False)
    assert (
        load_report_data([untested]).test_ids(load_report_data([untested]).detailed[0], predictions)
        is None
    )


def test_probe_command_quotes_names_and_has_the_cache_option(tmp_path):
    cache = synthetic.make_cache(tmp_path / "my caches", dataset="my pets")
    data = load_report_data([cache], root=tmp_path / "my caches")
    command = data.probe_command(data.detailed[0], FUSION)
    assert command == (
        "layercache probe --model vit_toy --dataset 'my pets' --head attentive --layers all "
        f"--tokens cls+ap --cache '{tmp_path / 'my caches'}'"
    )
    assert np.isnan(data.table["shots"].to_numpy()).all()
    data = load_report_data([cache], probes_root="my probes")
    assert data.probe_command(data.detailed[0], FUSION).endswith("cls+ap --probes 'my probes'")


def test_load_report_data_leaves_out_a_probe_with_damaged_predictions(tmp_path, caplog):
    cache = synthetic.make_cache(tmp_path)
    options = {"head": "linear", "layers": "last", "tokens": "cls"}
    damaged, whole = (
        synthetic.save_probe(cache, **options, correct=synthetic.first(20), seed=seed)
        for seed in (0, 1)
    )
    file = damaged.path / "predictions.npz"
    file.write_bytes(file.read_bytes().replace(b"logits", b"lagits"))
    with caplog.at_level("WARNING", logger="layercache"):
        data = load_report_data([cache])
    assert list(data.probes) == [str(whole.path)]
    (warning,) = caplog.messages
    assert f"left out a damaged probe: {file}: SHA-256 is not the one of its record" in warning
    assert f"remove {damaged.path} and run the same `layercache probe` again" in warning


def test_probe_command_of_a_cache_without_a_source_tells_it_from_its_namesakes(tmp_path):
    old = synthetic.make_cache(tmp_path, dataset="toys")
    other = synthetic.make_cache(tmp_path, dataset="toys", layers=(1, 2, 3, 4), depth=5)
    record_origin(other.path, Origin(dataset="folder:/my/toys"))
    data = load_report_data(find_caches(tmp_path))
    commands = {
        combination.cache.path: data.probe_command(combination, FUSION)
        for combination in data.combinations.values()
    }
    assert f"--dataset toys --fingerprint {old.path.name}" in commands[old.path]
    assert "--dataset folder:/my/toys --head" in commands[other.path]

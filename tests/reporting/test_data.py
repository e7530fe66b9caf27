from __future__ import annotations

import numpy as np
import pytest

from layercache.reporting.data import gather, group
from layercache.reporting.gains import gains, pick
from layercache.reporting.published import BASELINE, FUSION, Cell
from layercache.reporting.sections.gains import mixed_training
from tests.reporting import lab


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = lab.make_cache(tmp_path_factory.mktemp("caches"))
    lab.furnish(cache)
    lab.keep(cache, head="attentive", layers="all", tokens="cls+ap", right=lab.first(128), seed=1)
    return cache


def test_one_row_per_probe_by_its_cell(cache):
    material = gather([cache])
    assert len(material.table) == len(list((cache.path / "probes").iterdir()))
    base = pick(material.main, BASELINE)
    assert list(base["accuracy"]) == [0.5]
    fusion = pick(material.main, FUSION).sort_values("seed")
    assert list(fusion["accuracy"]) == [0.75, 0.8]
    # other numbers of heads and few-shot probes are told apart from the protocol's own
    assert sorted(material.table["attention_heads"].dropna()) == [2]
    assert set(material.table["shots"].dropna()) == {1, 5}
    assert len(material.main) == len(material.table) - 5


def test_gain_is_of_the_mean_over_seeds(cache):
    found = pick(gains(gather([cache]).main), FUSION).iloc[0]
    assert found["gain"] == pytest.approx(100 * (0.775 - 0.5))
    assert found["seeds"] == 2


def test_probes_of_another_way_of_training_stand_aside(tmp_path):
    cache = lab.make_cache(tmp_path)
    lab.keep(
        cache, head="attentive", layers="all", tokens="cls+ap", right=lab.first(40), settings=1
    )
    lab.keep(
        cache, head="attentive", layers="all", tokens="cls+ap", right=lab.first(80), settings=3
    )
    lab.keep(cache, head="linear", layers="last", tokens="cls", right=lab.first(20))
    material = gather([cache])
    assert material.set_aside == 1
    assert list(pick(material.main, FUSION)["accuracy"]) == [0.5]
    # more seeds go before a larger grid
    lab.keep(
        cache,
        head="attentive",
        layers="all",
        tokens="cls+ap",
        right=lab.first(40),
        settings=1,
        seed=1,
    )
    assert list(pick(gather([cache]).main, FUSION)["accuracy"]) == [0.25, 0.25]


def test_caches_of_other_tokens_belong_to_the_same_source(tmp_path):
    plain = lab.make_cache(tmp_path)
    dense = lab.make_cache(tmp_path, layers=(4,), tokens=("cls", "patch/0", "patch/1"))
    other = lab.make_cache(tmp_path, model="vit_other")
    found = group([dense, other, plain])
    assert {s.name: [c.path for c in s.caches] for s in found} == {
        "vit_toy on toys": [plain.path, dense.path],
        "vit_other on toys": [other.path],
    }
    lab.keep(plain, head="linear", layers="last", tokens="cls", right=lab.first(40))
    lab.keep(dense, head="attentive", layers="last", tokens="all", right=lab.first(80))
    assert list(gains(gather([plain, dense]).main)["gain"]) == [25.0]


def test_bootstrap_is_over_the_same_images_only(cache):
    material = gather([cache])
    source = material.detailed[0]
    found = material.bootstrap(source, FUSION)
    assert found.images == 160
    assert found.gain == pytest.approx(0.275)
    assert material.bootstrap(source, Cell(head="hybrid", layers="all", tokens="cls")) is None
    fusion, baseline = material.pair(source, FUSION)
    assert (
        fusion.logits.argmax(1) == fusion.targets
    ).mean() == 0.75  # seed 0, which the baseline has too
    assert (baseline.logits.argmax(1) == baseline.targets).mean() == 0.5


def test_ids_are_those_of_the_cache_or_unknown(cache, tmp_path):
    material = gather([cache])
    source = material.detailed[0]
    predictions = material.of(source, FUSION)[0].predictions()
    assert material.test_ids(source, predictions) == lab.ids_of("test")
    untested = lab.make_cache(tmp_path, test=False)
    assert gather([untested]).test_ids(gather([untested]).detailed[0], predictions) is None


def test_commands_quote_and_say_where(tmp_path):
    cache = lab.make_cache(tmp_path / "my caches", dataset="my pets")
    material = gather([cache], root=tmp_path / "my caches")
    command = material.command(material.detailed[0], FUSION)
    assert command == (
        f"layercache probe --model vit_toy --dataset 'my pets' --head attentive --layers all --tokens cls+ap --cache '{tmp_path / 'my caches'}'"
    )
    assert np.isnan(material.table["shots"].to_numpy()).all()


def test_probes_of_one_head_trained_in_two_ways_are_named(tmp_path):
    cache = lab.make_cache(tmp_path)
    lab.keep(cache, head="linear", layers="last", tokens="cls", right=lab.first(40))
    lab.keep(cache, head="linear", layers="all", tokens="cls+ap", right=lab.first(40))
    assert mixed_training(gather([cache])) == []
    lab.keep(cache, head="linear", layers="1", tokens="cls", right=lab.first(40), settings=2)
    assert mixed_training(gather([cache])) == ["vit_toy on toys, linear"]

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

import layercache
from layercache.cache.annotate import annotate
from layercache.errors import OptionError, ProbeError, ProbeNotFoundError
from layercache.probing.api import probe
from layercache.probing.ensemble import api
from layercache.probing.ensemble.pool_or_member import choose_pool
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.split_predictions import predict_split
from layercache.testing import write_cache
from tests.probing.quick import ONE_CONFIG

CLASSES = ("ant", "bee", "cat", "dog")
ROWS = {"train": 240, "test": 160}


def make_cache(root, *, model="vit_toy", dataset="toys", width=24, seed=0, classes=CLASSES):
    """CLS of the last layer knows one half of the class, AP the other."""
    rng = np.random.default_rng([seed, *model.encode()])
    one, two = rng.normal(size=(2, 2, width))
    labels = {split: (np.arange(n) % 4).astype(np.int64) for split, n in ROWS.items()}
    features = {}
    for split, y in labels.items():
        x = rng.normal(size=(2, 2, len(y), width))
        x[1, 0] += 0.9 * one[y // 2]
        x[1, 1] += 0.9 * two[y % 2]
        features[split] = x.astype(np.float16)
    return write_cache(
        features,
        labels,
        root=root,
        kinds=("cls", "ap"),
        layers=(1, 2),
        depth=2,
        classes=classes,
        model=model,
        dataset=dataset,
        weights=(model.encode().hex() * 64)[:64],
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def members(cache):
    """Probes of CLS and of AP, each of which can tell two groups of classes apart."""
    return probe(
        cache, head="linear", layers="last", tokens=["cls", "ap"], folds=4, **ONE_CONFIG
    ).probes


@pytest.fixture(scope="module")
def pooled(members):
    return layercache.ensemble(members, device="cpu").probes[-1]


def test_ensemble_of_probes_with_half_the_information_each_beats_both(members, pooled):
    scores = [p.row["test_balanced_accuracy"] for p in members]
    assert pooled.row["test_balanced_accuracy"] > max(scores) + 0.15
    assert pooled.row["val_balanced_accuracy"] > max(
        p.row["val_balanced_accuracy"] for p in members
    )


def test_ensemble_is_stored_and_listed_as_a_probe(cache, members, pooled):
    row = layercache.read_results(cache).table.set_index("probe").loc[pooled.id]
    assert (row["head"], row["tokens"], row["n_tokens"]) == ("ensemble", "cls & ap", 2)
    assert row["val_rows"] == 240  # out of fold: every training sample
    logits = [p.predictions().logits for p in members]
    factors = pooled.configs[0].hparams
    expected = sum(factors[p.id] * z for p, z in zip(members, logits, strict=True))
    np.testing.assert_allclose(pooled.predictions().logits, expected, rtol=1e-5, atol=1e-5)
    assert pooled.predictions().ids == members[0].predictions().ids


def test_ensemble_predicts_a_split_as_it_was_tested(pooled):
    table = predict_split(pooled, "test")
    targets = np.array(CLASSES)[np.arange(160) % 4]
    recall = [(table["prediction"] == targets)[targets == c].mean() for c in CLASSES]
    assert np.mean(recall) == pytest.approx(pooled.row["test_balanced_accuracy"])


def test_ensemble_that_exists_is_read_and_not_fitted_again(members, pooled, caplog):
    with caplog.at_level(logging.INFO, logger="layercache"):
        again = layercache.ensemble([p.id[:8] for p in members], root=pooled.path.parents[4])
    assert again.probes[-1].sha256 == pooled.sha256
    assert "already exists" in caplog.text


def test_held_out_scores_of_the_members_are_those_of_their_searches(members, caplog):
    """The selected configuration, trained alone, equals itself in the search."""
    with caplog.at_level(logging.INFO, logger="layercache"):
        layercache.ensemble(members, device="cpu", refresh=True)
    for member in members:
        (line,) = [m for m in caplog.messages if member.id in m]
        score = float(line.split("balanced accuracy ")[1].split(" ")[0])
        # of four folds of 60 samples each: the mean over the folds is that over the samples
        assert score == pytest.approx(100 * member.row["val_balanced_accuracy"], abs=0.01)


def test_ensemble_of_several_seeds_needs_folds(cache):
    options = {**ONE_CONFIG, "head": "linear", "layers": "last", "tokens": "cls"}
    probes = probe(cache, seeds=4, shots=8, **options).probes
    with pytest.raises(ProbeError, match=r"seeds 0, 1, 2, 3 draw .* \(--folds 5\)"):
        layercache.ensemble(probes, device="cpu")
    folds = probe(cache, seeds=2, folds=3, **options)
    assert layercache.ensemble(folds.probes, device="cpu").probes[-1].row["val_rows"] == 240


def test_pool_below_its_best_member_is_that_member_and_says_so(cache, caplog):
    """A member that was trained for no time has only noise to add."""
    good, bad = (
        probe(cache, head="linear", layers=layers, tokens="cls", folds=2, **ONE_CONFIG).probes[0]
        for layers in ("last", "1")
    )
    result = layercache.ensemble([bad, good], device="cpu").probes[-1]
    factors = result.configs[0].hparams
    best = good.row["val_balanced_accuracy"]
    assert result.row["val_balanced_accuracy"] >= best - 1e-6
    if "below its best member" in caplog.text:
        assert (factors[bad.id], factors[good.id]) == (0, 1)
        assert result.row["config"] == f"{good.id[:6]} alone"
        assert result.row["test_balanced_accuracy"] == good.row["test_balanced_accuracy"]


def test_ensemble_of_two_backbones_is_stored_with_both_names(cache, tmp_path, members):
    other = make_cache(cache.path.parents[2], model="vit_other", width=16)
    (second,) = probe(
        other, head="linear", layers="last", tokens="ap", folds=4, **ONE_CONFIG
    ).probes
    result = layercache.ensemble([members[0], second], device="cpu").probes[-1]
    assert result.row["model"] == "vit_toy+vit_other"
    assert result.path.parent == members[0].path.parent
    table = predict_split(result, "test", root=cache.path.parents[2])
    assert len(table) == 160
    ProbeFolder(second.path).remove()
    with pytest.raises(ProbeNotFoundError):
        predict_split(result, "test", root=cache.path.parents[2])


def test_ensemble_of_members_trained_with_groups_keeps_them_together(tmp_path, monkeypatch):
    cache = make_cache(tmp_path)
    split = cache.split("train")
    patients = np.arange(240) // 8
    annotate(cache.path, pd.DataFrame({"id": split.ids, "patient": patients}), partial=True)
    members = probe(
        cache.path,
        head=["ridge", "lda"],
        layers="last",
        folds=3,
        group="patient",
        device="cpu",
    ).probes
    seen = []

    def note(*args, groups, **options):
        seen.append(groups)
        return choose_pool(*args, groups=groups, **options)

    monkeypatch.setattr(api, "choose_pool", note)
    layercache.ensemble(members, device="cpu")
    assert seen[0].tolist() == patients.tolist()


def test_ensemble_refuses_what_does_not_belong_together(cache, members, pooled, tmp_path):
    with pytest.raises(OptionError, match="at least two different probes, got 1"):
        layercache.ensemble([members[0], members[0].path])
    with pytest.raises(OptionError, match="give its members instead"):
        layercache.ensemble([members[0], pooled])
    with pytest.raises(OptionError, match="expected a list of probes"):
        layercache.ensemble("abc")
    (other_splits,) = probe(cache, head="linear", layers="last", tokens="cls", **ONE_CONFIG).probes
    with pytest.raises(OptionError, match=r"has validation 4 folds, .* train both on the same"):
        layercache.ensemble([members[0], other_splits])
    other = make_cache(tmp_path, dataset="others")
    (elsewhere,) = probe(
        other, head="linear", layers="last", tokens="cls", folds=4, **ONE_CONFIG
    ).probes
    with pytest.raises(OptionError, match=r"same dataset, target and splits: .* dataset digest"):
        layercache.ensemble([members[0], elsewhere])
    (one_shot,) = probe(
        cache, head="linear", layers="last", tokens="cls", shots=1, **ONE_CONFIG
    ).probes
    (other_head,) = probe(
        cache, head="linear", layers="last", tokens="ap", shots=1, **ONE_CONFIG
    ).probes
    with pytest.raises(ProbeError, match="at least 2 shots"):
        layercache.ensemble([one_shot, other_head])

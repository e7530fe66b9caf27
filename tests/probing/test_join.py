from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import layercache
from layercache.cache import Cache
from layercache.errors import HeadMismatchError, OptionError, UnknownNameError
from layercache.probing.api import probe
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.join import check_same_images, join_tokens
from layercache.probing.results.encoder_attention import attention_by_encoder
from layercache.probing.results.split_predictions import predict_split
from layercache.probing.token_selection import select_tokens
from layercache.testing import write_cache
from tests.probing.quick import ONE_CONFIG

ROWS = {"train": 200, "test": 120}
SHAPE = {"narrow": (2, 16), "wide": (3, 24)}
"""Model -> layers and width."""


def make_cache(root, model, *, dataset="toys", rows=ROWS, dtype=np.float16):
    """One model knows one half of the class in its last layer, the other the other half."""
    n_layers, width = SHAPE[model]
    rng = np.random.default_rng([*model.encode()])
    directions = rng.normal(size=(2, width))
    labels = {split: (np.arange(n) % 4).astype(np.int64) for split, n in rows.items()}
    tokens = {}
    for split, y in labels.items():
        x = rng.normal(size=(n_layers, 2, len(y), width))
        half = y // 2 if model == "narrow" else y % 2
        x[-1, 0] += 1.5 * directions[half]
        tokens[split] = x.astype(dtype)
    return write_cache(
        tokens,
        labels,
        root=root,
        classes=("ant", "bee", "cat", "dog"),
        model=model,
        dataset=dataset,
        weights=(model.encode().hex() * 64)[:64],
    )


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    root = tmp_path_factory.mktemp("caches")
    return make_cache(root, "narrow"), make_cache(root, "wide", dtype=np.float32)


@pytest.fixture(scope="module")
def joined(caches):
    return probe(caches[0], join="wide", **ONE_CONFIG).probes[0]


def test_joined_encoders_know_what_neither_of_them_knows(caches, joined):
    alone = [probe(cache, **ONE_CONFIG).probes[0] for cache in caches]
    assert max(p.row["test_balanced_accuracy"] for p in alone) < 0.65
    assert joined.row["test_balanced_accuracy"] > 0.8
    assert (joined.row["model"], joined.row["join"]) == ("narrow+wide", "map 24")
    assert (joined.row["n_tokens"], joined.row["layers"]) == (10, "all")
    assert joined.path.parents[1] == caches[0].path


def test_attention_by_encoder_is_the_sum_over_its_tokens_and_adds_up_to_one(joined):
    narrow, wide = attention_by_encoder(joined)
    assert (narrow.name, wide.name) == ("narrow", "wide")
    assert (len(narrow.pairs), len(wide.pairs)) == (4, 6)
    weights = joined.attention().mean
    assert narrow.share == pytest.approx(weights[:, :4].sum(1).mean())
    assert narrow.share + wide.share == pytest.approx(1, abs=1e-5)
    text = layercache.read_results(joined.path.parents[4]).to_text()
    assert f"{joined.id}: narrow {100 * narrow.share:.1f} % and wide" in text


def test_joined_tokens_are_those_of_both_caches_padded_with_zeros(caches):
    narrow, wide = caches
    own = select_tokens(narrow, head="attentive", layers=None, tokens=None)
    tokens = join_tokens(own, [wide], head="attentive", layers=None, kinds=None)
    assert tokens.encoders == (("narrow", 4), ("wide", 6))
    rows = np.arange(3, 150, 2)
    expected = np.zeros((len(rows), 10, 24), np.float32)
    for first, cache in ((0, narrow), (4, wide)):
        split = cache.split("train")
        pairs = [(layer, kind) for layer in cache.spec.layers for kind in ("cls", "ap")]
        x_snd = split.read(pairs)[:, rows].astype(np.float32)
        expected[:, first : first + len(pairs), : cache.spec.width] = x_snd.transpose(1, 0, 2)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    for mode in ("resident", "stream"):
        loader = DatasetLoader(device=torch.device("cpu"), mode=mode, memory_budget=2**24)
        dataset = loader.train(tokens, "train", rows=rows)
        batches = dataset.iter_batches(np.arange(len(rows)), batch_size=16, train=False)
        x = np.concatenate([x.numpy().copy() for x, _ in batches])
        np.testing.assert_allclose(x, expected, atol=1e-6)


def test_joined_probe_predicts_a_split_from_both_caches_as_it_was_tested(joined):
    table = predict_split(joined, "test", root=joined.path.parents[4])
    logits = joined.predictions().logits
    names = np.array(["ant", "bee", "cat", "dog"])
    np.testing.assert_array_equal(table["prediction"], names[logits.argmax(1)])


def test_joined_head_as_a_module_equals_the_head(joined):
    head, module = layercache.load_head(joined.path), layercache.heads.load(joined)
    x = torch.randn(5, 10, 24)
    x[:, :4, 16:] = 0
    torch.testing.assert_close(module(x), head.predict(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module.attention(x), head.attention(x), atol=1e-6, rtol=1e-5)


def test_streamed_joined_probe_equals_the_resident_one(caches, joined):
    again = probe(
        caches[0],
        join=caches[1],
        features="stream",
        memory_budget="1MB",
        refresh=True,
        **ONE_CONFIG,
    ).probes[0]
    assert again.id == joined.id
    assert again.row["features"] == "stream"
    assert again.row["test_balanced_accuracy"] == pytest.approx(
        joined.row["test_balanced_accuracy"], abs=0.05
    )


def test_widths_of_a_join_are_different_probes(caches, joined):
    ids = {joined.id}
    for width, text in (("pad", "pad 24"), (12, "map 12")):
        result = probe(caches[0], join=["wide"], join_width=width, **ONE_CONFIG).probes[0]
        assert result.row["join"] == text
        assert attention_by_encoder(result)[0].share > 0
        ids.add(result.id)
    assert len(ids) == 3


def test_linear_and_closed_form_heads_join_by_concatenation(caches):
    options = {k: v for k, v in ONE_CONFIG.items() if k != "dropout"}
    result = probe(caches[0], join="wide", head=["linear", "ridge"], layers="last", **options)
    alone = probe(caches[0], head=["linear", "ridge"], layers="last", **options)
    for both, one in zip(result.probes, alone.probes, strict=True):
        assert both.row["join"] == "pad 24"
        assert both.row["test_balanced_accuracy"] > one.row["test_balanced_accuracy"] + 0.2
        assert attention_by_encoder(both) == []


def test_ensemble_of_joined_probes_trains_them_again(caches):
    options = {"join": "wide", "layers": "last", "folds": 2, **ONE_CONFIG}
    members = probe(caches[0], tokens=["cls", "ap"], **options).probes
    result = layercache.ensemble(members, root=caches[0].path.parents[2], device="cpu").probes[-1]
    assert result.row["test_balanced_accuracy"] >= 0.7


def test_join_of_other_images_or_heads_is_refused_with_a_remedy(caches, tmp_path):
    narrow, wide = caches
    other = make_cache(tmp_path, "wide", rows={"train": 160, "test": 120})
    with pytest.raises(HeadMismatchError, match=r"expected the 200 samples .* layercache extract"):
        probe(narrow, join=other, **ONE_CONFIG)
    with pytest.raises(UnknownNameError, match="unknown model to join on toys 'wid': did you mean"):
        probe(narrow, join="wid", **ONE_CONFIG)
    with pytest.raises(OptionError, match="is given twice: join caches of other encoders"):
        probe(narrow, join=[wide, wide.path], **ONE_CONFIG)
    with pytest.raises(OptionError, match="not for attentive-tokens: choose one of these, or pool"):
        probe(narrow, join=wide, head="attentive-tokens", **ONE_CONFIG)
    with pytest.raises(OptionError, match="join_width: expected pad or a width of at least 1"):
        probe(narrow, join=wide, join_width="half", **ONE_CONFIG)
    with pytest.raises(OptionError, match=r"none are joined: give join \(--join MODEL\)"):
        probe(narrow, join_width=8, **ONE_CONFIG)
    with pytest.raises(OptionError, match="is of one encoder, and the head joins several"):
        probe(narrow, join=wide, test_cache=make_cache(tmp_path, "narrow", dataset="new"))


def test_images_that_changed_between_extractions_are_refused(caches):
    narrow, wide = caches
    dataset = wide.spec.dataset
    splits = {n: replace(s, content="bytes:01") for n, s in dataset.splits.items()}
    changed = Cache(wide.path, replace(wide.spec, dataset=replace(dataset, splits=splits)))
    with pytest.raises(HeadMismatchError, match="were changed between"):
        check_same_images(narrow, changed, splits=["train"])

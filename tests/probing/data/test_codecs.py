"""Batches of tokens that a codec stores, resident and streamed, against `Split.read`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layercache.cache import Cache, open_cache
from layercache.cache.format import layout
from layercache.probing.data.leakage import token_digests
from layercache.probing.data.loader import load_dataset
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.token_decoder import TokenDecoder
from layercache.probing.scan.stream import Kept, iter_blocks
from layercache.testing import make_cache, make_codec, make_spec, make_tokens, write_cache
from tests.probing.quick import ONE_CONFIG

CODECS = ["int8", "pca:3", "pca:3:float16", "pq:4"]
PATCHES = ("patch/0", "patch/1", "patch/2")
CPU = torch.device("cpu")


@pytest.fixture(params=CODECS)
def caches(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Cache, Cache]:
    """A cache of CLS and AP, and one of patches of the same images that a codec stores."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 1500)  # blocks of 8 rows and more
    pooled = make_cache(tmp_path, make_spec(60, storage_dtype="float32"))
    spec = make_spec(60, storage_dtype="float32", tokens=PATCHES, codec=request.param)
    return pooled, make_cache(tmp_path, spec)


def select(caches: tuple[Cache, Cache], rows: np.ndarray | None = None) -> SplitSelection:
    pooled, spatial = (open_cache(cache.path).split("train") for cache in caches)
    return SplitSelection(
        (
            TokenSource(pooled, ((6, "cls"), (12, "ap"))),
            TokenSource(spatial, tuple((layer, name) for layer in (6, 12) for name in PATCHES[1:])),
        ),
        np.arange(60) if rows is None else rows,
    )


def expected(selection: SplitSelection) -> np.ndarray:
    """Normalized tokens (N, S, D), from the tokens that the cache decodes in numpy."""
    x = np.concatenate([s.split.read(s.pairs) for s in selection.sources]).transpose(1, 0, 2)
    x = x.astype(np.float64)[selection.kept_rows]
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("mode", ["resident", "stream"])
@pytest.mark.parametrize("every", [1, 3])
def test_batches_are_the_decoded_tokens(caches: tuple[Cache, Cache], mode: str, every: int) -> None:
    selection = select(caches, np.arange(0, 60, every))
    dataset, text = load_dataset(selection, device=CPU, mode=mode, memory_budget=20_000)
    assert f"{caches[1].spec.codec} decoded in each batch" in text
    x = torch.cat(
        [x.clone() for x, _ in dataset.iter_batches(range(dataset.rows), batch_size=7, train=False)]
    )
    np.testing.assert_allclose(x, expected(selection), atol=2e-6)
    assert selection.row_bytes == 2 * 8 * 4 + 4 * caches[1].spec.token_bytes


def test_shuffled_batches_keep_token_and_label_together(caches: tuple[Cache, Cache]) -> None:
    selection = select(caches)
    labels = np.arange(60)
    batches = {}
    for mode in ("resident", "stream"):
        dataset, _ = load_dataset(selection, device=CPU, mode=mode, memory_budget=20_000)
        dataset = dataset.with_labels(labels)
        for x, y in dataset.iter_batches(range(60), batch_size=16, seed=3, train=True):
            np.testing.assert_allclose(x, expected(selection)[y], atol=2e-6)
            batches.setdefault(mode, []).extend(y.tolist())
    assert sorted(batches["resident"]) == sorted(batches["stream"]) == list(range(60))
    assert batches["resident"] != sorted(batches["resident"])


def test_scan_reads_the_decoded_tokens(caches: tuple[Cache, Cache]) -> None:
    selection = select(caches)
    dataset, _ = load_dataset(selection, device=CPU, mode="stream", memory_budget=20_000)
    kept = Kept.empty(dataset, np.arange(5, 20))
    blocks = [(x.clone(), rows) for x, rows in iter_blocks(dataset, np.arange(60), keep=[kept])]
    x = torch.cat([x for x, _ in blocks], dim=1).transpose(0, 1)
    np.testing.assert_allclose(x, expected(selection), atol=2e-6)
    np.testing.assert_allclose(kept.normalized(4), expected(selection)[5:20, 4], atol=2e-6)


@pytest.mark.parametrize("name", CODECS)
def test_decoder_agrees_with_the_reference_for_every_run_of_layers(name: str) -> None:
    spec = make_spec(30, storage_dtype="float32", codec=name)
    tokens = make_tokens(spec)
    codec = make_codec(spec, tokens)
    layers = [0, 0, 1, 0, 1]
    codes = np.stack([codec.encode(tokens[layer, 0], layer) for layer in layers])
    reference = np.stack([codec.decode(c, layer) for c, layer in zip(codes, layers, strict=True)])
    decoder = TokenDecoder(codec, layers, CPU)
    np.testing.assert_allclose(decoder.decode(torch.from_numpy(codes)), reference, atol=1e-5)
    part = decoder.decode(torch.from_numpy(codes[1:4]), tokens=slice(1, 4))
    np.testing.assert_allclose(part, reference[1:4], atol=1e-5)
    swapped = TokenDecoder(codec, layers[::-1], CPU).decode(torch.from_numpy(codes))
    assert np.abs(swapped.numpy() - reference).max() > 0.1


def test_digests_of_codes_differ_between_images_that_share_a_code(tmp_path: Path) -> None:
    x = make_tokens(make_spec(40, tokens=PATCHES, storage_dtype="float32"))
    x[:, 2, 1] = x[:, 2, 0]  # the last token of the first two images
    labels = {"train": np.arange(40) % 3}
    cache = write_cache(
        {"train": x}, labels, root=tmp_path, kinds=PATCHES, layers=(6, 12), codec="pq:4"
    )
    pairs = tuple((layer, name) for layer in (6, 12) for name in PATCHES)
    selection = SplitSelection((TokenSource(cache.split("train"), pairs),), np.arange(40))
    dataset, _ = load_dataset(selection, device=CPU, mode="resident")
    assert len(set(token_digests(dataset).tolist())) == 40


def test_a_trained_head_names_the_codecs_of_its_tokens(tmp_path: Path) -> None:
    import layercache
    from layercache.probing.results.head_checkpoint import load_head
    from layercache.testing import write_planted_cache

    for codec, names in (("pq:4", ("pq:4",)), (None, ())):
        cache = write_planted_cache(root=tmp_path, kinds=("patch/0", "patch/1"), codec=codec)
        (done,) = layercache.probe(cache, head="linear", tokens="patch", layers="all", **ONE_CONFIG)
        assert load_head(done.path).provenance.codecs == names
        assert done.row["test_balanced_accuracy"] > 0.5

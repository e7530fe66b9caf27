"""Tables of codecs against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.extraction.compression.fit_codec import (
    balance_groups,
    fit_codebook,
    fit_codec,
    fit_components,
)
from layercache.extraction.compression.sample import TokenSample
from layercache.extraction.compression.token_encoder import TokenEncoder, nearest_centroids

CODECS = ["int8", "pca:3", "pca:3:float16", "pq:4"]


def make_sample(n: int = 600, d: int = 8, seed: int = 0) -> TokenSample:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.2, 3, d)
    x = torch.randn(2, n, d, generator=generator) * spread + torch.arange(d)
    return TokenSample(
        tokens_lnd=x, low_ld=x.amin(1) - 0.1, high_ld=x.amax(1) + 0.1, images=4, split="train"
    )


def test_fit_components_are_those_of_scikit_learn() -> None:
    x = make_sample().tokens_lnd[0]
    mean, components = fit_components(x, 3)
    pca = PCA(3, svd_solver="full").fit(x.double().numpy())
    np.testing.assert_allclose(mean, pca.mean_, atol=1e-5)
    signs = np.sign((components.numpy() * pca.components_).sum(1))
    np.testing.assert_allclose(components, signs[:, None] * pca.components_, atol=1e-4)
    assert all(row[row.abs().argmax()] > 0 for row in components)


def test_fit_codebook_is_as_good_as_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.extraction.compression.fit_codec.CENTROIDS", 16)
    x = make_sample().tokens_lnd[0]
    codebook = fit_codebook(x, 4)
    assert codebook.shape == (4, 16, 2)
    for m in range(4):
        part = x[:, 2 * m : 2 * m + 2]
        error = (torch.cdist(part, codebook[m]).amin(1) ** 2).sum().item()
        best = KMeans(16, n_init=3, random_state=0).fit(part.numpy()).inertia_
        drawn = (torch.cdist(part, part[:16]).amin(1) ** 2).sum().item()
        assert error < 1.25 * best
        assert error < drawn  # negative control: tokens that were drawn and not moved


@pytest.mark.parametrize("name", CODECS)
def test_encoder_on_the_device_agrees_with_the_reference(name: str) -> None:
    sample = make_sample()
    codec = fit_codec(CodecSpec.parse(name), sample)
    encoder = TokenEncoder(codec, torch.device("cpu"))
    tokens = sample.tokens_lnd[1, :60].clone().reshape(6, 10, 8)
    tokens[2, 3, 1] = torch.nan
    codes = encoder(tokens, 1).numpy()
    expected = codec.encode(tokens.reshape(60, 8).numpy(), 1).reshape(6, 10, -1)
    assert codes.dtype == expected.dtype
    differing = (codes != expected) & ~(np.isnan(codes.astype(float)))
    assert differing.mean() < 0.002  # values halfway between two codes
    assert np.array_equal(codes[2, 3], expected[2, 3], equal_nan=True)


def test_int8_range_is_that_of_all_tokens_and_a_constant_channel_is_exact() -> None:
    sample = make_sample()
    sample.tokens_lnd[..., 4] = sample.low_ld[:, None, 4]
    sample.high_ld[:, 4] = sample.low_ld[:, 4]
    codec = fit_codec(CodecSpec.parse("int8"), sample)
    x = torch.stack([sample.low_ld[0], sample.high_ld[0]]).numpy()
    decoded = codec.decode(codec.encode(x, 0), 0)
    np.testing.assert_allclose(decoded, x, atol=1e-5)


@pytest.mark.parametrize("name", CODECS)
def test_decoded_tokens_are_near_and_a_shuffled_code_is_not(name: str) -> None:
    sample = make_sample()
    codec = fit_codec(CodecSpec.parse(name), sample)
    x = sample.tokens_lnd[0].numpy()
    codes = codec.encode(x, 0)
    centred = np.linalg.norm(x - x.mean(0))
    error = np.linalg.norm(codec.decode(codes, 0) - x) / centred
    shuffled = np.linalg.norm(codec.decode(codes[::-1], 0) - x) / centred
    assert error < {"int8": 0.02, "pca:3": 0.7, "pca:3:float16": 0.7, "pq:4": 0.2}[name]
    assert shuffled > 1


def test_nearest_centroids_are_those_of_a_loop() -> None:
    x = torch.randn(3, 50, 2)
    centroids = torch.randn(3, 9, 2)
    for m, codes in enumerate(nearest_centroids(x, centroids)):
        assert codes.tolist() == torch.cdist(x[m], centroids[m]).argmin(1).tolist()


def test_balance_groups_makes_products_of_variances_alike() -> None:
    variances = [float(2**-i) for i in range(16)]
    order = balance_groups(variances, 4)
    assert sorted(order) == list(range(16))
    products = np.log2(np.array(variances)[order]).reshape(4, 4).sum(1)
    plain = np.log2(np.array(variances)).reshape(4, 4).sum(1)
    assert np.ptp(products) <= 6 < np.ptp(plain)

"""Small extractions of known tokens, and the check of a cache against the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from layercache.cache.find import open_cache
from layercache.cache.verify import verify
from layercache.extraction.result import Extraction
from tests.extraction.fakes import LARGE, FakeBackbone, Pictures, expected

Run = Callable[..., list[Extraction]]
SPLITS = {"train": Pictures(53), "test": Pictures(20, first=1000)}
MODELS = {
    "fake": FakeBackbone(),
    "other": FakeBackbone(name="other", weights_digest="e" * 64),
    "large": FakeBackbone(name="large", weights_digest="f" * 64, preprocessing=LARGE, layers=(2,)),
    "infinite": FakeBackbone(
        name="infinite",
        poison=float("inf"),
        poison_at=int(Pictures(53).load(31).getpixel((0, 0))[0]),
    ),
}


def check(extraction: Extraction, model: FakeBackbone, splits: dict[str, Any]) -> None:
    """Assert that every row holds the tokens of its sample."""
    cache = open_cache(extraction.path)
    assert not verify(cache)
    for name, samples in splits.items():
        split = cache.split(name)
        assert split.ids == samples.ids
        assert np.array_equal(split.labels, samples.labels)
        pairs = [(layer, token) for layer in model.layers for token in model.tokens]
        right = expected(samples, model.preprocessing, model.layers)
        assert np.array_equal(split.read(pairs), right.reshape(len(pairs), samples.rows, 4))
        assert not np.array_equal(
            split.read(pairs), right[:, ::-1].reshape(len(pairs), samples.rows, 4)
        ), "token kinds do differ"

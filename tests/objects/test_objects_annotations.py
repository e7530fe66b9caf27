"""Annotations on object storage, where nobody holds a lock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from layercache.cache.annotate import annotate, drop_annotations
from layercache.cache.cache import load_cache
from layercache.cache.storage.paths import as_remote
from layercache.cache.verify import verify
from layercache.testing import make_cache, make_spec


def test_annotations_are_added_replaced_and_dropped(s3_root: str) -> None:
    cache = make_cache(as_remote(s3_root), make_spec(20))
    frame = cache.annotations[["split"]]
    annotate(cache, frame.assign(x=range(20)))
    [change] = annotate(cache, frame.assign(x=range(1, 21)))
    assert change.changed == 20
    assert load_cache(cache.path).annotations["x"].tolist() == list(range(1, 21))
    assert verify(cache) == []
    drop_annotations(cache, ["x"])
    assert set(load_cache(cache.path).annotation_digests) == {"label"}
    assert len(cache.store.list_files("annotations")) == 2


def test_writers_at_the_same_time_lose_no_column(
    s3_root: str, request: pytest.FixtureRequest
) -> None:
    if "swift" in request.node.name:
        pytest.skip("Swift has no conditional replace")
    cache = make_cache(as_remote(s3_root), make_spec(20))
    frame = cache.annotations[["split"]]
    names = [f"c{i}" for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: annotate(cache.path, frame.assign(**{name: range(20)})), names))
    assert set(load_cache(cache.path).annotation_digests) == {"label", *names}

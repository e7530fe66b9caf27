"""Epochs over object storage: what goes over the network, and what does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("obstore", reason="object storage needs the extra s3: pip install -e '.[test]'")

from layercache.cache import Split, open_cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.reading.chunks import VERIFIED
from layercache.cache.storage.paths import as_remote
from layercache.cache.storage.read_cache import ReadCache
from layercache.probing.data.dataset import TokenDataset
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens
from layercache.testing import make_spec, make_tokens, make_writer, write_pending
from tests.logs import logged
from tests.objects.making import remote_cache
from tests.objects.proxy import Delay, FaultyProxy

SPEC = make_spec(50)
PAIRS = ((6, "cls"), (12, "ap"))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> Iterator[None]:
    VERIFIED.clear()
    yield
    VERIFIED.clear()


def epoch(features: TokenDataset, number: int) -> dict[int, Any]:
    """Row -> its token, of one shuffled epoch."""
    rows, values = [], []
    for x, y in features.iter_batches(
        np.arange(features.rows), batch_size=7, seed=0, epoch=number, train=True
    ):
        rows.append(x.clone())
        values.append(y.clone())
    return {"x": torch.cat(rows), "y": torch.cat(values)}


def assert_same_rows(x: torch.Tensor, expected: torch.Tensor) -> None:
    """Check that each row of one is exactly one row of the other.

    They may differ by rounding: products that decode tokens round by the number of rows.
    """
    distances = (x.flatten(1)[:, None] - expected.flatten(1)).abs().amax(2)
    for axis in (0, 1):
        assert ((distances < 1e-6).sum(axis) == 1).all()


def selection(split: Split) -> SplitSelection:
    return SplitSelection((TokenSource(split, PAIRS),), np.arange(split.rows))


def gets(faulty: FaultyProxy) -> int:
    return sum(faulty.count("GET", f"*/{array}/c.*") for array in ("tokens", "codes"))


@pytest.mark.parametrize(
    ("compressor", "codec"), [(None, None), ("zstd", None), (None, "int8"), (None, "pq:4")]
)
def test_second_epoch_makes_no_request(
    faulty: FaultyProxy, s3_root: str, compressor: str | None, codec: str | None
) -> None:
    spec = make_spec(50, codec=codec)
    split = remote_cache(s3_root, spec, compressor=compressor).split("train")
    split.use_read_cache(spool := ReadCache(budget=10**6))
    features = StreamedTokens(selection(split), device=CPU, memory_budget=2 * 8 * 2 * 8 * 2 * 2)
    resident = ResidentTokens(
        selection(remote_cache(s3_root, spec, compressor=compressor).split("train")), device=CPU
    )
    first = epoch(features, 0)
    assert gets(faulty) >= 7
    faulty.forget()
    for number in (1, 2):
        assert_same_rows(epoch(features, number)["x"], first["x"])
    assert faulty.requests == [] if compressor is None else gets(faulty) == 0
    assert spool.used > 0
    assert_same_rows(epoch(resident, 0)["x"], first["x"])
    spool.close()


def test_read_cache_with_a_budget_reads_the_rest_over_the_network(
    faulty: FaultyProxy, s3_root: str
) -> None:
    split = remote_cache(s3_root, SPEC).split("train")
    lay = SplitLayout(SPEC, "train")
    split.use_read_cache(spool := ReadCache(budget=7 * 2 * lay.chunk_stride // 2))
    features = StreamedTokens(selection(split), device=CPU, memory_budget=2 * 8 * 2 * 8 * 2 * 2)
    epoch(features, 0)
    for number in (1, 2):
        faulty.forget()
        epoch(features, number)
        assert 0 < gets(faulty) < 7 * 2
        assert spool.used <= spool.budget
    spool.close()


def test_token_loader_keeps_what_it_streams_and_logs_it(faulty: FaultyProxy, s3_root: str) -> None:
    from layercache.probing.token_selection import select_tokens

    cache = remote_cache(s3_root, SPEC, splits=("train", "test"))
    tokens = select_tokens(cache, head="linear", layers="last", tokens="ap")
    for disk, kept in ((None, True), (0, False)):
        VERIFIED.clear()
        loader = DatasetLoader(device=CPU, mode="stream", memory_budget=4096, disk_budget=disk)
        with logged() as said:
            features = loader.train(tokens, "train", rows=np.arange(50))
        epoch(features, 0)
        faulty.forget()
        epoch(features, 1)
        assert (gets(faulty) == 0) == kept
        assert (
            any(
                "are kept for the next epoch in up to" in line and "disk_cache" in line
                for line in said
            )
            == kept
        )


@pytest.mark.alone
def test_read_waits_for_the_latency_of_many_blocks_at_once(
    faulty: FaultyProxy, s3_root: str
) -> None:
    """Every block takes a record, its index and a range or two, in this order.

    The blocks are read at the same time.
    """
    cache = remote_cache(s3_root, SPEC)
    split = cache.split("train")
    faulty.inject(Delay(0.1))
    began = time.perf_counter()
    np.testing.assert_array_equal(split.read(list(PAIRS))[0], make_tokens(SPEC)[0, 0])
    took = time.perf_counter() - began
    requests = faulty.count(faulty=True)
    assert requests >= 3 * 7
    assert took < 0.1 * requests / 2


def test_continued_writer_lists_instead_of_asking_for_each_block(
    faulty: FaultyProxy, s3_root: str
) -> None:
    with make_writer(as_remote(s3_root), SPEC) as writer:
        write_pending(writer, make_tokens(SPEC), stop_after=5)
    faulty.forget()
    with make_writer(as_remote(s3_root), SPEC) as writer:
        assert writer.pending == (5, 6)
    assert faulty.count("HEAD") == 1  # of the complete record
    assert faulty.count("GET", "*/tokens/c.*") == 0
    assert faulty.count("GET", "*/commits/train/0*.json") == 5
    faulty.forget()
    cache = open_cache(writer.path)
    assert cache.progress("train") == (5, 7)
    assert len(faulty.requests) == 2  # the spec and a list

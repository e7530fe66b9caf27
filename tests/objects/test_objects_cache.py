"""Caches on object storage: same bytes as in a folder, resumed, repaired, verified, deleted."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("obstore", reason="object storage needs the extra s3: pip install -e '.[test]'")

from layercache import copy_cache
from layercache.cache import find_caches, open_cache
from layercache.cache.describe import describe
from layercache.cache.format.layout import CODEC_KEY, SplitLayout
from layercache.cache.format.origin import Origin
from layercache.cache.origin_records import record_origin
from layercache.cache.reading.chunks import VERIFIED
from layercache.cache.remove import remove
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import as_remote
from layercache.cache.verify import verify
from layercache.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    CacheNotFoundError,
    OptionError,
)
from layercache.testing import make_cache, make_spec, make_tokens, make_writer, write_pending
from tests.cache.folders import tree
from tests.objects.making import delete, objects, put, remote_cache
from tests.objects.proxy import FaultyProxy
from tests.objects.server import Server

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


def test_remote_cache_is_found_by_its_source_only(s3_root: str, tmp_path: Path) -> None:
    caches = {}
    for name, tap in (("one", "norm2"), ("two", "block"), ("unknown", "block-norm")):
        (tmp_path / name / "shapes").mkdir(parents=True)
        cache = remote_cache(s3_root, make_spec(20, tap=tap), splits=("train", "test"))
        caches[f"folder:{tmp_path}/{name}/shapes"] = cache.path
        if name != "unknown":
            for _ in range(2):
                record_origin(cache.path, Origin(dataset=f"folder:{tmp_path}/{name}/shapes"))
    *known, unknown = caches
    for source in known:
        found = open_cache(root=s3_root, dataset=source)
        assert (found.path, found.source) == (caches[source], source)
        assert len([key for key in objects(found.path) if key.startswith("origins/")]) == 1
        assert verify(found) == []
    assert open_cache(root=s3_root, dataset=unknown).path == caches[unknown]
    with pytest.raises(CacheNotFoundError, match="no such file or folder"):
        open_cache(root=s3_root, dataset="folder:/nope/shapes")
    copied = copy_cache(caches[known[0]], to=tmp_path / "to")
    assert open_cache(copied.path).source == known[0]


@pytest.mark.parametrize(
    ("compressor", "codec"),
    [(None, None), ("zstd", None), (None, "int8"), (None, "pca:3"), (None, "pq:4")],
)
def test_remote_cache_has_the_bytes_of_a_folder(
    s3_root: str, tmp_path: Path, compressor: str | None, codec: str | None
) -> None:
    spec, skipped = make_spec(50, codec=codec), {9: "truncated"}
    local = make_cache(
        tmp_path / "root", spec, splits=("train", "test"), skipped=skipped, compressor=compressor
    )
    remote = remote_cache(
        s3_root, spec, splits=("train", "test"), skipped=skipped, compressor=compressor
    )
    assert objects(remote.path) == {
        key: data for key, data in tree(local.path).items() if not key.endswith(".lock")
    }
    assert verify(remote) == []
    mine, theirs = remote.split("train"), local.split("train")
    assert mine.rows == 49
    for rows in [None, (3, 21), (8, 16), (48, 49)]:
        np.testing.assert_array_equal(mine.read(PAIRS, rows=rows), theirs.read(PAIRS, rows=rows))
    np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert mine.ids == theirs.ids
    assert mine.skipped == theirs.skipped
    pulled = copy_cache(remote, to=tmp_path / "pulled")
    np.testing.assert_array_equal(
        open_cache(pulled.path).split("train").read(PAIRS), theirs.read(PAIRS)
    )


def test_damaged_codec_of_a_remote_cache_is_found(s3_root: str) -> None:
    cache = remote_cache(s3_root, make_spec(50, codec="pca:3"))
    data = objects(cache.path)[CODEC_KEY]
    put(cache.path, CODEC_KEY, data[:-1] + bytes([data[-1] ^ 1]))
    assert [fault.path.name for fault in verify(open_cache(cache.path))] == [CODEC_KEY]
    with pytest.raises(CacheCorruptError, match=CODEC_KEY):
        open_cache(cache.path).split("train").read(PAIRS)


def test_stopped_remote_writer_continues(s3_root: str, tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    with make_writer(as_remote(s3_root), spec) as writer:
        write_pending(writer, tokens, stop_after=3)
    cache = open_cache(root=s3_root)
    assert cache.progress("train") == (3, 7)
    with pytest.raises(
        CacheIncompleteError,
        match=rf"{s3_root}/shapes/vit_tiny/\w+: split 'train' is incomplete: 3 of 7 .* "
        rf"--cache {s3_root}",
    ):
        cache.split("train")
    before = objects(cache.path)
    with make_writer(as_remote(s3_root), spec) as writer:
        assert writer.pending == (3, 4, 5, 6)
        write_pending(writer, tokens)
        writer.finish()
        assert writer.complete
    after = objects(cache.path)
    assert {k: v for k, v in after.items() if k in before and "valid/c" not in k} == {
        k: v for k, v in before.items() if "valid/c" not in k
    }
    assert after == {
        key: data
        for key, data in tree(make_cache(tmp_path, spec, labelled=False).path).items()
        if not key.endswith(".lock")
    }


def test_writer_adopts_a_shard_without_record(s3_root: str) -> None:
    spec = make_spec(50)
    cache = remote_cache(s3_root, spec)
    whole, lay = objects(cache.path), SplitLayout(spec, "train")
    for key in (lay.record(2), lay.complete):
        delete(cache.path, key)
    with make_writer(as_remote(s3_root), spec) as writer:
        assert writer.pending == (2,)
        write_pending(writer, make_tokens(spec))
        writer.finish()
    assert objects(cache.path) == whole


def test_writer_describes_a_shard_with_other_bytes(s3_root: str) -> None:
    spec = make_spec(50)
    cache = remote_cache(s3_root, spec, skipped={17: "unreadable"})
    lay = SplitLayout(spec, "train")
    stored = objects(cache.path)[lay.shard(2)]
    for key in (lay.record(2), lay.complete):
        delete(cache.path, key)
    with make_writer(as_remote(s3_root), spec) as writer:
        write_pending(writer, make_tokens(spec, seed=1))
        writer.finish()
    assert objects(cache.path)[lay.shard(2)] == stored
    assert verify(cache) == []
    split = open_cache(cache.path).split("train")
    assert split.skipped == {
        "bilder/é17.png": "the writer whose row block was kept could not decode it"
    }
    np.testing.assert_array_equal(
        split.read([(6, "cls")], rows=(16, 17))[0], make_tokens(spec)[0, 0, 16:17]
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "lost"])
def test_writer_of_a_damaged_remote_split_writes_the_damage_again(
    s3_root: str, damage: str
) -> None:
    spec = make_spec(50)
    cache = remote_cache(s3_root, spec)
    whole, lay = objects(cache.path), SplitLayout(spec, "train")
    shard = whole[lay.shard(3)]
    if damage == "lost":
        delete(cache.path, lay.shard(3))
    else:
        wrong = {
            "cut": shard[:-1],
            "flipped": shard[:10] + bytes([shard[10] ^ 1]) + shard[11:],
            "foreign": b"x" * 999,
        }[damage]
        put(cache.path, lay.shard(3), wrong)
    (fault,) = verify(cache)
    assert str(fault.path) == f"{cache.path}/{lay.shard(3)}"
    if damage == "flipped":  # of the right length: it has to be taken away first, as in a folder
        delete(cache.path, lay.shard(3))
    with make_writer(as_remote(s3_root), spec) as writer:
        assert writer.pending == (3,)
        write_pending(writer, make_tokens(spec))
        writer.finish()
    assert objects(cache.path) == whole


def test_writer_replaces_a_record_that_does_not_fit_its_shard(s3_root: str) -> None:
    spec = make_spec(50)
    cache = remote_cache(s3_root, spec)
    whole, lay = objects(cache.path), SplitLayout(spec, "train")
    put(cache.path, lay.record(4), whole[lay.record(5)])
    with make_writer(as_remote(s3_root), spec) as writer:
        assert writer.pending == (4,)
        write_pending(writer, make_tokens(spec))
        writer.finish()
    assert objects(cache.path) == whole


def test_read_of_a_flipped_remote_byte_raises(s3_root: str) -> None:
    spec = make_spec(50)
    cache = remote_cache(s3_root, spec)
    lay = SplitLayout(spec, "train")
    shard = bytearray(objects(cache.path)[lay.shard(1)])
    shard[3] ^= 1
    put(cache.path, lay.shard(1), bytes(shard))
    VERIFIED.clear()
    with pytest.raises(
        CacheCorruptError,
        match=rf"{cache.path}/{lay.shard(1)}: layer 6, token 'cls': crc32c does not match",
    ):
        cache.split("train").read(PAIRS)


def test_remote_writer_with_another_compressor_raises(s3_root: str) -> None:
    spec = make_spec(50)
    with make_writer(as_remote(s3_root), spec, compressor="zstd"):
        pass
    with pytest.raises(
        OptionError, match=rf"{s3_root}\S+train.zarr: begun with compressor zstd:3, got none"
    ):
        make_writer(as_remote(s3_root), spec)


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["same bytes", "other bytes"])
def test_two_concurrent_writers_end_with_one_cache(
    s3_root: str, s3_server: Server, seeds: tuple[int, int]
) -> None:
    spec = make_spec(50)
    failures: list[BaseException] = []
    start = threading.Barrier(len(seeds))

    def extract(seed: int) -> None:
        try:
            start.wait()
            with make_writer(as_remote(s3_root), spec) as writer:
                start.wait()
                write_pending(writer, make_tokens(spec, seed=seed))
                writer.finish()
            if (
                s3_server.kind == "moto"
            ):  # Swift lets two create one object, which the later writer then puts right
                assert verify(open_cache(root=s3_root)) == []
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=extract, args=[seed]) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    cache = open_cache(root=s3_root)
    assert verify(cache) == []
    read = cache.split("train").read(PAIRS)
    rows = [
        [
            (read[:, a : a + 8] == make_tokens(spec, seed=s).reshape(4, 50, 8)[:, a : a + 8]).all()
            for s in seeds
        ]
        for a in range(0, 50, 8)
    ]
    assert all(any(row) for row in rows)


def test_zarr_and_tensorstore_read_a_remote_cache(s3_root: str, s3_server: Server) -> None:
    import zarr
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    cache = remote_cache(s3_root, make_spec(50))
    place = as_remote(f"{cache.path}/train.zarr")
    store = S3Store(
        place.bucket, prefix=place.key, client_options={"allow_http": True}
    )  # by the environment alone
    tokens = make_tokens(make_spec(50))
    np.testing.assert_array_equal(
        zarr.open_group(ObjectStore(store), mode="r")["tokens"][...], tokens
    )
    tensorstore = pytest.importorskip("tensorstore")
    kvstore = {
        "driver": "s3",
        "bucket": place.bucket,
        "path": f"{place.key}/tokens/",
        "endpoint": s3_server.url,
        "aws_region": "us-east-1",
    }
    np.testing.assert_array_equal(
        tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()[...].read().result(),
        tokens,
    )


def test_store_says_whether_its_own_folder_and_those_below_exist(s3_root: str) -> None:
    store = open_store(as_remote(f"{s3_root}/folder"))
    assert not store.has_dir(".")
    store.put("below/file", [b"?"])
    assert store.has_dir(".")
    assert store.has_dir("below")
    assert not store.has_dir("elsewhere")


def test_remote_caches_are_found_described_and_deleted(s3_root: str) -> None:
    one, two = make_spec(50), make_spec(50, model="a/b c")
    first, second = remote_cache(s3_root, one), remote_cache(s3_root, two, splits=("test",))
    assert [c.spec for c in find_caches(as_remote(s3_root))] == [two, one]
    assert [c.path for c in find_caches(as_remote(s3_root), model="a/b c", dataset="shapes")] == [
        second.path
    ]
    assert find_caches(as_remote(s3_root), dataset="other") == []
    told = describe(first)
    stored = objects(first.path)
    assert told["path"] == str(first.path)
    assert told["bytes"] == sum(map(len, stored.values()))
    assert told["splits"]["train"]["blocks_done"] == 7
    assert list(told["splits"]) == ["train"]
    remove(first)
    assert objects(first.path) == {}
    with pytest.raises(CacheNotFoundError, match=rf"{first.path} is not a cache"):
        open_cache(str(first.path))
    assert verify(second) == []


def test_read_of_neighbouring_tokens_is_one_request_per_thread(
    faulty: FaultyProxy, s3_root: str
) -> None:
    split = remote_cache(s3_root, make_spec(8)).split("train")
    split.read(PAIRS)
    faulty.forget()
    split.read(PAIRS, threads=2)
    assert faulty.count("GET", "*/tokens/c.*") == 2

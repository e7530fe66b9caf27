"""Compare two object-storage clients, obstore and s3fs, on one S3 server on loopback.

    python benchmarks/objects.py [moto|swift] [shards] [s3fs folder]

Runs the cache's operations on shards of a ViT-B/16 (24 inner chunks of 786 kB, 19 MB in all): put
whole shards; read single inner chunks and whole shards into preallocated buffers, with several
threads; put and get many records of a kilobyte. The two clients take turns; medians are printed.
s3fs pins a version of botocore that may conflict with the tests' boto3, so install it separately:
`pip install --target FOLDER s3fs`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.machine import describe
from tests.objects import server

CHUNK, CHUNKS = 512 * 768 * 2, 24
SHARD = np.random.default_rng(0).integers(0, 256, CHUNK * CHUNKS, dtype=np.uint8)
RECORD = b"r" * 1000
REPEATS = 5


class Obstore:
    """The client that the cache uses."""

    name = "obstore"

    def __init__(self) -> None:
        from layercache.cache.storage.s3_client import client

        self._read, self._write = client(server.BUCKET), client(server.BUCKET, uploads=True)

    def put(self, key: str, data: bytes | memoryview) -> None:
        import obstore

        obstore.put(self._write, key, data, use_multipart=False, mode="overwrite")

    def get(self, key: str, start: int, out: np.ndarray) -> None:
        import obstore

        np.copyto(
            out,
            np.frombuffer(
                obstore.get_range(self._read, key, start=start, length=out.nbytes), np.uint8
            ),
        )

    def record(self, key: str) -> bytes:
        import obstore

        return obstore.get(self._read, key).bytes().to_bytes()


class S3fs:
    """The alternative client."""

    name = "s3fs"

    def __init__(self) -> None:
        import s3fs

        self._fs = s3fs.S3FileSystem(
            key=server.KEY,
            secret=server.SECRET,
            client_kwargs={
                "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
                "region_name": server.REGION,
            },
        )

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._fs.pipe_file(f"{server.BUCKET}/{key}", bytes(data))

    def get(self, key: str, start: int, out: np.ndarray) -> None:
        np.copyto(
            out,
            np.frombuffer(
                self._fs.cat_file(f"{server.BUCKET}/{key}", start=start, end=start + out.nbytes),
                np.uint8,
            ),
        )

    def record(self, key: str) -> bytes:
        return self._fs.cat_file(f"{server.BUCKET}/{key}")


def seconds(work: Callable[[int], None], jobs: int, threads: int) -> float:
    """Return the seconds that a thread pool takes for all jobs."""
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(jobs)))
    return time.perf_counter() - began


def measure(client: Obstore | S3fs, shards: int) -> dict[str, float]:
    """Return the rate of each operation for one client."""
    whole = [np.zeros(len(SHARD), np.uint8) for _ in range(8)]
    part = [np.zeros(CHUNK, np.uint8) for _ in range(32)]
    n, data = client.name, memoryview(SHARD)
    found = {
        "put shards, 4 threads, MB/s": shards
        * len(SHARD)
        / 1e6
        / seconds(lambda i: client.put(f"{n}/{i}", data), shards, 4),
        "read whole shards, 8 threads, MB/s": shards
        * len(SHARD)
        / 1e6
        / seconds(lambda i: client.get(f"{n}/{i}", 0, whole[i % 8]), shards, 8),
    }
    for threads in (1, 8, 32):
        jobs = shards * (6 if threads == 1 else CHUNKS)
        took = seconds(
            lambda i: client.get(f"{n}/{i % shards}", i // shards * CHUNK, part[i % 32]),
            jobs,
            threads,
        )
        found[f"read inner chunks, {threads} threads, MB/s"] = jobs * CHUNK / 1e6 / took
    found["put records, 32 threads, /s"] = 200 / seconds(
        lambda i: client.put(f"{n}/records/{i}", RECORD), 200, 32
    )
    found["get records, 32 threads, /s"] = 200 / seconds(
        lambda i: client.record(f"{n}/records/{i}") and None, 200, 32
    )
    return found


def measure_library(shards: int) -> dict[str, float]:
    """Return rates of the cache itself on the same number of bytes.

    Row blocks are committed, then read whole into a touched buffer: with checksums verified,
    without, while being copied to the disk cache, and from the disk cache.
    """
    from layercache.cache import (
        CacheSpec,
        DatasetIdentity,
        SplitIdentity,
        SplitWriter,
        digest_ids,
        open_cache,
    )
    from layercache.cache.reading.chunks import VERIFIED
    from layercache.cache.storage.paths import as_remote
    from layercache.cache.storage.read_cache import ReadCache

    rows, (layers, width) = shards * 512, (12, 768)
    ids = [str(i) for i in range(rows)]
    identity = SplitIdentity(rows=rows, ids=digest_ids(ids), content="bytes:00")
    dataset = DatasetIdentity(
        name="noise",
        limit=None,
        limit_seed=0,
        splits={"train": identity},
    )
    spec = CacheSpec(
        model="vit_b16",
        architecture="vit",
        weights="ab" * 32,
        depth=layers,
        width=width,
        tap="norm2",
        layers=tuple(range(1, layers + 1)),
        tokens=("cls", "ap"),
        projected=False,
        preprocessing={},
        precision="fp32",
        storage_dtype="float16",
        dataset=dataset,
    )  # fmt: skip
    block = (
        np.random.default_rng(0)
        .standard_normal((layers, 2, 512, width), np.float32)
        .astype(np.float16)
    )
    root, nbytes = (
        as_remote(f"s3://{server.BUCKET}/library-{time.monotonic_ns()}"),
        shards * block.nbytes / 1e6,
    )
    with SplitWriter(root, spec, "train", ids=ids) as writer:
        found = {
            "cache: commit row blocks, 4 threads, MB/s": nbytes
            / seconds(lambda b: writer.write(b, block), shards, 4)
        }
        writer.finish()
    split = open_cache(writer.path).split("train")
    pairs = [(layer, token) for layer in spec.layers for token in spec.tokens]
    out = np.zeros((len(pairs), rows, width), np.float16)
    VERIFIED.clear()
    with tempfile.TemporaryDirectory() as folder:
        for what in ("verified", "again", "again, copied to disk", "from disk cache"):
            if what == "again, copied to disk":
                split.use_read_cache(ReadCache(budget=2**40, parent=Path(folder)))
            began = time.perf_counter()
            split.read(pairs, out=out)
            found[f"cache: read, {what}, MB/s"] = nbytes / (time.perf_counter() - began)
    return found


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "moto"
    shards = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    sys.path += sys.argv[3:4]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": server.KEY,
        "AWS_SECRET_ACCESS_KEY": server.SECRET,
        "AWS_REGION": server.REGION,
        "AWS_EC2_METADATA_DISABLED": "1",
    }
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name, server.running(kind, Path(name)) as running:
        os.environ["AWS_ENDPOINT_URL"] = running.url
        for _ in range(REPEATS):
            for client in (Obstore(), S3fs()):
                runs.setdefault(client.name, []).append(measure(client, shards))
        library = [measure_library(shards) for _ in range(REPEATS)]
    print(describe())
    print(f"{kind}, {shards} shards of {len(SHARD) / 1e6:.1f} MB, medians of {REPEATS} rounds")
    table = {
        what: {name: statistics.median(run[what] for run in found) for name, found in runs.items()}
        for what in runs["obstore"][0]
    }
    for what, values in table.items():
        print(
            f"{what:38s}  obstore {values['obstore']:8.1f}  s3fs {values['s3fs']:8.1f}  "
            f"ratio {values['obstore'] / values['s3fs']:.2f}"
        )
    for what in library[0]:
        print(f"{what:46s}  {statistics.median(run[what] for run in library):8.1f}")
    print(json.dumps(table))


if __name__ == "__main__":
    main()

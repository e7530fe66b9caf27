"""The test servers fulfil what the library needs of S3, so that a failure is not theirs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.objects import server
from tests.objects.proxy import FaultyProxy

botocore = pytest.importorskip(
    "botocore.exceptions",
    reason="the S3 servers of the tests are spoken to with boto3: pip install -e '.[test]'",
)


def split(root: str) -> tuple[Any, str]:
    """A client and the prefix."""
    return server.client(os.environ["AWS_ENDPOINT_URL"]), root.removeprefix(
        f"s3://{server.BUCKET}/"
    )


def test_what_was_put_comes_back_whole_and_in_ranges(s3_root: str) -> None:
    s3, prefix = split(s3_root)
    s3.put_object(Bucket=server.BUCKET, Key=f"{prefix}/a b/ü.json", Body=bytes(range(256)))
    assert s3.get_object(Bucket=server.BUCKET, Key=f"{prefix}/a b/ü.json")["Body"].read() == bytes(
        range(256)
    )
    got = s3.get_object(Bucket=server.BUCKET, Key=f"{prefix}/a b/ü.json", Range="bytes=5-9")
    assert got["Body"].read() == bytes([5, 6, 7, 8, 9])
    assert got["ContentRange"] == "bytes 5-9/256"


def test_a_key_is_created_once(s3_root: str) -> None:
    s3, prefix = split(s3_root)
    s3.put_object(Bucket=server.BUCKET, Key=f"{prefix}/record", Body=b"first", IfNoneMatch="*")
    with pytest.raises(botocore.ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=server.BUCKET, Key=f"{prefix}/record", Body=b"second", IfNoneMatch="*")
    assert s3.get_object(Bucket=server.BUCKET, Key=f"{prefix}/record")["Body"].read() == b"first"


def test_listing_has_pages_and_folders(s3_root: str) -> None:
    s3, prefix = split(s3_root)
    keys = [f"{prefix}/{folder}/{i}" for folder in "ab" for i in range(3)]
    for key in keys:
        s3.put_object(Bucket=server.BUCKET, Key=key, Body=b"x")
    first = s3.list_objects_v2(Bucket=server.BUCKET, Prefix=prefix + "/", MaxKeys=4)
    second = s3.list_objects_v2(
        Bucket=server.BUCKET, Prefix=prefix + "/", ContinuationToken=first["NextContinuationToken"]
    )
    assert [o["Key"] for page in (first, second) for o in page["Contents"]] == keys
    folders = s3.list_objects_v2(Bucket=server.BUCKET, Prefix=prefix + "/", Delimiter="/")
    assert [p["Prefix"] for p in folders["CommonPrefixes"]] == [f"{prefix}/a/", f"{prefix}/b/"]


def test_roots_are_apart_and_begin_empty(s3_root: str) -> None:
    s3, prefix = split(s3_root)
    assert s3.list_objects_v2(Bucket=server.BUCKET, Prefix=prefix + "/")["KeyCount"] == 0
    s3.put_object(Bucket=server.BUCKET, Key=f"{prefix}/here", Body=b"x")


def test_swift_checks_signatures_through_the_proxy_too(
    faulty: FaultyProxy, s3_root: str, s3_server: server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, prefix = split(s3_root)
    s3.put_object(Bucket=server.BUCKET, Key=f"{prefix}/x", Body=b"x")
    assert faulty.count("PUT", "*/x") == 1
    monkeypatch.setattr(server, "SECRET", "another")
    wrong, _ = split(s3_root)
    if s3_server.kind == "swift":
        with pytest.raises(botocore.ClientError, match="SignatureDoesNotMatch"):
            wrong.get_object(Bucket=server.BUCKET, Key=f"{prefix}/x")
    else:
        assert wrong.get_object(Bucket=server.BUCKET, Key=f"{prefix}/x")["Body"].read() == b"x", (
            "moto checks signatures now: the text of Server is wrong"
        )


def test_obstore_speaks_with_it(faulty: FaultyProxy, s3_root: str) -> None:
    obstore = pytest.importorskip("obstore", reason="the extra s3 is not installed")
    from obstore.exceptions import AlreadyExistsError
    from obstore.store import S3Store

    s3 = S3Store(
        server.BUCKET,
        prefix=s3_root.split("/")[-1],
        endpoint=faulty.url,
        client_options={"allow_http": True},
    )
    obstore.put(s3, "a/record", b"0123456789", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(s3, "a/record", b"other", mode="create")
    assert [bytes(b) for b in obstore.get_ranges(s3, "a/record", starts=[0, 7], ends=[2, 10])] == [
        b"01",
        b"789",
    ]
    assert [o["path"] for o in obstore.list(s3, "a").collect()] == ["a/record"]
    assert obstore.list_with_delimiter(s3)["common_prefixes"] == ["a"]
    obstore.delete(s3, "a/record")
    obstore.delete(s3, "a/record")
    with pytest.raises(FileNotFoundError):
        obstore.head(s3, "a/record")
    assert faulty.count("DELETE", "*/a/record") + faulty.count("POST") == 2

"""Caches on object storage for the tests, and their objects as boto3 sees them."""

from __future__ import annotations

import os
from typing import Any

from layercache.cache import Cache, CacheSpec
from layercache.cache.storage.paths import RemotePath, as_remote
from layercache.testing import make_cache
from tests.objects import server


def objects(path: RemotePath | str) -> dict[str, bytes]:
    """Every object below an address, by its key relative to it."""
    path = as_remote(str(path))
    s3, contents = server.client(os.environ["AWS_ENDPOINT_URL"]), {}
    for page in s3.get_paginator("list_objects_v2").paginate(
        Bucket=path.bucket, Prefix=f"{path.key}/"
    ):
        for entry in page.get("Contents", []):
            contents[entry["Key"].removeprefix(f"{path.key}/")] = s3.get_object(
                Bucket=path.bucket, Key=entry["Key"]
            )["Body"].read()
    return contents


def put(path: RemotePath, key: str, data: bytes) -> None:
    server.client(os.environ["AWS_ENDPOINT_URL"]).put_object(
        Bucket=path.bucket, Key=f"{path.key}/{key}", Body=data
    )


def delete(path: RemotePath, key: str) -> None:
    server.client(os.environ["AWS_ENDPOINT_URL"]).delete_object(
        Bucket=path.bucket, Key=f"{path.key}/{key}"
    )


def remote_cache(root: str, spec: CacheSpec, **options: Any) -> Cache:
    return make_cache(as_remote(root), spec, **options)

"""Caches on object storage for the tests, and their objects as boto3 sees them."""

from __future__ import annotations

import os
from typing import Any

from layercache.cache import Cache, CacheSpec
from layercache.cache.storage.paths import RemotePath, as_remote
from tests.cache.making import make_cache
from tests.objects import server


def objects(place: RemotePath | str) -> dict[str, bytes]:
    """Every object below an address, by its key relative to it."""
    place = as_remote(str(place))
    s3, found = server.client(os.environ["AWS_ENDPOINT_URL"]), {}
    for page in s3.get_paginator("list_objects_v2").paginate(
        Bucket=place.bucket, Prefix=f"{place.key}/"
    ):
        for entry in page.get("Contents", []):
            found[entry["Key"].removeprefix(f"{place.key}/")] = s3.get_object(
                Bucket=place.bucket, Key=entry["Key"]
            )["Body"].read()
    return found


def put(place: RemotePath, key: str, data: bytes) -> None:
    server.client(os.environ["AWS_ENDPOINT_URL"]).put_object(
        Bucket=place.bucket, Key=f"{place.key}/{key}", Body=data
    )


def delete(place: RemotePath, key: str) -> None:
    server.client(os.environ["AWS_ENDPOINT_URL"]).delete_object(
        Bucket=place.bucket, Key=f"{place.key}/{key}"
    )


def remote_cache(root: str, spec: CacheSpec, **options: Any) -> Cache:
    return make_cache(as_remote(root), spec, **options)

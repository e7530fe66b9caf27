from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from layercache.cache.format import layout
from tests.objects import server
from tests.objects.proxy import FaultyProxy
from tests.objects.server import Server

_SERIAL = count()


@pytest.fixture(scope="session", params=["moto", pytest.param("swift", marks=pytest.mark.slow)])
def s3_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A real S3 server over loopback HTTP, one per session and kind."""
    folder = tmp_path_factory.mktemp(request.param)
    if why := server.missing(request.param, folder):
        pytest.skip(why)
    with server.running(request.param, folder) as running:
        yield running


@pytest.fixture
def s3_root(s3_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty s3://BUCKET/PREFIX; only the environment names the server and the credentials."""
    for name in (
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "AWS_DEFAULT_REGION",
        "AWS_ALLOW_HTTP",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        **server.environment(s3_server),
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.BUCKET}/root-{next(_SERIAL)}"


@pytest.fixture
def faulty(
    s3_server: Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    """The proxy in front of the server of `s3_root`, without faults yet.

    The environment names it from now on.
    """
    with FaultyProxy(s3_server.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Shards of at most 1 kB, so that few rows make several blocks: 8 rows at 2 x 2 x 8 float16."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 1024)
    return 8

"""S3 servers in processes that end with the tests: moto, and OpenStack Swift if installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

KEY = "layercache:tests"
"""A user of Swift; moto takes any."""
SECRET = "wJalr-not-to-be-seen-K7MDENG"
REGION = "us-east-1"
BUCKET = "caches"
KINDS = ("moto", "swift")
_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running S3 server that has one bucket, BUCKET."""

    kind: str
    """One of KINDS. Only Swift checks signatures; only moto lets one of several concurrent creators
    win (Swift looks when an upload begins)."""
    url: str
    """http://127.0.0.1:PORT"""


def missing(kind: str, folder: Path) -> str | None:
    """Why a server cannot run here; None if it can. folder: where it would keep its objects."""
    if find_spec(kind) is None:
        return f"{kind} is not installed: pip install -e '.[test]'"
    if kind == "swift":
        try:
            os.setxattr(folder, "user.layercache", b"")
        except (OSError, AttributeError) as e:
            return f"Swift needs extended attributes, which {folder} does not take: {e}"
    return None


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Server]:
    """Start a server and make the bucket. folder: an empty one of its own."""
    script = Path(__file__).with_name(f"{kind}_process.py")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder / "data"), KEY, SECRET],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
        )
    assert process.stdin
    assert process.stdout
    try:
        port = process.stdout.readline().strip().decode()
        if not port:
            raise RuntimeError(
                f"{script.name} did not start:\n{(folder / 'log').read_text()[-2000:]}"
            )
        url = f"http://127.0.0.1:{port}"
        client(url).create_bucket(Bucket=BUCKET)
        yield Server(kind, url)
    finally:
        process.stdin.close()
        try:
            process.wait(_SECONDS)
        finally:
            process.kill()
            process.stdout.close()


def environment(server: Server) -> dict[str, str]:
    """The variables by which a client finds the server and the credentials."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": server.url,
    }


def client(url: str):  # type: ignore[no-untyped-def]  # boto3 makes its classes as it goes
    """Return boto3's S3 client: an implementation that the library does not use."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )

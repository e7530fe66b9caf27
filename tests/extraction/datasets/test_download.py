"""Downloads of named datasets, from a server on loopback."""

from __future__ import annotations

import gzip
import hashlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.errors import DataNotFoundError
from layercache.extraction.datasets import download, open_dataset
from layercache.extraction.datasets.download import download_dataset, finish_move
from layercache.extraction.datasets.official import OFFICIAL, OfficialFile, OfficialSource


@dataclass
class Server:
    """Files by path, and what is to go wrong."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range)."""
    cut_after: int | None = None
    """Bytes after which the connection of a GET is closed."""
    status: int | None = None
    """Status of every answer."""

    def source(self, name: str) -> OfficialSource:
        """Serve Fashion-MNIST's four files, and return them as an official source."""
        official = OFFICIAL[name]
        return replace(
            official,
            files=tuple(
                replace(
                    file,
                    url=f"{self.address}/{file.name}",
                    md5=hashlib.md5(self.files[f"/{file.name}"]).hexdigest(),
                )
                for file in official.files
            ),
        )


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self, *, body: bool) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.command, self.path, wanted))
            content = state.files.get(self.path)
            if state.status or content is None:
                self.send_error(state.status or 404)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            part = content[start:]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if body:
                self.wfile.write(part[: state.cut_after])

        def do_HEAD(self) -> None:
            self.respond(body=False)

        def do_GET(self) -> None:
            self.respond(body=True)

        def log_message(self, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{httpd.server_port}")
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def fashion_mnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> OfficialSource:
    """Fashion-MNIST with 20 and 10 images, on the server."""
    rng = np.random.default_rng(0)
    for stem, n in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            server.files[f"/{stem}-{kind}-ubyte.gz"] = gzip.compress(header + array.tobytes())
    source = server.source("fashion_mnist")
    monkeypatch.setitem(OFFICIAL, "fashion_mnist", source)
    return source


def test_open_dataset_missing_downloads_and_announces(
    tmp_path: Path, fashion_mnist: OfficialSource, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "layercache"):
        dataset = open_dataset("fashion_mnist", root=tmp_path)
    assert [len(dataset.split(split).ids) for split in dataset.splits] == [20, 10]
    announced = caplog.messages[0]
    assert (
        f"dataset fashion_mnist is not complete below {tmp_path}: downloading 4 files, "
        in announced
    )
    assert "kB from Zalando (127.0.0.1) to" in announced
    assert announced.endswith("licence: MIT")
    assert {path.name for path in tmp_path.iterdir()} == {
        "FashionMNIST",
        ".download-fashion_mnist.lock",
    }


def test_open_dataset_complete_sends_no_request(
    tmp_path: Path, server: Server, fashion_mnist: OfficialSource
) -> None:
    open_dataset("fashion_mnist", root=tmp_path)
    server.requests.clear()
    open_dataset("fashion_mnist", root=tmp_path)
    assert not server.requests


@pytest.mark.parametrize("forbidden_by", ["argument", "environment"])
def test_open_dataset_offline_sends_no_request_and_names_a_remedy(
    tmp_path: Path,
    server: Server,
    fashion_mnist: OfficialSource,
    monkeypatch: pytest.MonkeyPatch,
    forbidden_by: str,
) -> None:
    if forbidden_by == "environment":
        monkeypatch.setenv("LAYERCACHE_OFFLINE", "1")
    with pytest.raises(
        DataNotFoundError, match=f"layercache datasets fashion_mnist --download.*{tmp_path}"
    ):
        open_dataset("fashion_mnist", root=tmp_path, offline=forbidden_by == "argument")
    assert not server.requests


def test_download_after_a_lost_connection_continues_where_it_stopped(
    tmp_path: Path, server: Server, fashion_mnist: OfficialSource
) -> None:
    server.cut_after = 1000
    with pytest.raises(
        DataNotFoundError, match=r"ended at 1000 of \d+ bytes.*1 kB are kept, and the same command"
    ):
        open_dataset("fashion_mnist", root=tmp_path)
    assert not (tmp_path / "FashionMNIST").exists()
    server.cut_after = None
    server.requests.clear()
    assert len(open_dataset("fashion_mnist", root=tmp_path).split("train").ids) == 20
    gets = [(path, wanted) for method, path, wanted in server.requests if method == "GET"]
    assert gets[0] == ("/train-images-idx3-ubyte.gz", "bytes=1000-")
    assert len(gets) == 4


def test_download_with_another_checksum_raises_and_keeps_nothing_of_the_file(
    tmp_path: Path, server: Server, fashion_mnist: OfficialSource
) -> None:
    server.files["/t10k-labels-idx1-ubyte.gz"] = gzip.compress(b"another file")
    with pytest.raises(DataNotFoundError, match=r"t10k-labels.*expected a file with MD5 \w+, got"):
        open_dataset("fashion_mnist", root=tmp_path)
    assert not (tmp_path / "FashionMNIST").exists()
    archives = tmp_path / ".download-fashion_mnist" / "archives"
    assert len(list(archives.iterdir())) == 3


@pytest.mark.parametrize("status", [404, 503])
def test_download_refused_by_the_server_raises_with_its_status(
    tmp_path: Path, server: Server, fashion_mnist: OfficialSource, status: int
) -> None:
    server.status = status
    with pytest.raises(DataNotFoundError, match=f"HTTP {status}.*Give the folder of a copy"):
        open_dataset("fashion_mnist", root=tmp_path)
    assert not (tmp_path / ".download-fashion_mnist").exists()


def test_download_interrupted_says_what_is_kept(
    tmp_path: Path, fashion_mnist: OfficialSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_unpack", interrupted)
    with pytest.raises(
        KeyboardInterrupt, match=r"download of dataset fashion_mnist; .* kB are kept, and the same"
    ):
        open_dataset("fashion_mnist", root=tmp_path)
    monkeypatch.undo()


def test_download_larger_than_the_disk_raises_before_it_starts(
    tmp_path: Path,
    server: Server,
    fashion_mnist: OfficialSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DataNotFoundError, match="has 10 bytes free: make room"):
        open_dataset("fashion_mnist", root=tmp_path)
    assert not [request for request in server.requests if request[0] == "GET"]


def test_finish_move_completes_a_killed_move(tmp_path: Path, server: Server) -> None:
    staging = tmp_path / ".download-x"
    (staging / "unpacked" / "x").mkdir(parents=True)
    (staging / "unpacked" / "x" / "b.png").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").touch()
    finish_move("x", tmp_path)
    assert staging.exists()  # not marked as complete
    (staging / "complete").touch()
    finish_move("x", tmp_path)
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"a.png", "b.png"}
    assert not staging.exists()


def test_download_dataset_of_a_damaged_archive_raises_and_fetches_it_again(
    tmp_path: Path, server: Server
) -> None:
    server.files["/a.zip"] = b"no archive"
    source = OfficialSource("nobody", "MIT", (OfficialFile(f"{server.address}/a.zip", "a", None),))
    with pytest.raises(DataNotFoundError, match=r"a\.zip cannot be unpacked"):
        download_dataset("a", source, tmp_path)
    assert not list((tmp_path / ".download-a" / "archives").iterdir())

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.objects.proxy import (
    BlackHole,
    CutUpload,
    Delay,
    Drop,
    FaultyProxy,
    Refuse,
    Status,
    Trickle,
)

SIZE = 200_000


class Origin(BaseHTTPRequestHandler):
    """Remembers what was put, whole or not, and says what Host it was called by."""

    protocol_version = "HTTP/1.1"
    stored: dict[str, bytes]
    """By path; a body that ended early is there as far as it came."""

    def do_PUT(self) -> None:
        self.stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        body = self.stored[self.path]
        self.send_response(200)
        self.send_header("X-Host", self.headers["Host"])
        if self.path.endswith("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    stored: dict[str, bytes] = {}
    monkeypatch.setattr(Origin, "stored", stored, raising=False)
    return stored


@pytest.fixture
def proxy(stored: dict[str, bytes]) -> Iterator[FaultyProxy]:
    origin = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with FaultyProxy(f"http://127.0.0.1:{origin.server_port}") as proxy:
        yield proxy
    origin.shutdown()
    thread.join()
    origin.server_close()


def ask(
    proxy: FaultyProxy, method: str, path: str, body: bytes | None = None, *, timeout: float = 10
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(proxy.url.removeprefix("http://"), timeout=timeout)
    try:
        connection.request(method, path, body, {"Range": "bytes=0-"} if method == "GET" else {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def read_all(response: HTTPResponse, size: int, got: bytearray) -> None:
    """Append to `got` what comes; raises if it is less than `size`."""
    while piece := response.read(min(1000, size - len(got))):
        got += piece
    if len(got) < size:
        raise HTTPException(f"{len(got)} of {size} bytes")


@pytest.mark.parametrize("path", ["/bucket/key", "/bucket/a%20b/%C3%BC", "/bucket/chunked"])
def test_without_faults_it_changes_nothing(proxy: FaultyProxy, path: str) -> None:
    body = bytes(range(256)) * 1000
    assert ask(proxy, "PUT", path, body)[0].status == 200
    response, got = ask(proxy, "GET", path)
    assert got == body
    assert response.getheader("X-Host") == proxy.url.removeprefix("http://")
    response, got = ask(proxy, "HEAD", path)
    assert (response.getheader("Content-Length"), got) == (
        None if path.endswith("chunked") else "256000",
        b"",
    )


def test_a_connection_carries_several_requests(proxy: FaultyProxy) -> None:
    connection = HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)
    for i in range(3):
        connection.request("PUT", f"/bucket/{i}", b"x" * i)
        connection.getresponse().read()
        connection.request("GET", f"/bucket/{i}")
        assert connection.getresponse().read() == b"x" * i
    connection.close()


def test_requests_are_counted_by_method_and_key(proxy: FaultyProxy) -> None:
    ask(proxy, "PUT", "/bucket/a%20b/one", b"1")
    ask(proxy, "GET", "/bucket/a%20b/one")
    assert proxy.count() == 2
    assert proxy.count("GET") == proxy.count(key="a b/*", method="PUT") == 1
    assert proxy.count("HEAD") == proxy.count(key="one") == 0
    assert [r.range for r in proxy.requests] == [None, "bytes=0-"]
    proxy.forget()
    assert proxy.count() == 0


@pytest.mark.parametrize("after", [0, 1000, SIZE - 1])
def test_drop_ends_the_body_after_so_many_bytes(
    proxy: FaultyProxy, stored: dict[str, bytes], after: int
) -> None:
    stored["/bucket/key"] = bytes(SIZE)
    proxy.inject(Drop(after=after), times=1)
    connection = HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)
    connection.request("GET", "/bucket/key")
    response = connection.getresponse()
    got = bytearray()
    with pytest.raises((HTTPException, ConnectionError)):
        read_all(response, SIZE, got)
    assert len(got) <= after
    connection.close()
    assert len(ask(proxy, "GET", "/bucket/key")[1]) == SIZE


def test_drop_of_a_put_leaves_the_object_there_unanswered(
    proxy: FaultyProxy, stored: dict[str, bytes]
) -> None:
    proxy.inject(Drop(), method="PUT", times=1)
    with pytest.raises((HTTPException, ConnectionError)):
        ask(proxy, "PUT", "/bucket/key", b"done all the same")
    assert stored == {"/bucket/key": b"done all the same"}


def test_refuse_never_reaches_the_server(proxy: FaultyProxy, stored: dict[str, bytes]) -> None:
    proxy.inject(Refuse(), times=1)
    with pytest.raises((HTTPException, ConnectionError)):
        ask(proxy, "PUT", "/bucket/key", b"x")
    assert not stored
    assert proxy.count("PUT", faulty=True) == 1


def test_an_upload_is_cut(proxy: FaultyProxy, stored: dict[str, bytes]) -> None:
    proxy.inject(CutUpload(after=70_000), method="PUT", times=1)
    with pytest.raises((HTTPException, ConnectionError)):
        ask(proxy, "PUT", "/bucket/key", bytes(SIZE))
    deadline = time.monotonic() + 10
    while not stored and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(stored["/bucket/key"]) == 70_000


def test_status_is_an_error_of_s3s_and_the_connection_lives_on(
    proxy: FaultyProxy, stored: dict[str, bytes]
) -> None:
    proxy.inject(Status(), times=2)
    for _ in range(2):
        response, body = ask(proxy, "PUT", "/bucket/key", bytes(SIZE))
        assert response.status == 503
        assert b"<Code>SlowDown</Code>" in body
    assert ask(proxy, "PUT", "/bucket/key", b"x")[0].status == 200
    assert stored == {"/bucket/key": b"x"}


def test_probability_follows_the_seed(proxy: FaultyProxy) -> None:
    def faults(seed: int) -> list[bool]:
        proxy.heal()
        proxy.inject(Status(), probability=0.5, seed=seed)
        return [ask(proxy, "PUT", "/bucket/key", b"")[0].status == 503 for _ in range(20)]

    first = faults(1)
    assert first == faults(1) != faults(2)
    assert 3 < sum(first) < 17


def test_rules_look_at_method_and_key(proxy: FaultyProxy) -> None:
    proxy.inject(Status(404, "NoSuchKey"), method="PUT", key="records/*")
    proxy.inject(Status(500, "InternalError"), key="records/*")
    assert [
        ask(proxy, "PUT", f"/bucket/{key}", b"")[0].status for key in ("records/1", "shards/1")
    ] == [404, 200]
    assert ask(proxy, "GET", "/bucket/records/1")[0].status == 500
    proxy.heal()
    assert ask(proxy, "PUT", "/bucket/records/1", b"")[0].status == 200


def test_delay_and_trickle_are_slow_and_right(proxy: FaultyProxy, stored: dict[str, bytes]) -> None:
    stored["/bucket/key"] = bytes(range(256)) * 4
    for fault in (Delay(0.2), Trickle(256, 0.05)):
        proxy.heal()
        proxy.inject(fault)
        begin = time.monotonic()
        assert ask(proxy, "GET", "/bucket/key")[1] == stored["/bucket/key"]
        assert time.monotonic() - begin >= 0.2


def test_a_black_hole_says_nothing_until_it_is_healed(proxy: FaultyProxy) -> None:
    proxy.inject(BlackHole())
    with pytest.raises(TimeoutError):
        ask(proxy, "GET", "/bucket/key", timeout=0.2)
    healer = threading.Timer(0.2, proxy.heal)
    healer.start()
    with pytest.raises((HTTPException, ConnectionError)):
        ask(proxy, "GET", "/bucket/key")
    healer.join()


def test_a_server_that_is_not_there_is_a_dropped_connection() -> None:
    with (
        FaultyProxy("http://127.0.0.1:1") as proxy,
        pytest.raises((HTTPException, ConnectionError)),
    ):
        ask(proxy, "GET", "/bucket/key")

"""An HTTP proxy in front of an S3 server that misbehaves on demand, and counts.

The Host header goes through as it came, since the signature covers it. One thread per connection;
standard library only.

    proxy.inject(Drop(after=100), method="GET", key="*/tokens/*", times=3)     the next three of
    these proxy.inject(Status(), probability=0.2, seed=1)                            one in five of
    everything proxy.heal()                                                               no faults
    any more assert proxy.count("GET") == 0
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

PIECE = 64 * 1024
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "trailer", "upgrade"}


@dataclass(frozen=True)
class Drop:
    """The response, and the connection, ends after `after` bytes of its body.

    None: before its first byte, when the server has done the work.
    """

    after: int | None = None


@dataclass(frozen=True)
class Refuse:
    """The connection is dropped; the server never hears of the request."""


@dataclass(frozen=True)
class CutUpload:
    """The connection is dropped after `after` bytes of the request's body.

    The server gets these bytes and then an end.
    """

    after: int = 0


@dataclass(frozen=True)
class Status:
    """An error of S3's, without asking the server."""

    code: int = 503
    name: str = "SlowDown"


@dataclass(frozen=True)
class Delay:
    """The response comes whole, so many seconds late."""

    seconds: float


@dataclass(frozen=True)
class Trickle:
    """The response's body comes in pieces of so many bytes, with a pause before each."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class BlackHole:
    """No answer and no end, until the client gives up or the faults are healed."""


Fault = Drop | Refuse | CutUpload | Status | Delay | Trickle | BlackHole


@dataclass(frozen=True)
class Request:
    """A request that came, whatever became of it."""

    method: str
    key: str
    """Path behind the bucket, decoded; "" for the bucket itself."""
    query: str
    range: str | None
    """The Range header."""
    fault: Fault | None


@dataclass
class _Rule:
    fault: Fault
    method: str
    key: str
    left: float
    probability: float
    random: random.Random


@dataclass
class FaultyProxy:
    """Forwards to `upstream` (http://HOST:PORT) from a port of its own; a context manager."""

    upstream: str
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    """In the order of their arrival."""

    def __post_init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._healed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def inject(
        self,
        fault: Fault,
        *,
        method: str = "*",
        key: str = "*",
        times: float = float("inf"),
        probability: float = 1.0,
        seed: int = 0,
    ) -> None:
        """From now on, requests whose method and key match suffer the fault:

        `times` of them, each with the probability. First rule wins.
        """
        with self._lock:
            self._healed.clear()
            self._rules.append(_Rule(fault, method, key, times, probability, random.Random(seed)))

    def heal(self) -> None:
        """No faults any more; black holes let go (their connections are dropped)."""
        with self._lock:
            self._rules.clear()
            self._healed.set()

    def count(self, method: str = "*", key: str = "*", *, faulty: bool | None = None) -> int:
        """Count the requests; `faulty`: only those with a fault, or only those without."""
        with self._lock:
            return sum(
                fnmatchcase(r.method, method)
                and fnmatchcase(r.key, key)
                and faulty in (None, r.fault is not None)
                for r in self.requests
            )

    def forget(self) -> None:
        """Count from zero."""
        with self._lock:
            self.requests.clear()

    def admit(self, method: str, target: str, range_: str | None) -> Fault | None:
        """Note a request, and say what it suffers."""
        parts = urlsplit(target)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        with self._lock:
            fault = None
            for rule in self._rules:
                if (
                    fnmatchcase(method, rule.method)
                    and fnmatchcase(key, rule.key)
                    and rule.left > 0
                    and rule.random.random() < rule.probability
                ):
                    rule.left -= 1
                    fault = rule.fault
                    break
            self.requests.append(Request(method, key, parts.query, range_, fault))
            return fault

    def wait_healed(self, connection: socket.socket) -> None:
        """Until the faults are healed or the client has gone."""
        connection.settimeout(0.05)
        while not self._healed.is_set():
            with suppress(TimeoutError):
                if not connection.recv(1, socket.MSG_PEEK):
                    return
                time.sleep(0.05)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    proxy: FaultyProxy
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what this is for."""


class _Gone(Exception):
    """The connection is to be dropped."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        with suppress(_Gone, ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        fault = self.server.proxy.admit(self.command, self.path, self.headers.get("Range"))
        length = int(self.headers.get("Content-Length") or 0)
        if isinstance(fault, Refuse):
            raise _Gone
        if isinstance(fault, BlackHole):
            self.server.proxy.wait_healed(self.connection)
            raise _Gone
        if isinstance(fault, Status):
            self._read_all(length)
            self._answer(fault)
            return
        with self._forwarded(length, fault) as response:
            if isinstance(fault, Delay):
                time.sleep(fault.seconds)
            if isinstance(fault, Drop) and fault.after is None:
                raise _Gone
            self._return(response, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

    def _read_all(self, length: int) -> None:
        while length > 0:
            length -= len(self.rfile.read(min(length, PIECE))) or length

    def _answer(self, status: Status) -> None:
        error = f"<Error><Code>{status.name}</Code><Message>injected</Message></Error>"
        body = f"<?xml version='1.0'?>{error}".encode()
        self.send_response_only(status.code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @contextmanager
    def _forwarded(self, length: int, fault: Fault | None) -> Iterator[HTTPResponse]:
        """The server's response to this request."""
        address = urlsplit(self.server.proxy.upstream)
        upstream = HTTPConnection(str(address.hostname), address.port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    upstream.putheader(name, value)
            upstream.endheaders()
            cut = fault.after if isinstance(fault, CutUpload) else length
            sent = 0
            while sent < min(length, cut) and (
                piece := self.rfile.read(min(min(length, cut) - sent, PIECE))
            ):
                upstream.send(piece)
                sent += len(piece)
            if isinstance(fault, CutUpload):
                raise _Gone
            yield upstream.getresponse()
        except (HTTPException, ConnectionError):
            raise _Gone from None
        finally:
            upstream.close()

    def _return(self, response: HTTPResponse, fault: Fault | None) -> None:
        headers = response.getheaders()
        bodiless = self.command == "HEAD" or response.status in (204, 304)
        chunked = not bodiless and response.getheader("Content-Length") is None
        self.send_response_only(response.status, response.reason)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent, limit = (
            0,
            fault.after if isinstance(fault, Drop) and fault.after is not None else None,
        )
        while not bodiless and (
            piece := response.read(fault.bytes if isinstance(fault, Trickle) else PIECE)
        ):
            if isinstance(fault, Trickle):
                time.sleep(fault.seconds)
            if limit is not None:
                piece = piece[: limit - sent]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and piece else piece)
            sent += len(piece)
            if limit is not None and sent >= limit:
                raise _Gone
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

"""An HTTP proxy on the loopback interface that makes the faults a test asks for.

It stands between a client and an S3 server. Requests reach the server as they were sent, the
Host header too, which signatures cover; answers come back whole unless a fault says otherwise.
"""

import contextlib
import dataclasses
import http.client
import http.server
import os
import random
import re
import socket
import struct
import threading
import time
import urllib.parse
from typing import Literal, Self

Kind = Literal[
    "slow_down", "server_error", "denied", "redirect", "reset", "truncate", "short", "delay"
]
_ERRORS = {
    "slow_down": (503, "SlowDown"),
    "server_error": (500, "InternalError"),
    "denied": (403, "AccessDenied"),
    "redirect": (301, "PermanentRedirect"),
}
_XML = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'


@dataclasses.dataclass(slots=True)
class Fault:
    """What goes wrong, for which requests, and how often it did.

    ``slow_down``, ``server_error``, ``denied`` and ``redirect`` answer 503, 500, 403 and 301
    without asking the server. ``reset`` and ``truncate`` ask it and pass on half of the body (of
    an answer without a body: nothing), then reset the connection or close it. ``short`` passes
    on half of the body as if that were all. ``delay`` waits before it reads the request's body.
    """

    kind: Kind
    times: int | None
    """How many requests it hits; None is all of them."""
    method: str
    """A regular expression."""
    path: str
    """A regular expression, searched in the unquoted path with the query."""
    probability: float
    delay_s: float
    random: random.Random
    injected: int = 0

    def hits(self, method: str, path: str) -> bool:
        if self.times is not None and self.injected >= self.times:
            return False
        if not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        if self.random.random() >= self.probability:
            return False
        self.injected += 1
        return True


class FaultProxy:
    """The proxy of one server; ``with FaultProxy(endpoint) as proxy`` starts and ends it."""

    def __init__(self, endpoint: str):
        upstream = urllib.parse.urlsplit(endpoint).netloc
        self.requests: list[str] = []
        """``METHOD path`` of everything that was asked, in order."""
        self.fetched_bytes = 0
        """In the whole answers to GET."""
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self, upstream))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def inject(
        self,
        kind: Kind,
        *,
        times: int | None = 1,
        method: str = ".*",
        path: str = "",
        probability: float = 1.0,
        delay_s: float = 0.0,
        seed: int = 0,
    ) -> Fault:
        """Adds a fault; the first of those added that fits a request is the one it meets."""
        fault = Fault(kind, times, method, path, probability, delay_s, random.Random(seed))
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """No more faults, and no requests seen."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()
            self.fetched_bytes = 0

    def _next(self, method: str, path: str) -> Fault | None:
        path = urllib.parse.unquote(path)
        with self._lock:
            self.requests.append(f"{method} {path}")
            return next((fault for fault in self._faults if fault.hits(method, path)), None)

    def _sent(self, method: str, num_bytes: int) -> None:
        with self._lock:
            self.fetched_bytes += num_bytes if method == "GET" else 0


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the game."""


def _handler(proxy: FaultProxy, upstream: str) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(_Handler):
        def answer(self) -> None:
            fault = proxy._next(self.command, self.path)
            kind = fault.kind if fault else None
            if fault and kind == "delay":
                time.sleep(fault.delay_s)
            body = self.body()
            if kind in _ERRORS:
                status, code = _ERRORS[kind]
                xml = _XML.format(code=code).encode()
                self.send(status, [("Content-Type", "application/xml")], xml)
                return
            try:
                status, headers, content = _ask(upstream, self, body)
            except (OSError, http.client.HTTPException):
                self.cut(reset=True)  # the server is away, or the client went in mid-request
                return
            half = len(content) // 2
            if kind in ("reset", "truncate"):
                if content and self.command != "HEAD":
                    self.send(status, headers, content, num_sent=half)
                self.cut(reset=kind == "reset")
                return
            proxy._sent(self.command, len(content))
            self.send(status, headers, content[:half] if kind == "short" else content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    return Handler


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def body(self) -> bytes:
        """The body as it crossed the wire, chunks' sizes included; less when the client went."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while not chunks or int(chunks[-1].partition(b"\r\n")[0], 16):
            size = self.rfile.readline()
            chunks.append(size + self.rfile.read(int(size, 16) + 2))
        return b"".join(chunks)

    def send(
        self,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        *,
        num_sent: int | None = None,
    ) -> None:
        """Announces all of the content and sends ``num_sent`` bytes of it."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        sizes = [value for name, value in headers if name.lower() == "content-length"]
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", sizes[0] if is_head and sizes else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content[:num_sent])

    def cut(self, *, reset: bool) -> None:
        """Ends the connection at once, with RST or with FIN."""
        self.close_connection = True
        if reset:
            linger_off = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_off)
        os.close(self.connection.detach())  # others hold the socket: its close would wait


def _ask(
    upstream: str, request: http.server.BaseHTTPRequestHandler, body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(upstream, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(
            request.command, request.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in request.headers.items():
            if name.lower() not in ("expect", "connection"):
                connection.putheader(name, value)
        connection.endheaders(body)
        if len(body) < int(request.headers.get("Content-Length", 0)):
            raise ConnectionError("the client went away in the middle of its request")
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()

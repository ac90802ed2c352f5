"""A proxy that breaks what passes through it: errors, lost connections, half answers, long waits.

It stands in front of a real S3 server, of Dojo's or of CauseMos' simulator, on loopback. What breaks is
decided by whoever starts it; `Dice` throws dice that fall the same way for the same requests, whatever
the order in which they come.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args
from urllib.parse import urlsplit

Fault = Literal[
    "500",
    "503",
    "reset",
    "cut short",
    "lost answer",
    "half answer",
    "stall",
    "slow bytes",
    "length too long",
    "length too short",
]
"""`reset`: nothing arrives. `cut short`: half of the request arrives. `lost answer`: it is done, and
nobody hears of it. `stall`: nothing happens, then the connection is lost."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
Plan = Callable[[str, str], Fault | int | None]
"""What happens to a request, of which method and path are given: a fault, an answer of that status, or
nothing. Called for one request at a time."""

_PIECES, _PIECE_SECONDS = 20, 0.02


@dataclass
class Dice:
    """Breaks a share of the requests, from 0 to 1, each time in one of the ways."""

    share: float
    seed: int = 0
    ways: Sequence[Fault] = FAULTS
    thrown: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __call__(self, method: str, path: str) -> Fault | None:
        self.thrown[method, path] += 1
        said = f"{self.seed} {method} {path} {self.thrown[method, path]}".encode()
        first, second = struct.unpack("<QQ", hashlib.blake2b(said, digest_size=16).digest())
        return self.ways[second % len(self.ways)] if first < self.share * 2**64 else None


def nothing(method: str, path: str) -> None:
    """A plan in which nothing breaks."""


@dataclass
class Proxy:
    """What passed, and what became of it."""

    url: str = ""
    plan: Plan = nothing
    """May be changed while the proxy runs."""
    says: Callable[[str, bytes], bytes] = lambda _, body: body
    """The body of an answer to a path, instead of what the server says."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0


def respond(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    length: int | None = None,
) -> None:
    """Answer; `length` is what is said of the body, where that is not true."""
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A small HTTP server on loopback; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Answers are two small writes; the second must not wait for the first to be acknowledged.
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def handle_any(self) -> None:
            try:
                answer(self)
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@contextmanager
def proxy(upstream: str, plan: Plan = nothing, *, delay: float = 0.0, stall: float = 30.0) -> Iterator[Proxy]:
    """A proxy in front of a server; `delay` (seconds) is how long it holds every request."""
    seen, lock, busy = Proxy(plan=plan), threading.Lock(), [0]
    there, connections = urlsplit(upstream), threading.local()

    def hand_on(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if not hasattr(connections, "it"):
            connections.it = http.client.HTTPConnection(str(there.hostname), there.port, timeout=60)
        connections.it.request(handler.command, handler.path, body, dict(handler.headers.items()))
        answer = connections.it.getresponse()
        passed_over = ("connection", "date", "server", "transfer-encoding", "keep-alive")
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in passed_over}
        return answer.status, seen.says(handler.path, answer.read()), headers

    def answer(handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers.get("Content-Length") or 0)
        with lock:
            seen.requests.append((handler.command, handler.path))
            fault = seen.plan(handler.command, handler.path)
            seen.broken.update([] if fault is None else [str(fault)])
            busy[0] += 1
            seen.most_at_once = max(seen.most_at_once, busy[0])
        answered = None
        try:
            if fault == "cut short":
                handler.rfile.read(size // 2)
            body = b"" if fault == "cut short" else handler.rfile.read(size)
            time.sleep(delay)
            if fault in ("500", "503") or isinstance(fault, int):
                _refuse(handler, int(fault))
            elif fault in ("reset", "cut short"):
                _reset(handler)
            elif fault == "stall":
                time.sleep(stall)
                _reset(handler)
            else:
                answered = hand_on(handler, body)
        finally:
            # Not after the answer: its last byte lets the client begin the next request.
            with lock:
                busy[0] -= 1
        if answered is not None:
            _answer(handler, None if fault is None else str(fault), *answered)

    with serving(answer) as seen.url:
        yield seen


_CODES = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied"}


def _refuse(handler: BaseHTTPRequestHandler, status: int) -> None:
    code = _CODES.get(status, "Refused")
    respond(handler, status, f"<Error><Code>{code}</Code></Error>".encode())


def _answer(
    handler: BaseHTTPRequestHandler, fault: str | None, status: int, body: bytes, headers: dict[str, str]
) -> None:
    """Hand an answer back, as the fault would have it."""
    # Servers write the name in either way; twice, with different lengths, no client would take it.
    lengths = [headers.pop(name) for name in list(headers) if name.lower() == "content-length"]
    told = int(lengths[0]) if lengths else len(body)
    if fault == "lost answer" or (fault == "half answer" and not body):
        _reset(handler)
    elif fault == "half answer":
        respond(handler, status, body[: len(body) // 2], headers, length=told)
        _reset(handler)
    elif fault == "length too long":
        respond(handler, status, body, headers, length=told + 100)
        _reset(handler)
    elif fault == "length too short" and body:
        # What else was sent is garbage, so nothing may follow on this connection.
        respond(handler, status, body, headers, length=len(body) // 2)
        handler.close_connection = True
    elif fault == "slow bytes" and body:
        respond(handler, status, b"", headers, length=told)
        for start in range(0, len(body), max(1, len(body) // _PIECES)):
            time.sleep(_PIECE_SECONDS)
            handler.wfile.write(body[start : start + max(1, len(body) // _PIECES)])
    else:
        respond(handler, status, body, headers, length=told)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    """Lose the connection: the other side is told that it was reset."""
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()

"""Servers that never stop and never end: a byte now and then, so that no time-out is ever reached."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from datacube_assets.causemos.client import CauseMosClient, ProcessingFailed, Unreachable
from datacube_assets.dojo.client import DojoClient, DojoUnavailable
from datacube_assets.dojo.fetch import FetchError, Source, fetch
from datacube_assets.http_client import Overdue, RetryPolicy, open_client, overseen

TIMEOUT = 1.0
ONCE = RetryPolicy(attempts=1)
BEGINNINGS = {
    "before its first byte": b"",
    "in its first line": b"HTTP/1.1 200",
    "in its headers": b"HTTP/1.1 200 OK\r\nX-A: ",
    "in a body of known length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "in a body of unknown length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    "in a body of chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
    "in a refusal": b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\n",
}
REPORT = ProcessingFailed(run_id="r", data_id="m", doc_ids=("d",), is_indicator=False, flow_id="f")


class Dribble:
    """Answers whatever it is asked with this, and then with a byte per half time-out, for ever."""

    def __init__(self) -> None:
        self.beginning = b""
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(self.beginning)
            while not self._over.wait(TIMEOUT / 2):
                connection.sendall(b"1")

    def close(self) -> None:
        self._over.set()
        self._listening.close()


@pytest.fixture
def dribble() -> Iterator[Dribble]:
    server = Dribble()
    yield server
    server.close()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def test_a_byte_per_half_time_out_keeps_no_client_waiting(tmp_path: Path) -> None:
    """All three waited for ever, and Dagster's other sensors with them."""
    with ThreadPoolExecutor(len(BEGINNINGS)) as threads:
        asked = {
            where: threads.submit(keeps_no_client_waiting, where, tmp_path / str(number))
            for number, where in enumerate(BEGINNINGS)
        }
    assert {where: str(one.exception()) for where, one in asked.items() if one.exception()} == {}


def keeps_no_client_waiting(where: str, target: Path) -> None:
    with contextlib.closing(Dribble()) as dribble:
        dribble.beginning = BEGINNINGS[where]
        dojo = DojoClient(dribble.url, timeout=TIMEOUT, retries=ONCE)
        with within(20), dojo, pytest.raises(DojoUnavailable):
            dojo.runs()
        with within(20), CauseMosClient(dribble.url, timeout=2 * TIMEOUT) as causemos:
            assert isinstance(causemos.processing_failed(REPORT), Unreachable)
            assert isinstance(causemos.answers(), Unreachable)
        with within(20), pytest.raises(FetchError, match="tried"):
            # However often it may be tried: at once it would be no quicker.
            fetch(f"{dribble.url}/x", target, Source(timeout=TIMEOUT, retries=RetryPolicy(attempts=4)))


def test_all_calls_of_a_tick_have_an_end_together(dribble: Dribble) -> None:
    dribble.beginning = BEGINNINGS["in its headers"]
    patient = RetryPolicy(attempts=100, first_wait=0.01, longest_wait=0.1)
    with within(20), DojoClient(dribble.url, timeout=TIMEOUT, retries=patient, seconds=3) as dojo:
        with pytest.raises(DojoUnavailable):
            dojo.runs()
        with pytest.raises(DojoUnavailable, match="no whole answer"):
            dojo.indicators()


def test_a_bucket_that_dribbles_frees_the_place_of_a_run(
    dribble: Dribble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    dribble.beginning = (
        b'HTTP/1.1 200 OK\r\nETag: "1"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
        b"Content-Length: 1000000\r\n\r\n"
    )
    source = Source(timeout=TIMEOUT, retries=ONCE, s3_endpoint=dribble.url)
    with within(20), pytest.raises(FetchError, match="bytes came in"):
        fetch("s3://bucket/key", tmp_path / "x", source)
    assert not (tmp_path / "x").exists()


def test_a_file_that_comes_slowly_but_steadily_is_fetched(dribble: Dribble, tmp_path: Path) -> None:
    dribble.beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
    source = Source(timeout=TIMEOUT, retries=ONCE, slowest=1.0)
    assert fetch(f"{dribble.url}/x", tmp_path / "x", source).size == 6
    with pytest.raises(FetchError, match="bytes came in"):
        fetch(f"{dribble.url}/x", tmp_path / "x", replace(source, slowest=100.0))


def test_a_call_that_is_over_in_time_is_not_disturbed(dribble: Dribble) -> None:
    dribble.beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with open_client(timeout=5) as http:
        for _ in range(3):
            with overseen(0.5) as oversight:
                assert http.get(dribble.url, extensions={"trace": oversight}).text == "ok"
            time.sleep(0.2)
        time.sleep(0.5)
        with pytest.raises(Overdue), overseen(0):
            pass
        with pytest.raises(httpx.ConnectError), overseen(30) as oversight:
            http.get("http://127.0.0.1:1", extensions={"trace": oversight})


@pytest.mark.parametrize(
    "listed",
    ["[::1]", "::1", "localhost,[::1]:8080", "[fe80::1%eth0]", ".example.org,*.example.com", "*", "a b"],
)
def test_whatever_is_in_no_proxy_a_client_can_be_made(
    listed: str, dribble: Dribble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`[::1]` raised InvalidURL before anybody was asked."""
    dribble.beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for name in ("NO_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", f"127.0.0.1,{listed}")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with open_client(timeout=5) as http:
        assert http.get(dribble.url).text == "ok", "it is asked directly"
        if "[::1]" in listed or listed in ("::1", "*"):
            with pytest.raises(httpx.ConnectError), overseen(5):
                http.get("http://[::1]:9/")

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import pickle
import socket
import threading
import time
import tracemalloc
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from datacube_assets.development.ports import free_port
from datacube_assets.dojo.address_encryption import KEY_FILE, Seal
from datacube_assets.dojo.fetch import FetchedPart, FetchError, Source, fetch, is_public
from datacube_assets.http_client import RetryPolicy
from datacube_assets.kernels.errors import InputError
from datacube_assets.redaction import public

BODY = bytes(range(256)) * 4_000
MEGABYTE = 1_000_000
QUICK = Source(timeout=5, retries=RetryPolicy(attempts=3, first_wait=0.01, longest_wait=0.05))
NAMES = ("a.parquet.gzip", "with space.gzip", "größe & 100%.gzip", "a+b=c;d,e@f'.gzip")


@dataclass(frozen=True)
class Answer:
    """What the server says; the headers may lie about the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    """Content-Length is the true one unless it is given here; an empty value leaves a header out."""
    delay: float = 0.0
    chunked: bool = False
    repeat: int = 1
    """How often the body is sent."""


class Handler(BaseHTTPRequestHandler):
    """Gives the answers of a path one after the other, the last of them for ever."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        answers = self.server.answers.get(self.path.partition("?")[0], [Answer(status=404)])
        self.server.asked.append(self)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.closing.wait(answer.delay)
        length = {} if answer.chunked else {"Content-Length": str(len(answer.body) * answer.repeat)}
        s3 = {"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
        self.send_response(answer.status)
        for name, value in {**length, **s3, **answer.headers}.items():
            if value:
                self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(answer.repeat):
            if answer.chunked:
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))
            else:
                self.wfile.write(answer.body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[Handler] = []
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that give up are part of the tests."""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.fixture
def server(running: Server) -> Server:
    running.answers.clear()
    running.asked.clear()
    return running


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Source:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    return replace(QUICK, s3_endpoint=server.url)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def part(address: str, body: bytes = BODY) -> FetchedPart:
    return FetchedPart(address, len(body), hashlib.sha256(body).hexdigest())


def refused(address: str, target: Path, source: Source = QUICK) -> InputError:
    with pytest.raises(InputError) as caught:
        fetch(address, target, source)
    assert not target.exists()
    assert caught.value.remedy
    return caught.value


def failed(address: str, target: Path, source: Source = QUICK) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(address, target, source)
    assert not target.exists()
    return str(caught.value)


# --- over HTTP ---------------------------------------------------------------------------------


def test_a_file_comes_whole_with_size_and_checksum(server: Server, target: Path) -> None:
    server.answers["/a.gzip"] = [Answer(BODY)]
    target.write_bytes(b"from before")
    assert fetch(f"{server.url}/a.gzip", target, QUICK) == part(f"{server.url}/a.gzip")
    assert target.read_bytes() == BODY
    assert len(server.asked) == 1


def test_an_empty_file_is_a_file(server: Server, target: Path) -> None:
    server.answers["/a"] = [Answer(b"")]
    assert fetch(f"{server.url}/a", target, QUICK) == part(f"{server.url}/a", b"")
    assert target.read_bytes() == b""


@pytest.mark.parametrize(
    "broken",
    [
        Answer(BODY, 500),
        Answer(BODY, 503, {"Retry-After": "0"}),
        Answer(BODY, 429),
        Answer(BODY[:700_000], headers={"Content-Length": str(len(BODY))}),
        Answer(BODY, headers={"Content-Length": "many"}),
        Answer(BODY, chunked=True, headers={"Content-Length": str(len(BODY) - 1)}),
        Answer(BODY, chunked=True, headers={"Content-Length": str(len(BODY) + 1)}),
    ],
    ids=["500", "503", "429", "truncated", "no length", "longer than said", "shorter than said"],
)
def test_a_broken_answer_is_asked_for_again_from_the_start(
    server: Server, target: Path, broken: Answer
) -> None:
    server.answers["/a"] = [broken, broken, Answer(BODY)]
    assert fetch(f"{server.url}/a", target, QUICK) == part(f"{server.url}/a")
    assert target.read_bytes() == BODY
    assert len(server.asked) == 3
    assert all("Range" not in asked.headers for asked in server.asked)

    server.answers["/a"] = [broken]
    assert "tried 3 times. " in failed(f"{server.url}/a?signature=s3cret", target)


def test_a_lasting_error_says_what_failed_and_how_often_it_was_tried(server: Server, target: Path) -> None:
    server.answers["/a"] = [Answer(b"<html>oops", 502)]
    assert failed(f"{server.url}/a", target).startswith(
        f"file {server.url}/a: the server answered 502, tried 3 times. Materialize it again later"
    )


def test_a_wait_beyond_our_patience_ends_the_attempts(server: Server, target: Path) -> None:
    server.answers["/a"] = [Answer(status=503, headers={"Retry-After": "3600"})]
    assert "answered 503, tried once." in failed(f"{server.url}/a", target)


def test_a_slow_answer_is_asked_for_again(server: Server, target: Path) -> None:
    server.answers["/a"] = [Answer(BODY, delay=2), Answer(BODY)]
    assert fetch(f"{server.url}/a", target, replace(QUICK, timeout=0.3)).size == len(BODY)
    assert len(server.asked) == 2


def test_a_server_that_is_not_there_is_tried_several_times(target: Path) -> None:
    message = failed(f"http://127.0.0.1:{free_port()}/a", target)
    assert "ConnectError" in message
    assert "tried 3 times" in message


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (404, "is not there"),
        (410, "is not there"),
        (401, "may not be read"),
        (403, "may not be read"),
        (400, "answered 400"),
        (204, "answered 204"),
        (304, "answered 304"),
    ],
)
def test_a_refusal_is_not_asked_again(server: Server, target: Path, status: int, problem: str) -> None:
    server.answers["/a"] = [Answer(b"" if status in (204, 304) else b"<html>", status)]
    error = refused(f"{server.url}/a", target)
    assert error.file == f"{server.url}/a"
    assert problem in error.problem
    assert len(server.asked) == 1


def test_the_bytes_are_those_that_are_stored_whatever_encoding_they_are_said_to_have(
    server: Server, target: Path
) -> None:
    for body in (BODY, gzip.compress(BODY)):
        server.answers["/a"] = [Answer(body, headers={"Content-Encoding": "gzip"})]
        assert fetch(f"{server.url}/a", target, QUICK) == part(f"{server.url}/a", body)
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_an_answer_of_unknown_length_ends_where_the_server_says(server: Server, target: Path) -> None:
    server.answers["/chunked"] = [Answer(BODY, chunked=True)]
    server.answers["/until-closed"] = [Answer(BODY, headers={"Content-Length": ""})]
    for path in server.answers:
        assert fetch(server.url + path, target, QUICK) == part(server.url + path)


@pytest.mark.parametrize("kind", ["http", "s3", "file"])
def test_a_large_file_needs_little_memory(server: Server, s3: Source, tmp_path: Path, kind: str) -> None:
    server.answers["/bucket/a"] = [Answer(bytes(MEGABYTE), repeat=50)]
    if kind == "file":
        with (tmp_path / "a").open("wb") as file:
            file.truncate(50 * MEGABYTE)
    address = {"http": f"{server.url}/bucket/a", "s3": "s3://bucket/a", "file": f"{tmp_path}/a"}[kind]
    tracemalloc.start()
    try:
        assert fetch(address, tmp_path / "target", s3).size == 50 * MEGABYTE
        assert tracemalloc.get_traced_memory()[1] < 12 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert (tmp_path / "target").stat().st_size == 50 * MEGABYTE


def test_redirects_are_followed(server: Server, target: Path) -> None:
    server.answers["/a"] = [Answer(status=302, headers={"Location": "/b"})]
    server.answers["/b"] = [Answer(status=307, headers={"Location": f"{server.url}/c"})]
    server.answers["/c"] = [Answer(BODY)]
    assert fetch(f"{server.url}/a", target, QUICK) == part(f"{server.url}/a")
    del server.answers["/c"]
    assert refused(f"{server.url}/a", target).file == f"{server.url}/a, redirected to {server.url}/c"


def test_redirects_that_do_not_end_are_refused(server: Server, target: Path) -> None:
    server.answers["/a"] = [Answer(status=302, headers={"Location": "/a"})]
    assert "redirects more than 10 times" in refused(f"{server.url}/a", target).problem


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("http://localhost:{port}/b", "host localhost is not one"),
        ("http://127.0.0.1.evil.example/b", "host 127.0.0.1.evil.example is not one"),
        ("//169.254.169.254/latest", "host 169.254.169.254 is not one"),
        ("https://127.0.0.1/b", "https:// may not be read"),
        ("file:///etc/passwd", "local files may not be read"),
        ("ftp://127.0.0.1/b", "ftp:// may not be read"),
    ],
)
def test_no_redirect_leaves_the_allow_list(server: Server, target: Path, location: str, problem: str) -> None:
    target_address = location.format(port=server.server_port) + "?signature=s3cret"
    server.answers["/a"] = [Answer(status=302, headers={"Location": target_address})]
    strict = replace(QUICK, allowed_schemes=frozenset({"http", "s3"}), allowed_hosts=("127.0.0.1",))
    error = refused(f"{server.url}/a", target, strict)
    assert problem in error.problem
    assert "s3cret" not in str(error)
    assert len(server.asked) == 1


def test_a_redirect_to_a_local_file_is_refused_even_where_local_files_may_be_read(
    server: Server, target: Path
) -> None:
    server.answers["/a"] = [Answer(status=302, headers={"Location": "file:///etc/hosts"})]
    assert "does not lead to http" in refused(f"{server.url}/a", target).problem


# --- what may be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["/etc/hosts", "etc/hosts", "file:///etc/hosts", "FILE:///etc/hosts", "file:/etc/hosts", " /etc/hosts"],
)
def test_local_files_can_be_ruled_out(target: Path, address: str) -> None:
    web_only = replace(QUICK, allowed_schemes=frozenset({"https", "s3"}))
    assert "local files may not be read" in refused(address, target, web_only).problem


@pytest.mark.parametrize(
    "address",
    [
        "https://other.example/a",
        "https://example/a",
        "https://notexample.org/a",
        "https://example.org/a",
        "https://data.example.org@evil.example/a",
        "https://evil.example/data.example.org",
        "http://[::1]/a",
        "s3://other/a",
        "s3://data.example.org@other/a",
    ],
)
def test_hosts_and_buckets_outside_the_list_are_not_asked(server: Server, target: Path, address: str) -> None:
    strict = replace(QUICK, allowed_hosts=("*.example.org", "bucket"), s3_endpoint=server.url)
    refused(address, target, strict)
    assert server.asked == []


@pytest.mark.parametrize("entry", ["", "localhost", "LOCALHOST", "*.localhost"])
def test_hosts_are_allowed_by_name_or_by_suffix(server: Server, target: Path, entry: str) -> None:
    server.answers["/a"] = [Answer(BODY)]
    host = "a.localhost" if entry.startswith("*") else "LocalHost"
    source = replace(QUICK, allowed_hosts=(entry,) if entry else ())
    address = f"http://{host}:{server.server_port}/a"
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        assert "tried 3 times" in failed(address, target, source)  # admitted, though not known here
    else:
        assert fetch(address, target, source).size == len(BODY)


def test_local_files_and_listed_hosts_are_independent(tmp_path: Path, target: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    assert fetch(f"{tmp_path}/a", target, replace(QUICK, allowed_hosts=("x",))).size == len(BODY)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/a",
        "gs://bucket/a",
        "https://",
        "https:///a",
        "http://host:port/a",
        "http://[::1/a",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://../key",
        "s3://bucket/../other/key",
        "s3://bucket//a",
        "file://server/share/a",
        "a\0b",
    ],
)
def test_what_is_no_address_is_refused(target: Path, address: str) -> None:
    assert refused(address, target).file == public(address)


@pytest.mark.parametrize("kind", ["http", "s3", "file"])
def test_files_that_are_too_large_are_refused(
    server: Server, s3: Source, tmp_path: Path, target: Path, kind: str
) -> None:
    server.answers["/bucket/a"] = [Answer(BODY)]
    server.answers["/bucket/b"] = [Answer(BODY, chunked=True)]
    (tmp_path / "a").write_bytes(BODY)
    address = {"http": f"{server.url}/bucket/a", "s3": "s3://bucket/a", "file": f"{tmp_path}/a"}[kind]
    assert fetch(address, target, replace(s3, max_bytes=len(BODY))).size == len(BODY)
    target.unlink()
    short = replace(s3, max_bytes=len(BODY) - 1)
    assert "larger than 1,023,999 bytes" in refused(address, target, short).problem
    assert "larger than" in refused(f"{server.url}/bucket/b", target, short).problem


# --- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://host/a%20b.gzip", "https://host/a%20b.gzip"),
        ("https://ann:s3cret@host:8443/a", "https://host:8443/a"),
        ("https://s3cret@host/a@b", "https://host/a@b"),
        ("https://ann:s3@cret@host/a", "https://host/a"),
        ("https://host/a?X-Amz-Signature=s3cret", "https://host/a"),
        ("https://host?key=s3cret", "https://host"),
        ("https://host/a#s3cret", "https://host/a"),
        ("https://ann:s3cret/more@host/a", "https://..."),
        ("https://ann:s3cret?more@host/a", "https://..."),
        ("http://[::1]:80/a?s3cret", "http://[::1]:80/a"),
        ("s3://KEYID:s3cret@bucket/key", "s3://bucket/key"),
        ("file:///a/b", "file:///a/b"),
        ("/a/b?c#d@e", "/a/b?c#d@e"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_secrets(address: str, shown: str) -> None:
    assert public(address) == shown


def test_credentials_are_used_but_never_shown(
    server: Server, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    signed = f"{server.url}/a?signature=s3cret".replace("//", "//ann:s3cret@")
    redirect = Answer(status=302, headers={"Location": "/b?signature=s3cret"})
    server.answers["/a"] = [Answer(status=500), redirect]
    server.answers["/b"] = [Answer(status=500), Answer(BODY)]
    assert fetch(signed, target, QUICK).address == f"{server.url}/a"
    assert server.asked[-1].path == "/b?signature=s3cret"
    assert server.asked[-1].headers["Authorization"] == f"Basic {b64encode(b'ann:s3cret').decode()}"

    told = []
    for answer in (Answer(status=404), Answer(status=403), Answer(status=418), redirect):
        server.answers |= {"/a": [answer], "/b": [Answer(status=404)]}
        told.append(str(refused(signed, target)))
    for answer in (Answer(status=500), Answer(b"1", headers={"Content-Length": "2"})):
        server.answers["/a"] = [answer]
        told.append(failed(signed, target))
    told.append(str(refused(signed, target, replace(QUICK, allowed_hosts=("x",)))))
    told.append(str(refused(signed, target, replace(QUICK, allowed_schemes=frozenset()))))
    told.append(str(refused("http://ann:s3cret/x@host/a", target)))
    told.append(str(refused("s3://KEYID:s3cret@bucket/a", target)))
    told.append(str(refused("file://ann:s3cret@host/a", target)))
    told.append(str(refused("ftp://ann:s3cret@host/a", target)))
    assert "HTTP Request: GET" in caplog.text
    assert "as it raised" in caplog.text
    assert "s3cret" not in caplog.text
    assert not [text for text in told if "s3cret" in text or "ann:" in text or "KEYID" in text]


def test_credentials_are_not_carried_to_another_host(server: Server, target: Path) -> None:
    elsewhere = f"http://localhost:{server.server_port}/b"
    server.answers["/a"] = [Answer(status=302, headers={"Location": elsewhere})]
    server.answers["/b"] = [Answer(BODY)]
    fetch(f"{server.url}/a".replace("//", "//ann:s3cret@"), target, QUICK)
    assert ["Authorization" in asked.headers for asked in server.asked] == [True, False]


def test_sources_and_errors_can_be_sent_to_workers(target: Path) -> None:
    source = pickle.loads(pickle.dumps(QUICK))
    assert source == QUICK
    assert hash(source) == hash(QUICK)
    for error in (FetchError("a, tried 3 times"), refused("gs://a", target)):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


# --- from S3 -----------------------------------------------------------------------------------


def test_an_object_is_read_with_the_usual_credentials(server: Server, s3: Source, target: Path) -> None:
    server.answers["/bucket/folder/a%20b%2520c.gzip"] = [Answer(BODY, headers={"Content-Encoding": "gzip"})]
    address = "s3://bucket/folder/a b%20c.gzip"
    assert fetch(address, target, s3) == part(address)
    assert target.read_bytes() == BODY
    assert "KEYID" in server.asked[0].headers["Authorization"]


def test_a_public_object_is_read_without_signature(
    server: Server, s3: Source, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    server.answers["/bucket/a"] = [Answer(BODY)]
    assert fetch("s3://bucket/a", target, s3) == part("s3://bucket/a")
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    "broken",
    [
        Answer(b"<Error>", 500),
        Answer(b"<Error>", 503),
        Answer(b"<Error>", 429),
        Answer(BODY[:700_000], headers={"Content-Length": str(len(BODY))}),
        Answer(BODY, delay=1),
    ],
    ids=["500", "503", "429", "truncated", "slow"],
)
def test_a_broken_object_is_asked_for_again_from_the_start(
    server: Server, s3: Source, target: Path, broken: Answer
) -> None:
    source = replace(s3, timeout=0.3)
    server.answers["/bucket/a"] = [broken, broken, Answer(BODY)]
    assert fetch("s3://bucket/a", target, source) == part("s3://bucket/a")
    assert target.read_bytes() == BODY
    assert len(server.asked) == 3
    assert all("Range" not in asked.headers for asked in server.asked)

    server.answers["/bucket/a"] = [broken]
    message = failed("s3://bucket/a", target, source)
    assert message.startswith("file s3://bucket/a: ")
    assert "tried 3 times. " in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("status", "code", "problem"),
    [
        (404, "NoSuchKey", "is not there"),
        (404, "NoSuchBucket", "there is no bucket bucket"),
        (403, "AccessDenied", "may not be read"),
        (403, "InvalidObjectState", "is archived"),
        (403, "SignatureDoesNotMatch", "SignatureDoesNotMatch"),
        (401, "", "may not be read"),
        (400, "", "S3 refused it"),
        (400, "ExpiredToken", "ExpiredToken"),
        (301, "PermanentRedirect", "incorrectly configured region"),
    ],
)
def test_a_refused_object_is_not_asked_for_again(
    server: Server, s3: Source, target: Path, status: int, code: str, problem: str
) -> None:
    said = f"<Error>\n<Code>{code}</Code><Message>s3cret</Message></Error>" if code else "<Error>\n<Code>"
    server.answers["/bucket/a"] = [Answer(said.encode(), status)]
    error = refused("s3://bucket/a", target, s3)
    assert problem in error.problem
    assert "s3cret" not in str(error)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"default backend - 404", 404),
        Answer(b"<Error><Code>RequestTimeout</Code></Error>", 400),
    ],
    ids=["no server of S3", "waited too long"],
)
def test_what_may_pass_at_s3_is_asked_for_again(
    server: Server, s3: Source, target: Path, answer: Answer
) -> None:
    server.answers["/bucket/a"] = [answer, Answer(BODY)]
    assert fetch("s3://bucket/a", target, s3) == part("s3://bucket/a")


def test_parts_are_read_from_the_server_of_the_settings_whatever_other_clients_use(
    server: Server, s3: Source, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    server.answers["/bucket/a"] = [Answer(BODY)]
    upper = replace(s3, s3_endpoint=s3.s3_endpoint.upper())
    assert fetch("s3://bucket/a", target, upper) == part("s3://bucket/a")
    assert fetch("s3://bucket/a", target, s3) == part("s3://bucket/a")


# --- from the disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_local_files_are_read_by_path_and_by_url(tmp_path: Path, target: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BODY)
    for address in (str(path), path.as_uri(), path.as_uri().replace("file://", "file://localhost")):
        assert fetch(address, target, QUICK) == part(address)
        assert target.read_bytes() == BODY


def test_a_relative_path_is_one_of_the_working_folder(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "what?#.gzip").write_bytes(BODY)
    assert fetch("what?#.gzip", target) == part("what?#.gzip")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, target: Path) -> None:
    error = refused(f"{tmp_path}/absent", target)
    assert error.file == f"{tmp_path}/absent"
    assert "No such file" in error.problem
    assert "No such file" in refused(f"file://{tmp_path}/absent", target).problem


@pytest.mark.timeout(10)
def test_folders_and_devices_are_refused(tmp_path: Path, target: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path), "", "/dev/zero", f"{tmp_path}/pipe"):
        assert "folder or a device" in refused(path, target).problem


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(BODY)
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything
        opened = Path.open

        def denied(self: Path, mode: str) -> object:
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return opened(self, mode)

        monkeypatch.setattr(Path, "open", denied)
    error = refused(str(path), target)
    assert "Permission denied" in error.problem
    assert "who may read it" in error.remedy


def test_a_target_that_cannot_be_written_is_no_fault_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    with pytest.raises(FileNotFoundError):
        fetch(f"{tmp_path}/a", tmp_path / "absent" / "target")
    if Path("/dev/full").exists():
        began = time.monotonic()
        (tmp_path / "full").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):
            fetch(f"{tmp_path}/a", tmp_path / "full")
        assert time.monotonic() - began < 1


# --- internal addresses ------------------------------------------------------------------------


GUARDED = replace(QUICK, guarded=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "data.example.org@127.0.0.1",
        "[::ffff:127.0.0.1]",
    ],
)
def test_an_internal_address_is_never_asked_however_it_is_written(
    server: Server, target: Path, host: str
) -> None:
    server.answers["/a"] = [Answer(BODY)]
    try:
        fetch(f"http://{host}:{server.server_port}/a", target, QUICK)
    except FetchError:
        pytest.skip("this machine cannot reach itself by that address")
    except InputError:
        return  # not even an address
    target.unlink()
    server.asked.clear()
    assert (
        "leads to the internal address"
        in refused(f"http://{host}:{server.server_port}/a", target, GUARDED).problem
    )
    assert server.asked == []


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name of the internet that leads to this machine."""
    name, resolve = "files.example.org", socket.getaddrinfo

    def lead_inside(host: str, *more: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == name else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lead_inside)
    return name


@pytest.mark.parametrize("hosts", [(), ("*.example.org",)])
def test_a_name_that_leads_inside_is_not_asked_unless_it_is_named_itself(
    server: Server, target: Path, inside: str, hosts: tuple[str, ...]
) -> None:
    server.answers["/a"] = [Answer(BODY)]
    address = f"http://{inside}:{server.server_port}/a"
    error = refused(address, target, replace(GUARDED, allowed_hosts=hosts))
    assert error.problem == f"the host {inside} leads to the internal address 127.0.0.1"
    assert server.asked == []
    named = replace(GUARDED, allowed_hosts=(*hosts, inside))
    assert fetch(address, target, named).size == len(BODY)


def test_no_redirect_leads_inside(server: Server, target: Path, inside: str) -> None:
    elsewhere = f"http://{inside}:{server.server_port}/b"
    server.answers |= {"/a": [Answer(status=302, headers={"Location": elsewhere})], "/b": [Answer(BODY)]}
    named = replace(GUARDED, allowed_hosts=("127.0.0.1", "*.example.org"))
    assert "leads to the internal address" in refused(f"{server.url}/a", target, named).problem
    assert [asked.path for asked in server.asked] == ["/a"]


def test_a_bucket_that_is_not_named_is_not_read_by_our_account(
    s3: Source, server: Server, target: Path
) -> None:
    strict = replace(s3, guarded=True)
    assert "the bucket lake is not one" in refused("s3://lake/requests/a", target, strict).problem
    assert server.asked == []
    server.answers["/data/a"] = [Answer(BODY)]
    assert fetch("s3://data/a", target, replace(strict, allowed_hosts=("data",))).size == len(BODY)


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"),
        *(
            "fec0::1",
            "feff::1",
            "64:ff9b:1::1",
            "64:ff9b:1:ffff::5db8:d822",
            "::127.0.0.1",
            "::93.184.216.34",
        ),
        *(
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "64:ff9b::a83f:8110",
            "2002:a83f:8110::1",
            "2002:7f00:1::",
        ),
        *("2001:0:7f00:1::1", "2001:0:53aa:64c:0:7fff:f5ff:fffe", "100.100.100.200", "192.0.0.192"),
        *(
            "192.88.99.1",
            "198.18.0.1",
            "::ffff:0:127.0.0.1",
            "2606:4700::5efe:7f00:1",
            "2606:4700::200:5efe:a00:1",
        ),
        *("100::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1", "240.0.0.1"),
    ],
)
def test_addresses_inside_are_known_as_such(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822", "168.63.129.17"],
)
def test_addresses_of_the_internet_are_known_as_such(address: str) -> None:
    assert is_public(address)


# --- sealed addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["{url}/a?signature=s3cret", "http://ann:s3cret@{host}/a", "{url}/a?id=1#part"]
)
def test_a_sealed_address_is_fetched_and_shows_nothing(
    server: Server, target: Path, tmp_path: Path, address: str
) -> None:
    full = address.format(url=server.url, host=server.url.removeprefix("http://"))
    seal = Seal(str(tmp_path / "home"))
    closed = seal.close(full)
    assert closed.startswith(f"{public(full)}?sealed=")
    assert not any(word in closed for word in ("s3cret", "ann", "signature"))
    assert seal.close(full) == closed
    assert (tmp_path / "home" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    server.answers["/a"] = [Answer(BODY)]
    assert fetch(closed, target, replace(QUICK, seal=seal)) == part(public(full))
    assert server.asked[-1].path == ("/a" if "ann" in full else full.removeprefix(server.url).split("#")[0])
    other = refused(closed, target.with_name("other"), replace(QUICK, seal=Seal(secret="another")))
    assert "sealed with another key" in other.problem


@pytest.mark.parametrize("address", ["https://host/a", "/folder/a?b", "file:///a", "s3://bucket/key"])
def test_an_address_that_everybody_may_see_needs_no_seal(tmp_path: Path, address: str) -> None:
    seal = Seal(str(tmp_path))
    assert seal.close(address) == seal.open(address) == address
    assert not list(tmp_path.iterdir())


def test_a_seal_opens_wherever_the_secret_is_the_same_and_only_for_its_own_address(tmp_path: Path) -> None:
    closed = Seal(str(tmp_path / "a"), "phrase").close("https://host/a?token=s3cret")
    assert Seal(str(tmp_path / "b"), "phrase").open(closed) == "https://host/a?token=s3cret"
    with pytest.raises(InputError):
        Seal(str(tmp_path), "phrase").open(closed.replace("//host", "//evil"))
    assert "phrase" not in repr(Seal("", "phrase"))


def test_processes_that_start_together_make_one_key(tmp_path: Path) -> None:
    seal = Seal(str(tmp_path))
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: seal.close("https://host/a?b"), range(32)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]

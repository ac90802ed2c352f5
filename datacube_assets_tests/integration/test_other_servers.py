"""S3 as other servers, accounts and proxies answer: a real server whose answers are changed on the way."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from datacube_assets.development.s3_server import S3Server
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.encode import CSV, JSON, Objects
from datacube_assets.storage import s3_client, s3_records, s3_retries
from datacube_assets.storage.copying import copy
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.leases import read_lease
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import Publication, complete
from datacube_assets.storage.stores import MissingObjectError, Store, StoreError, StoreUnavailable
from datacube_assets_tests.integration.faults import respond, serving
from datacube_assets_tests.integration.rivals import RUN, WHOLE, in_bucket, publish
from datacube_assets_tests.integration.test_leases import holder, lake_of
from datacube_assets_tests.integration.test_s3 import use

pytestmark = pytest.mark.timeout(120)


@dataclass
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    """What is said of the body, where it does not come."""


Change = Callable[[BaseHTTPRequestHandler, Callable[[], Answer]], Answer | None]
"""What is answered to a request, given what the server would; None: just that."""


@pytest.fixture
def server(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    use(monkeypatch, s3_server.environment())
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    return s3_server


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is tried again is tried again soon, and not for long."""
    quick = {
        "backoff": {
            "init_backoff": timedelta(milliseconds=10),
            "max_backoff": timedelta(milliseconds=20),
            "base": 2,
        },
        "max_retries": 1,
        "retry_timeout": timedelta(seconds=5),
    }
    for name in ("RETRIES", "BATCH_RETRIES", "PROBE_RETRIES"):
        monkeypatch.setattr(s3_client, name, quick)
    monkeypatch.setattr(s3_retries, "ASKED_AGAIN", (0.01, 0.01))
    monkeypatch.setattr(s3_retries, "PATIENCE", 1.0)
    monkeypatch.setattr(s3_records, "SETTLING", 0.2)
    s3_client.s3_client.cache_clear()
    yield
    s3_client.s3_client.cache_clear()


def altered(server: S3Server, change: Change) -> AbstractContextManager[str]:
    """The server behind something that changes what it answers; gives its address."""

    there = httpx.Client(base_url=server.endpoint, limits=httpx.Limits(max_connections=64))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

        def ask() -> Answer:
            done = there.request(
                handler.command, handler.path, content=body, headers=dict(handler.headers.items())
            )
            kept = ("etag", "last-modified", "content-type", "content-range")
            headers = {name: value for name, value in done.headers.items() if name.lower() in kept}
            length = int(done.headers.get("content-length") or 0) if handler.command == "HEAD" else None
            return Answer(done.status_code, done.content, headers, length)

        handler.__dict__["body"] = body
        given = change(handler, ask) or ask()
        respond(handler, given.status, given.body, given.headers, length=given.length)

    return serving(answer)


def error(status: int, code: str, message: str = "") -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())


def is_listing(handler: BaseHTTPRequestHandler) -> bool:
    return handler.command == "GET" and "prefix=" in handler.path


def is_batch(handler: BaseHTTPRequestHandler) -> bool:
    return handler.command == "POST" and urlsplit(handler.path).query.startswith("delete")


def url(bucket: str = "models") -> str:
    return f"s3://{bucket}/{uuid.uuid4().hex}"


def filled(server: S3Server, count: int = 3) -> tuple[str, Store]:
    """A prefix of its own with some objects, and the store as the server itself has it."""
    address = url()
    direct = open_store(address, server.endpoint)
    direct.put_many([f"model/run/{number:05}.csv" for number in range(count)], [b"1"] * count, CSV)
    return address, direct


# --- deleting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        error(501, "NotImplemented"),
        error(405, "MethodNotAllowed"),
        error(400, "InvalidArgument"),
        Answer(413, b"<html>413 Request Entity Too Large</html>"),
        Answer(200, b"<DeleteResult><Error><Key>x</Key><Code>X</Code><Message/></Error></DeleteResult>"),
    ],
    ids=["501", "405", "400", "413", "about another key"],
)
def test_a_server_that_deletes_no_batches_is_asked_to_delete_one_by_one(
    server: S3Server, refusal: Answer
) -> None:
    batches: list[str] = []

    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        if is_batch(handler):
            batches.append(handler.path)
            return refusal
        return None

    address, direct = filled(server, 20)
    with altered(server, change) as there:
        store = open_store(address, there)
        store.check("DATACUBE_LAKE")
        store.delete_many(["never there", *(f"model/run/{number:05}.csv" for number in range(10))])
        assert [key for key, _ in direct.list("")] == [
            f"model/run/{number:05}.csv" for number in range(10, 20)
        ]
        asked = len(batches)
        store.delete_many([key for key, _ in direct.list("")])
        assert list(direct.list("")) == []
        assert len(batches) == asked, "it is asked for a batch no second time"


def test_of_a_batch_with_something_missing_the_others_are_not_taken_for_deleted(server: S3Server) -> None:
    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        if is_batch(handler):
            keys = re.findall(r"<Key>(.*?)</Key>", handler.__dict__["body"].decode())
            codes = zip(keys, ("NoSuchKey", "AccessDenied"), strict=True)
            said = "".join(
                f"<Error><Key>{key}</Key><Code>{code}</Code><Message/></Error>" for key, code in codes
            )
            return Answer(200, f"<DeleteResult>{said}</DeleteResult>".encode())
        return error(403, "AccessDenied") if handler.command == "DELETE" and "00000" in handler.path else None

    address, direct = filled(server, 1)
    with altered(server, change) as there, pytest.raises(StoreError, match="may not delete here"):
        open_store(address, there).delete_many(["gone", "model/run/00000.csv"])
    assert len(list(direct.list(""))) == 1


@pytest.mark.parametrize("sign", ["\ufffe", "\uffff"])
def test_keys_that_no_xml_can_hold_are_deleted_with_others(server: S3Server, sign: str) -> None:
    _, direct = filled(server)
    direct.put(f"model/run/{sign}.csv", b"1")
    assert f"model/run/{sign}.csv" in [key for key, _ in direct.list("")]
    direct.delete_many([key for key, _ in direct.list("")])
    assert list(direct.list("")) == []


# --- conditional writes ----------------------------------------------------------------------------------


def is_conditional(handler: BaseHTTPRequestHandler) -> bool:
    return bool(handler.headers.get("If-Match") or handler.headers.get("If-None-Match"))


def refused(answer: Answer) -> Change:
    return lambda handler, ask: answer if is_conditional(handler) else None


def weakened(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer:
    """Tags as a proxy makes them that compresses answers."""
    given = ask()
    given.headers = {
        name: f"W/{value}" if name.lower() == "etag" else value for name, value in given.headers.items()
    }
    return given


@pytest.mark.parametrize(
    "change",
    [
        refused(error(400, "InvalidArgument")),
        refused(error(405, "MethodNotAllowed")),
        refused(error(403, "AccessDenied")),
        refused(error(501, "NotImplemented")),
        refused(error(409, "ConditionalRequestConflict")),
        lambda handler, ask: error(412, "PreconditionFailed") if handler.headers.get("If-Match") else None,
        weakened,
    ],
    ids=["400", "405", "403", "501", "409", "no tag holds", "tags are weakened"],
)
def test_where_conditions_do_not_work_homes_publish_one_after_the_other(
    server: S3Server, tmp_path: Path, change: Change
) -> None:
    with altered(server, change) as there:
        bucket = open_store(url(), there)
        assert not bucket.swaps_for_sure()
        publish(lake_of(tmp_path, "one"), bucket, "a", holder("one"))
        publish(lake_of(tmp_path, "two"), bucket, "b", holder("two"))
        assert in_bucket(bucket) == WHOLE["b"]


def test_an_account_that_may_not_write_is_not_taken_for_a_server_without_conditions(server: S3Server) -> None:
    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        return error(403, "AccessDenied") if handler.command == "PUT" else None

    with altered(server, change) as there:
        for _ in range(40):  # Names of trials are random, and may hold the number of any status.
            with pytest.raises(StoreError, match="may not write here"):
                open_store(url(), there).swaps_for_sure()


# --- accounts that may do less ---------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [True, False], ids=["leases too", "no leases"])
def test_an_account_that_may_write_no_leases_is_found_out_at_the_start(
    server: S3Server, allowed: bool
) -> None:
    """A policy that limits the account to the keys of its models, with or without those of leases."""
    may = ("/model/", "/.datacube~/") if allowed else ("/model/",)

    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        writes = handler.command in ("PUT", "DELETE")
        return (
            error(403, "AccessDenied")
            if writes and not any(one in unquote(handler.path) for one in may)
            else None
        )

    with altered(server, change) as there:
        bucket = open_store(url(), there)
        if allowed:
            bucket.check("DATACUBE_MODELS_BUCKET")
            return
        with pytest.raises(StoreError, match="may not write here"):
            bucket.check("DATACUBE_MODELS_BUCKET")


# --- what is no answer of S3 -----------------------------------------------------------------------------

NO_BACKEND = Answer(404, b"default backend - 404", {"Content-Type": "text/plain"})


def test_what_a_proxy_does_not_find_is_not_taken_for_missing(server: S3Server) -> None:
    """Kubernetes' ingress, for one, answers so while the server behind it is away."""
    address, direct = filled(server)
    direct.put("model/run/results/results.json", b"{}")
    with altered(server, lambda handler, ask: NO_BACKEND) as there:
        store = open_store(address, there)
        for ask in (
            lambda: store.get("model/run/00000.csv"),
            lambda: store.open("model/run/00000.csv"),
            lambda: store.tail("model/run/00000.csv", 8),
            lambda: read_lease(store, ModelRun("model", "run")),
            lambda: list(store.list("model/run/")),
            lambda: store.put("model/run/a\nb", b"1"),
            lambda: store.get("model/run/a\nb"),
            lambda: store.put_many(["model/run/new.csv"], [b"1"], CSV),
            lambda: store.delete_many(["model/run/results/results.json"]),
        ):
            with pytest.raises(StoreUnavailable, match="404, and not as S3 does"):
                ask()
        with pytest.raises(StoreError, match=r"answers 404 .* Correct DATACUBE_LAKE or DATACUBE_S3_ENDPOINT"):
            store.check("DATACUBE_LAKE")
    with pytest.raises(MissingObjectError):
        direct.open("model/run/none.csv")


def test_a_single_request_that_a_proxy_does_not_find_is_asked_for_again(server: S3Server) -> None:
    asked: list[str] = []

    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        asked.append(handler.path)
        return NO_BACKEND if len(asked) == 1 else None

    address, _ = filled(server)
    with altered(server, change) as there:
        store = open_store(address, there)

        def opened() -> bytes:
            file = store.open("model/run/00000.csv")
            assert not isinstance(file, str)
            return file.read()

        assert store.get("model/run/00000.csv") == b"1"
        asked.clear()
        assert store.tail("model/run/00000.csv", 8) == b"1"
        asked.clear()
        assert opened() == b"1"
        asked.clear()
        assert len(list(store.list("model/run/"))) == 3


def test_an_answer_without_a_text_is_explained_by_another(server: S3Server) -> None:
    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer:
        return Answer(400) if handler.command == "HEAD" else error(400, "ExpiredToken")

    with (
        altered(server, change) as there,
        pytest.raises(StoreError, match=r"refuses the credentials \(Expired"),
    ):
        open_store(url(), there).open("model/run/a.parquet")


@pytest.mark.parametrize("half", [True, False], ids=["broken off", "redirected"])
def test_keys_with_control_characters_meet_faults_as_others_do(server: S3Server, half: bool) -> None:
    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        if half and handler.command == "GET":
            handler.close_connection = True
            return Answer(200, b"1", {"ETag": '"0"'}, length=100)
        return None if half else Answer(301, b"", {"Location": f"{server.endpoint}{handler.path}"})

    address, direct = filled(server)
    direct.put("model/run/a\nb", b"1")
    with altered(server, change) as there, pytest.raises(StoreUnavailable):
        open_store(address, there).get("model/run/a\nb")


def test_keys_with_control_characters_are_written_where_checksums_of_aws_are_refused(
    server: S3Server,
) -> None:
    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        told = any(
            name.lower().startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for name in handler.headers
        )
        return error(400, "InvalidArgument", "unsupported header") if told else None

    address, direct = filled(server)
    with altered(server, change) as there:
        open_store(address, there).put("model/run/a\nb", b"1")
    assert direct.get("model/run/a\nb") == b"1"


KMS = (
    "User: arn:aws:iam::1:user/x is not authorized to perform: kms:GenerateDataKey on resource: "
    "arn:aws:kms:us-east-1:1:key/2 because no identity-based policy allows the kms:GenerateDataKey action"
)
LOCKED = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock"


@pytest.mark.parametrize(
    ("answer", "said", "passes"),
    [
        (error(403, "InvalidObjectState"), r"archived, as in Glacier.* Restore it", False),
        (error(403, "QuotaExceeded"), r"no room left \(QuotaExceeded\)\. Make room", True),
        (error(403, "AccessDenied", KMS), r"Give it kms:GenerateDataKey for it", False),
        (error(403, "AccessDenied"), r"Give it s3:GetObject and s3:ListBucket \(without which", False),
        (Answer(403, b"<html>blocked</html>"), r"whether a proxy before the server refuses it", False),
        (error(400, "InvalidRequest", LOCKED), r"Set AWS_CHECKSUM_ALGORITHM=SHA256", False),
        (Answer(413, b"<html>413</html>"), r"takes no request of that size.*client_max_body_size", False),
        (error(501, "NotImplemented"), r"answers 501 NotImplemented: it does not know how to read", False),
    ],
    ids=lambda value: None if not isinstance(value, Answer) else f"{value.status}",
)
def test_what_a_server_refuses_is_told_with_what_helps(
    server: S3Server, answer: Answer, said: str, passes: bool
) -> None:
    with (
        altered(server, lambda handler, ask: answer) as there,
        pytest.raises(StoreError, match=said) as caught,
    ):
        open_store(url(), there).tail("a.json", 8)
    assert isinstance(caught.value, StoreUnavailable) is passes


def test_an_upload_in_parts_that_somebody_cleared_away_is_made_again(server: S3Server) -> None:
    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        return error(404, "NoSuchUpload") if "uploadId" in handler.path else None

    with altered(server, change) as there, pytest.raises(StoreUnavailable, match="NoSuchUpload"):
        open_store(url(), there).put("a.parquet", b"1" * 12_000_000)


def test_a_word_of_the_servers_in_a_key_explains_nothing(server: S3Server) -> None:
    with (
        altered(server, lambda handler, ask: error(400, "BadDigest")) as there,
        pytest.raises(StoreError, match="answers 400 BadDigest"),
    ):
        open_store(url(), there).get("redirect-model/credential/a.csv")


def test_the_end_of_an_object_is_read_where_ranges_from_the_end_are_not_known(server: S3Server) -> None:
    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        return error(416, "InvalidRange") if str(handler.headers.get("Range")).startswith("bytes=-") else None

    address, direct = filled(server)
    direct.put("a.parquet", b"0123456789")
    with altered(server, change) as there:
        assert open_store(address, there).tail("a.parquet", 4) == b"6789"


_WHILE_IT_IS_IMPORTED = """
import sys, threading, time
from datacube_assets.storage.opening import open_store

class Slow:
    def find_spec(name, path=None, target=None):
        if name == "obstore._obstore":
            imported.set()
            time.sleep(1)

store = open_store(sys.argv[1], sys.argv[2])
imported = threading.Event()
sys.meta_path.insert(0, Slow)
threading.Thread(target=lambda: __import__("obstore")).start()
imported.wait()
print(list(store.list("nothing/")))
"""


def test_the_first_requests_of_several_threads_do_not_find_half_a_client(server: S3Server) -> None:
    """As `datacube status` asks, whose first lines told of an error of Python instead of the store."""
    done = subprocess.run(
        [sys.executable, "-c", _WHILE_IT_IS_IMPORTED, url(), server.endpoint],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# --- listings --------------------------------------------------------------------------------------------


def done(*_: object) -> None:
    """Nobody looks at the progress."""


def datacube(server: S3Server, folder: Path, count: int) -> tuple[Lake, Store]:
    """A complete datacube of so many objects, and its lake."""
    lake, bucket = lake_of(folder, "lake"), open_store(url(), server.endpoint)
    objects = Objects.of([(f"maps/{number:05}.csv", b"1\n") for number in range(count - 1)], CSV)
    publication = Publication.begin(lake, bucket, RUN, "maps", "v1", "first")
    published, fragments = publication.publish("maps", [objects])
    publication.finish(published, {"maps": fragments})
    complete(lake, bucket, RUN, "v1", "first", b"{}", ["maps"])
    return lake, bucket


def put_by_others(server: S3Server, store: Store, *keys: str) -> None:
    place = urlsplit(store.url)
    for key in keys:
        server.client().put_object(Bucket=place.netloc, Key=f"{place.path[1:]}/{key}", Body=b"")


def test_markers_of_folders_are_no_objects(server: S3Server, tmp_path: Path) -> None:
    """The console of AWS and s3fs make them, in the bucket of another and in one's own."""
    lake, bucket = datacube(server, tmp_path, 20)
    markers = [RUN.prefix, f"{RUN.prefix}maps/", f"{RUN.prefix}empty/"]
    put_by_others(server, bucket, *markers)
    target = open_store((tmp_path / "copy").as_uri())
    assert copy(lake, bucket, target, RUN, done).objects == 20
    keys = sorted(key for key, _ in bucket.list(RUN.prefix))
    assert keys == sorted(key for key, _ in target.list(RUN.prefix))
    assert sorted(entry.key for entry in bucket.entries("")) == keys
    # Who takes over, empties the folder of what is there.
    put_by_others(server, bucket, *markers)
    publish(lake_of(tmp_path, "two"), bucket, "b", holder("two"))
    assert in_bucket(bucket) == WHOLE["b"]


def listed(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer], *keys: str) -> Answer | None:
    """A listing with further keys."""
    if not is_listing(handler):
        return None
    prefix = unquote(handler.path.partition("&prefix=")[2].partition("&")[0]).split("/")[0]
    more = "".join(
        f"<Contents><Key>{prefix}/{key}</Key><Size>1</Size><ETag>0</ETag>"
        "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    given = ask()
    given.body = given.body.replace(b"<Contents>", f"{more}<Contents>".encode(), 1)
    return given


def test_keys_that_no_store_of_ours_can_hold_stop_nobody(server: S3Server, tmp_path: Path) -> None:
    odd = (f"{RUN.prefix}/double.csv", f"{RUN.prefix}./dot.csv", f"{RUN.prefix}folder/")
    with altered(server, lambda handler, ask: listed(handler, ask, *odd)) as there:
        bucket = open_store(url(), there)
        publish(lake_of(tmp_path, "one"), bucket, "a", holder("one"))
        publish(lake_of(tmp_path, "two"), bucket, "b", holder("two"))
        assert in_bucket(bucket) == WHOLE["b"]


def old_way(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
    """A server that knows no listing but the first one of S3, and does not look at what it does not know."""
    if not is_listing(handler):
        return None
    given = ask()
    given.body = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", given.body)
    if "list-type" in handler.path and "start-after" in handler.path:
        given.body = given.body.replace(b"</Name>", b"</Name><Contents></Contents>", 1)
    return given


def test_a_server_that_only_lists_the_older_way_is_listed_to_the_end(
    server: S3Server, tmp_path: Path
) -> None:
    lake, bucket = datacube(server, tmp_path, 1200)
    with altered(server, old_way) as there:
        far = open_store(bucket.url, there)
        assert copy(lake, far, open_store((tmp_path / "copy").as_uri()), RUN, done).objects == 1200
        assert far.listing(RUN.prefix).num_rows == 1200
        many = open_store(url(), there)
        many.put_many([f"{number:04}/a.csv" for number in range(1001)], [b"1"] * 1001, CSV)
        assert len(many.folders("")) == 1001


def test_a_listing_that_begins_again_and_again_comes_to_an_end(server: S3Server, tmp_path: Path) -> None:
    first: dict[str, Any] = {}

    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        return first.setdefault("page", ask()) if is_listing(handler) else None

    _, bucket = datacube(server, tmp_path, 1200)
    with altered(server, change) as there:
        far = open_store(bucket.url, there)
        with pytest.raises(StoreError, match="lists the same keys again and again"):
            far.listing(RUN.prefix)


def test_entries_come_folder_by_folder_whatever_the_order_of_the_server(server: S3Server) -> None:
    """Directory buckets of AWS, for one, list in no order."""

    def change(handler: BaseHTTPRequestHandler, ask: Callable[[], Answer]) -> Answer | None:
        if not is_listing(handler):
            return None
        given = ask()
        found = re.findall(rb"<Contents>.*?</Contents>", given.body)
        body = re.sub(rb"<Contents>.*</Contents>", b"", given.body)
        shuffled = b"".join([*found[::2], *found[1::2]])
        given.body = body.replace(b"</ListBucketResult>", shuffled + b"</ListBucketResult>")
        return given

    direct = open_store(url(), server.endpoint)
    keys = [f"runs/{folder}/{name}" for folder in ("a", "a-b", "b") for name in ("x", "y", "z")]
    direct.put_many(keys, [b"1"] * len(keys), JSON)
    with altered(server, change) as there:
        assert [entry.key for entry in open_store(direct.url, there).entries("runs/")] == keys

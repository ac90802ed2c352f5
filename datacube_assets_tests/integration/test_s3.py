"""Lake and buckets on a real S3 server, looked at with boto3: nothing of ours judges what was written."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacube_assets.cli import main
from datacube_assets.development.s3_server import ACCESS_KEY, READER_KEY, READER_SECRET, SECRET_KEY, S3Server
from datacube_assets.development.sample import write_sample_requests
from datacube_assets.development.simulator_http import in_background
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.encode import CSV, JSON, PROTOBUF, Objects
from datacube_assets.kernels.key_safety import UnsafeKeyError
from datacube_assets.operations.publish import process
from datacube_assets.settings import Settings, SettingsError
from datacube_assets.storage import copying, s3, s3_retries
from datacube_assets.storage.copying import copy
from datacube_assets.storage.lake import Lake, LakeTable, TableFile
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import IncompleteDatacubeError, Publication, complete, manifest
from datacube_assets.storage.stores import OWN, MissingObjectError, Store, StoreError, StoreUnavailable
from datacube_assets.view.server import application
from datacube_assets_tests.integration.faults import Dice, Fault, proxy, respond, serving
from datacube_assets_tests.integration.support import House, rows
from datacube_assets_tests.unit import kernel_helpers

RUN = ModelRun("model", "run")
RESULTS = "model/run/results/results.json"
ODD = [
    "a b",
    " leading",
    "trailing ",
    "100%",
    "%2E%2E",
    "a+b&c<d>e",
    "é/ü",
    "e\u0301",
    "naïve/日本",
    "q'\"`",
    "#h",
    "[x]{y}^|",
    "~t",
    "a:b;c,d=e?f@g!$*()",
    "trailing./x",
    "...",
    "..a",
    "-1-0.tile",
    "\u00a0x",
    "line\nbreak",
    "tab\tand\rreturn\r\n",
    "\x01\x1f\x7f/\x1b",
]


@dataclass
class Account:
    """The server as seen by the account whose variables are set, with a prefix nobody else uses."""

    server: S3Server
    prefix: str
    client: Any

    def url(self, bucket: str = "models") -> str:
        return f"s3://{bucket}/{self.prefix}"

    def store(self, bucket: str = "models", endpoint: str = "") -> Store:
        return open_store(self.url(bucket), endpoint or self.server.endpoint)

    def listed(self, bucket: str = "models") -> list[str]:
        """Keys without the prefix."""
        return list(self.checksums(bucket))

    def checksums(self, bucket: str = "models") -> dict[str, str]:
        """MD5 by key, as the server tells it of objects that came in one request; leases are left out."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{self.prefix}/")
        items = [item for page in pages for item in page.get("Contents", [])]
        sums = {item["Key"][len(self.prefix) + 1 :]: item["ETag"].strip('"') for item in items}
        return {key: sum_ for key, sum_ in sums.items() if not key.startswith(f"{OWN}/")}

    def head(self, key: str, bucket: str = "models") -> Any:
        return self.client.head_object(Bucket=bucket, Key=f"{self.prefix}/{key}")

    def read(self, key: str, bucket: str = "models") -> bytes:
        body: bytes = self.client.get_object(Bucket=bucket, Key=f"{self.prefix}/{key}")["Body"].read()
        return body


def use(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set these AWS variables and no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # What is not in variables and files shall not be looked for on the network.
    for name, value in {**variables, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def account(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Account:
    use(monkeypatch, s3_server.environment())
    return Account(s3_server, f"test {uuid.uuid4().hex[:8]}", s3_server.client())


def settled(account: Account, house: House) -> House:
    """The house with lake and buckets on S3."""
    return house.with_settings(
        lake=account.url("lake"),
        models_bucket=account.url("models"),
        indicators_bucket=account.url("indicators"),
        s3_endpoint=account.server.endpoint,
    )


# --- publishing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "which", [pytest.param(0, id="crops", marks=pytest.mark.slow), pytest.param(-1, id="prices")]
)
def test_the_sample_is_published_on_s3_as_it_is_in_folders_and_only_once(
    which: int, account: Account, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = write_sample_requests(house.folder / "sample")[which]
    far = settled(account, house)
    near = process(house.settings, house.instance, request, lambda asset, metadata, done: None)
    outcome = process(far.settings, far.instance, request, lambda asset, metadata, done: None)
    assert outcome.total("objects written") == near.total("objects") > 300
    folder = house.bucket(indicators=request.is_indicator)
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert account.checksums("indicators" if request.is_indicator else "models") == {
        key: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for key, path in here.items()
    }
    assert all(key.startswith("runs/") for key in account.listed("lake"))
    written: list[object] = []
    monkeypatch.setattr(s3.S3, "put_many", lambda *arguments: written.append(arguments))
    again = process(far.settings, far.instance, request, lambda asset, metadata, done: None)
    assert again.total("objects written") == 0
    assert written == []


def test_objects_say_what_they_are(account: Account, house: House) -> None:
    settled(account, house).publish(rows())
    kinds = {key: account.head(key)["ContentType"] for key in account.listed()}
    expected = {".csv": CSV, ".json": JSON, ".tile": PROTOBUF}
    assert {Path(key).suffix for key in kinds} == set(expected)
    assert {key: kind for key, kind in kinds.items() if kind != expected[Path(key).suffix]} == {}
    tables = {Path(key).suffix: account.head(key, "lake")["ContentType"] for key in account.listed("lake")}
    assert tables == {".json": "application/json", ".parquet": "application/vnd.apache.parquet"}


def test_batches_hold_no_more_requests_in_flight_than_is_said(account: Account) -> None:
    with proxy(account.server.endpoint, delay=0.05) as between:
        store = account.store(endpoint=between.url)
        keys = [f"{number}.json" for number in range(200)]
        halves = (keys[::2], keys[1::2])
        threads = [
            threading.Thread(target=store.put_many, args=(half, [b"1"] * 100, JSON)) for half in halves
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(account.listed()) == sorted(keys)
        assert 32 < between.most_at_once <= s3_retries.MAX_CONCURRENCY


def test_large_objects_of_any_kind_of_memory_arrive_whole(account: Account, tmp_path: Path) -> None:
    body = random.Random(1).randbytes(12_000_000)
    (tmp_path / "file").write_bytes(body)
    store = account.store("lake")
    store.put("large.parquet", memoryview(pa.py_buffer(body)))
    store.put_many(["a.csv", "b.csv"], [memoryview(bytearray(body))[1:], body], CSV)
    store.put_file("file.parquet", tmp_path / "file")
    assert store.get("large.parquet") == store.get("b.csv") == store.get("file.parquet") == body
    assert store.get("a.csv") == body[1:]
    kinds = [account.head(key, "lake")["ContentType"] for key in ("large.parquet", "file.parquet", "a.csv")]
    assert kinds == ["application/vnd.apache.parquet", "application/vnd.apache.parquet", CSV]


# --- keys ------------------------------------------------------------------------------------------


def test_odd_keys_are_those_that_the_reader_asks_for(account: Account) -> None:
    store = account.store()
    store.put_many(ODD, [key.encode() for key in ODD], CSV)
    assert sorted(account.listed()) == sorted(ODD)
    for key in ODD:
        assert account.read(key) == key.encode()
        assert account.head(key)["ContentType"] == CSV
    assert sorted(key for key, _ in store.list("")) == sorted(ODD)
    assert [store.get(key) for key in ODD] == [key.encode() for key in ODD]
    store.delete_many(ODD)
    assert account.listed() == []


def test_a_backslash_leaves_as_a_backslash(account: Account) -> None:
    # The server of these tests makes a slash of it; what is asked of it is what counts.
    with proxy(account.server.endpoint) as between:
        account.store(endpoint=between.url).put("back\\slash", b"1")
    assert [unquote(path).split("/")[-1] for _, path in between.requests] == ["back\\slash"]


def test_a_listing_with_nothing_but_a_control_character_is_right(account: Account) -> None:
    store = account.store()
    store.put_many(["a\x01b.csv", "plain.csv"], [b"1", b"2"], CSV)
    assert sorted(key for key, _ in store.list("")) == ["a\x01b.csv", "plain.csv"]
    assert sorted(store.listing("")["key"].to_pylist()) == ["a\x01b.csv", "plain.csv"]
    store.put("a\tb.csv", b"3")
    assert (store.get("a\tb.csv"), store.tail("a\tb.csv", 1)) == (b"3", b"3")
    with pytest.raises(MissingObjectError):
        store.get("b\tb.csv")


def test_keys_with_parts_longer_than_file_names_are_left_out_where_the_server_refuses_them(
    account: Account, house: House
) -> None:
    long = "n" * 300
    assert account.store().storable([f"{long}.csv", "a/" * 200, "short.csv"]).tolist() == [False, True, True]
    outcome = settled(account, house).publish(rows(country=[long, "Kenya", long, "Kenya"], admin1=None))
    assert outcome.assets["regional_timeseries"]["objects"] == 2
    left = {
        name: value for name, value in outcome.assets["regional_timeseries"].items() if "left out" in name
    }
    assert list(left.values()) == [2]
    assert "model/run/results/results.json" in account.listed()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(400, b"<Error><Code>KeyTooLongError</Code></Error>", id="says so"),
        pytest.param(400, b"<Error><Code>XMinioInvalidObjectName</Code></Error>", id="calls it invalid"),
        pytest.param(200, b"", id="takes it and has it not"),
    ],
)
def test_servers_refuse_long_parts_in_ways_of_their_own(account: Account, status: int, body: bytes) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        respond(handler, status if handler.command == "PUT" else 404, body, {"ETag": '"0"'})

    with serving(answer) as url:
        store = account.store(endpoint=url)
        assert store.storable([f"{'n' * 300}.csv", "short.csv"]).tolist() == [False, True]


def below(key: str) -> list[str]:
    return [f"run/year/rain/regional/country/timeseries/default/{name}" for name in (key, f"{key}/B.csv")]


def test_keys_that_go_on_from_objects_are_kept_where_the_server_keeps_both(account: Account) -> None:
    store = account.store()
    assert store.storable(below("A.csv")).tolist() == [True, True]
    assert account.listed() == [], "nothing of the trial is left"
    # Sent at the same time, one of two in a new folder was lost every twelfth time.
    for number in range(40):
        keys = [f"{number}/{key}" for key in below("A.csv")]
        store.put_many(keys, [b"1", b"2"], CSV)
        assert [store.get(key) for key in keys] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(400, b"<Error><Code>XMinioParentIsObject</Code></Error>", id="refuses it"),
        pytest.param(200, b"", id="takes it and does not list it"),
    ],
)
def test_keys_that_go_on_from_objects_are_left_out_where_the_server_hides_them(
    account: Account, status: int, body: bytes
) -> None:
    there: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = unquote(handler.path.partition("?")[0])
        if handler.command == "PUT":
            if path.endswith("/below"):
                return respond(handler, status, body, {"ETag": '"0"'})
            there.append(path)
            return respond(handler, 200, b"", {"ETag": '"0"'})
        if handler.command == "GET":
            listed = "".join(
                f"<Contents><Key>{one.removeprefix('/models/')}</Key><Size>0</Size>"
                "<LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>0</ETag></Contents>"
                for one in there
            )
            return respond(handler, 200, f"<ListBucketResult>{listed}</ListBucketResult>".encode(), {})
        if handler.command == "HEAD":
            times = {"ETag": '"0"', "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
            return respond(handler, 200, b"", times)
        return respond(handler, 200, b"<DeleteResult><Deleted><Key>a</Key></Deleted></DeleteResult>", {})

    with serving(answer) as url:
        store = account.store(endpoint=url)
        assert store.storable(below("A.csv")).tolist() == [True, False]
        assert store.storable(below("A/B")).tolist() == [True, True], "nothing is left out without a cause"


@pytest.mark.parametrize("key", ["a\x00b", "../x", "a//b", "a/"])
def test_an_unsafe_key_is_refused_before_anything_is_sent(account: Account, key: str) -> None:
    store = account.store()
    with pytest.raises(UnsafeKeyError):
        store.put(key, b"1")
    with pytest.raises(UnsafeKeyError):
        store.put_many(["a", key], [b"1", b"2"], CSV)
    with pytest.raises(UnsafeKeyError):
        store.delete_many(["a", key])
    assert account.listed() == []


def test_thousands_of_objects_are_deleted_and_none_beside_them(account: Account) -> None:
    store = account.store()
    gone = [f"gone/{number}&<%> +é.csv" for number in range(2100)]
    store.put_many([*gone, "gone.csv", "stays"], [b""] * (len(gone) + 2), CSV)
    store.delete_many([*gone, "never there"])
    assert account.listed() == ["gone.csv", "stays"]
    store.delete_many([])


def test_what_is_not_there_is_missing(account: Account) -> None:
    with pytest.raises(MissingObjectError):
        account.store().get("nothing")
    assert list(account.store().list("nothing/")) == []


# --- what is wrong is said at the start --------------------------------------------------------------


def failure(attempt: Callable[[], object]) -> str:
    """What a refusal says; it comes soon, and tells no secret."""
    started = time.monotonic()
    with pytest.raises((StoreError, SettingsError)) as caught:
        attempt()
    assert time.monotonic() - started < 5
    said = str(caught.value)
    assert SECRET_KEY not in said
    assert READER_SECRET not in said
    assert "\n" not in said
    return said


def test_a_missing_bucket_is_named_with_the_setting_to_correct(account: Account) -> None:
    store = open_store("s3://no-such-bucket/x", account.server.endpoint)
    assert failure(lambda: store.check("DATACUBE_LAKE")) == (
        "s3://no-such-bucket/x: there is no bucket 'no-such-bucket' at "
        f"{account.server.endpoint}. Create it, or correct DATACUBE_LAKE"
    )


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [("nobody", SECRET_KEY, "InvalidAccessKeyId"), (ACCESS_KEY, "wrong", "SignatureDoesNotMatch")],
)
def test_refused_credentials_are_told_from_everything_else(
    account: Account, monkeypatch: pytest.MonkeyPatch, key: str, secret: str, code: str
) -> None:
    use(monkeypatch, account.server.environment(key, secret))
    said = failure(lambda: account.store().check("DATACUBE_LAKE"))
    assert f"refuses the credentials ({code}). Correct AWS_ACCESS_KEY_ID" in said


def test_an_account_that_may_only_read_is_found_out_before_it_has_to_write(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, account.server.environment(READER_KEY, READER_SECRET))
    store = account.store()
    store.check("DATACUBE_MODELS_BUCKET", write=False)
    said = failure(lambda: store.check("DATACUBE_MODELS_BUCKET"))
    assert "the account may not write here (AccessDenied). Give it s3:PutObject" in said
    assert "correct DATACUBE_MODELS_BUCKET" in said
    assert "may not write" in failure(lambda: store.put_many(["a", "b"], [b"1", b"2"], CSV))
    assert "may not delete" in failure(lambda: store.delete_many(["a"]))
    assert account.listed() == []


def test_a_server_that_is_not_there_is_told_from_one_that_refuses(account: Account) -> None:
    with pytest.raises(
        StoreUnavailable, match=r"http://127.0.0.1:9 cannot be reached\. Correct DATACUBE_S3_ENDPOINT"
    ):
        account.store(endpoint="http://127.0.0.1:9").check("DATACUBE_LAKE")


def test_a_check_leaves_nothing_behind(account: Account) -> None:
    account.store().check("DATACUBE_LAKE")
    assert account.listed() == []


def test_a_folder_that_cannot_be_one_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LocalStore((tmp_path / "file" / "lake").as_uri())
    assert f"{tmp_path}/file is no folder. Move it, or correct DATACUBE_LAKE" in failure(
        lambda: store.check("DATACUBE_LAKE")
    )
    LocalStore((tmp_path / "yet" / "to be made").as_uri()).check("DATACUBE_LAKE")
    assert not (tmp_path / "yet").exists()


def test_a_run_that_could_not_publish_fails_in_its_first_step(account: Account, house: House) -> None:
    far = settled(account, house).with_settings(models_bucket="s3://no-such-bucket")
    said = failure(lambda: far.publish(rows()))
    assert "no bucket 'no-such-bucket'" in said
    assert "DATACUBE_MODELS_BUCKET" in said
    assert [key for key in account.listed("lake") if "raw_dojo_output" in key] == []
    said = failure(lambda: far.publish(rows(), model_bucket="named-bucket"))
    assert "no bucket 'named-bucket'" in said
    assert "correct the bucket that the request names" in said


def test_the_command_says_it_in_one_line(
    account: Account, house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, account.server.environment(secret_key="wrong"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    part = house.write(rows())
    home = ("--home", str(house.folder), "--lake", account.url("lake"))
    with pytest.raises(SystemExit) as ended:
        main.main(["publish", part, "--model-id", "m", "--run-id", "r", *home], prog_name="datacube")
    assert ended.value.code == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "refuses the credentials (SignatureDoesNotMatch)" in err


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://key:secret-of-mine@127.0.0.1:9000"]
)
def test_an_endpoint_that_is_none_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("DATACUBE_S3_ENDPOINT", endpoint)
    with pytest.raises(SettingsError, match="DATACUBE_S3_ENDPOINT") as caught:
        Settings.from_environment()
    assert "secret-of-mine" not in str(caught.value)


def test_the_endpoint_of_aws_own_variables_is_used_unless_ours_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATACUBE_S3_ENDPOINT", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all:1")
    assert Settings.from_environment().s3_endpoint == "http://all:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:1")
    assert Settings.from_environment().s3_endpoint == "http://s3:1"
    monkeypatch.setenv("DATACUBE_S3_ENDPOINT", "http://ours:1")
    assert Settings.from_environment().s3_endpoint == "http://ours:1"


# --- credentials from the usual places -----------------------------------------------------------------


def test_a_profile_of_the_shared_files_is_used(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = {READER_KEY}\naws_secret_access_key = {READER_SECRET}\n"
        f"[publisher]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }
    use(monkeypatch, files)
    assert "may not write" in failure(lambda: account.store().check("DATACUBE_LAKE"))
    use(monkeypatch, files | {"AWS_PROFILE": "publisher"})
    account.store().check("DATACUBE_LAKE")
    use(monkeypatch, files | {"AWS_PROFILE": "misspelt"})
    assert "The config profile (misspelt) could not be found" in failure(
        lambda: account.store().check("DATACUBE_LAKE")
    )


def test_credentials_of_a_container_are_fetched_and_used(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {
        "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY,
        "Token": "",
        "Expiration": "2999-01-01T00:00:00Z",
    }
    with serving(lambda handler: respond(handler, 200, json.dumps(answer).encode())) as url:
        use(
            monkeypatch,
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/role",
                "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
                "AWS_CONFIG_FILE": str(tmp_path / "none"),
            },
        )
        account.store().check("DATACUBE_LAKE")


def test_no_credentials_at_all_are_an_error_of_their_own(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = str(tmp_path / "none")
    use(monkeypatch, {"AWS_SHARED_CREDENTIALS_FILE": none, "AWS_CONFIG_FILE": none})
    assert "there are no credentials for S3" in failure(lambda: account.store().check("DATACUBE_LAKE"))


# --- throttling and failing servers --------------------------------------------------------------------


def objects(count: int, version: int = 1) -> Objects:
    return Objects.of({f"{number:04}.json": b"%d" % (number * version) for number in range(count)}, JSON)


def publish(account: Account, bucket: Store, what: Objects, version: str = "v1") -> int:
    lake = Lake(account.store("lake"))
    publication = Publication.begin(lake, bucket, RUN, "maps", version, uuid.uuid4().hex)
    published, names = publication.publish("work", [what])
    return publication.finish(published, {"work": names}).put


def test_a_server_that_says_slow_down_is_asked_more_slowly_and_gets_everything(account: Account) -> None:
    with proxy(account.server.endpoint, Dice(0.4, ways=["503"])) as between:
        store = account.store(endpoint=between.url)
        assert publish(account, store, objects(600)) == 600
        assert between.broken["503"] > 200
        store.delete_many([f"model/run/{number:04}.json" for number in range(600)])
    assert account.listed() == []


def test_fewer_requests_are_sent_at_once_while_a_server_refuses_and_more_again_afterwards(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_retries, "FIRST_PAUSE", 0.05)
    end = time.monotonic() + 3

    def refused(method: str, path: str) -> Fault | None:
        return "503" if time.monotonic() < end else None

    with proxy(account.server.endpoint, refused) as between:
        store = account.store(endpoint=between.url)
        throttle = s3_retries.throttle(between.url)
        limits = []
        publishing = threading.Thread(target=publish, args=(account, store, objects(400)))
        publishing.start()
        while publishing.is_alive():
            limits.append(throttle.limit)
            time.sleep(0.05)
    assert len(account.listed()) == 400
    assert min(limits) <= s3_retries.MAX_CONCURRENCY / 4
    assert throttle.limit > min(limits)


def test_a_server_that_stays_away_fails_the_publication_in_the_end(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_retries, "PATIENCE", 1.0)
    with proxy(account.server.endpoint, lambda method, path: "503") as between:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="answers 503 SlowDown again and again"):
            publish(account, account.store(endpoint=between.url), objects(20))
    assert time.monotonic() - started < 20


def test_an_object_that_is_refused_for_good_ends_the_batch_at_once(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, account.server.environment(READER_KEY, READER_SECRET))
    with proxy(account.server.endpoint) as between:
        store = account.store(endpoint=between.url)
        failure(lambda: store.put_many([str(n) for n in range(1000)], [b"1"] * 1000, CSV))
    assert len(between.requests) <= 2 * s3_retries.MAX_CONCURRENCY


# --- copying -------------------------------------------------------------------------------------------


def done(*_: object) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def datacube(account: Account) -> tuple[Lake, Store]:
    """A complete datacube of 50 objects and results.json."""
    lake, bucket = Lake(account.store("lake")), account.store()
    publish(account, bucket, objects(50))
    complete(lake, bucket, RUN, "v1", "first", b"{}", ["maps"])
    return lake, bucket


def test_a_copy_has_the_same_objects_of_the_same_kinds(
    account: Account, datacube: tuple[Lake, Store]
) -> None:
    lake, source = datacube
    source.put_many(["model/run/a b+é.csv", "model/run/x.tile"], [b"1", b""], CSV)
    target = account.store("indicators")
    copied = copy(lake, source, target, RUN, done)
    assert (copied.objects, copied.deleted) == (53, 0)
    assert sorted(account.listed("indicators")) == sorted(account.listed())
    for key in account.listed():
        assert account.read(key, "indicators") == account.read(key)
    kinds = {Path(key).suffix: account.head(key, "indicators")["ContentType"] for key in account.listed()}
    assert kinds == {".csv": CSV, ".json": JSON, ".tile": PROTOBUF}


def test_stale_objects_of_an_older_copy_are_removed_and_other_runs_left_alone(
    account: Account, datacube: tuple[Lake, Store]
) -> None:
    lake, source = datacube
    target = account.store("indicators")
    target.put_many(["model/run/old/x.csv", "model/run2/x.csv"], [b"1", b"1"], CSV)
    assert copy(lake, source, target, RUN, done).deleted == 1
    assert sorted(account.listed("indicators")) == sorted([*account.listed(), "model/run2/x.csv"])


def test_a_copy_that_breaks_off_is_not_complete_and_is_made_good_by_the_next(
    account: Account, datacube: tuple[Lake, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, source = datacube
    target = account.store("indicators")
    copy(lake, source, target, RUN, done)
    monkeypatch.setattr(copying, "BATCH_OBJECTS", 20)

    def break_off(copied: int, total: int) -> None:
        assert total == 51
        assert RESULTS not in account.listed("indicators")
        if copied > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(lake, source, target, RUN, break_off)
    assert RESULTS not in account.listed("indicators")
    copy(lake, source, target, RUN, done)
    assert sorted(account.listed("indicators")) == sorted(account.listed())


def test_what_is_not_complete_is_not_copied(account: Account) -> None:
    lake, source, target = Lake(account.store("lake")), account.store(), account.store("indicators")
    publish(account, source, objects(5))
    with pytest.raises(IncompleteDatacubeError, match="model:run is not complete in s3://models/"):
        copy(lake, source, target, RUN, done)
    assert account.listed("indicators") == []


def test_a_datacube_that_changes_meanwhile_is_not_marked_complete(
    account: Account, datacube: tuple[Lake, Store]
) -> None:
    lake, source = datacube
    target = account.store("indicators")

    def publish_anew(copied: int, total: int) -> None:
        publish(account, source, objects(50, version=2), "v2")
        complete(lake, source, RUN, "v2", "second", b"{}", ["maps"])

    with pytest.raises(IncompleteDatacubeError, match="was published anew while it was copied"):
        copy(lake, source, target, RUN, publish_anew)
    assert RESULTS not in account.listed("indicators")


def test_a_copy_never_goes_over_what_is_published(account: Account, datacube: tuple[Lake, Store]) -> None:
    lake, source = datacube
    with pytest.raises(StoreError, match="is both source and target"):
        copy(lake, source, source, RUN, done)
    copy(lake, source, account.store("indicators"), RUN, done)
    with pytest.raises(StoreError, match=r"is published into s3://models/.*: materialize it"):
        copy(lake, account.store("indicators"), source, RUN, done)
    assert manifest(lake, RUN, "maps") is not None
    assert RESULTS in account.listed()


def test_the_command_copies_between_buckets_and_folders(
    account: Account,
    datacube: tuple[Lake, Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in {
        "DATACUBE_S3_ENDPOINT": account.server.endpoint,
        "DATACUBE_LAKE": account.url("lake"),
        "DATACUBE_MODELS_BUCKET": account.url(),
    }.items():
        monkeypatch.setenv(name, value)

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main.main(["copy", *arguments], prog_name="datacube")
        return int(ended.value.code or 0), *capfd.readouterr()

    folder = tmp_path / "backup"
    code, out, err = command("model:run", "--to", str(folder))
    assert (code, err) == (0, "")
    assert out.startswith(f"Copied  {folder.as_uri()}/model/run/  51 objects, 0.0 MB in ")
    code, _, _ = command("model:run", "--from", str(folder), "--to", account.url("indicators"), "-q")
    assert code == 0
    assert sorted(account.listed("indicators")) == sorted(account.listed())
    code, out, _ = command("model:run", "--to", str(folder), "--json")
    assert code == 0
    copied = json.loads(out)["copied"]["model:run"]
    assert (copied["objects"], copied["deleted"]) == (51, 0)
    assert command("model:run", "--to", "s3://no-such-bucket") == (
        1,
        "",
        f"Error: s3://no-such-bucket: there is no bucket 'no-such-bucket' at {account.server.endpoint}. "
        "Create it, or correct --to\n",
    )
    assert command("model:other", "--to", str(folder))[0] == 1
    assert command("nonsense", "--to", str(folder))[0] == 1


# --- large objects ---------------------------------------------------------------------------------


def test_of_a_large_part_only_what_is_needed_is_read(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_each, path = 700_000, tmp_path / "large.parquet"
    numbers = np.random.default_rng(1).random((4, rows_each))
    with pq.ParquetWriter(path, pa.schema([("value", pa.float64())]), compression="none") as writer:
        for some in numbers:
            writer.write_table(pa.table({"value": some}), row_group_size=rows_each)
    lake = Lake(account.store("lake"))
    lake.store.put_file("large/part.parquet", path)
    table = LakeTable("large", "1", (TableFile("part", 4 * rows_each, path.stat().st_size),))
    read: list[int] = []
    monkeypatch.setattr(s3.S3, "get_range", counting(s3.S3.get_range, read))
    assert lake.read_slice(table, "part", 2)["value"].to_numpy().tolist() == numbers[2].tolist()
    assert sum(read) < path.stat().st_size / 2
    assert lake.read(table, "part").num_rows == 4 * rows_each
    with pytest.raises(MissingObjectError):
        lake.store.open("large/other.parquet")


def counting(get_range: Callable[..., bytes], read: list[int]) -> Callable[..., bytes]:
    """The method, noting how many bytes it gave."""

    def counted(*arguments: Any) -> bytes:
        found = get_range(*arguments)
        read.append(len(found))
        return found

    return counted


def test_datacube_view_answers_from_s3_as_from_a_folder(account: Account, tmp_path: Path) -> None:
    feature = 'rain/fall "é" 100%'
    row = {"feature": feature, "country": "a b+c", "lat": 1.0, "lng": 37.0, "value": 2.0}
    objects = kernel_helpers.datacube([row]).objects
    tile = {"feature": feature, "resolution": "month", "timestamp": str(kernel_helpers.JAN_2020)}
    region = {"feature": feature, "resolution": "month", "level": "country", "region": "a b+c"}
    answers = []
    for bucket, indicators in (
        (account.url(), account.url("indicators")),
        (tmp_path.as_uri(), (tmp_path / "none").as_uri()),
    ):
        keys = [f"m é/r #1/{key}" for key in objects]
        open_store(bucket, account.server.endpoint).put_many(keys, list(objects.values()), CSV)
        settings = Settings.model_validate(
            {
                "DATACUBE_HOME": tmp_path,
                "DATACUBE_MODELS_BUCKET": bucket,
                "DATACUBE_INDICATORS_BUCKET": indicators,
                "DATACUBE_S3_ENDPOINT": account.server.endpoint,
            }
        ).resolved()
        run = {"model_id": "m é", "run_id": "r #1"}
        with in_background(application(settings)) as url, httpx.Client(base_url=f"{url}/api/") as client:
            answers.append(
                [
                    client.get(path, params={**run, **more}).raise_for_status().json()
                    for path, more in (
                        ("run", {}),
                        ("tiles/0/0/0", tile),
                        ("tiles/8/0/0", tile),
                        ("timeseries", region),
                        ("ranges", tile),
                        ("place", {**tile, "z": "0", "x": "0", "y": "0", "bin": "2022"}),
                    )
                ]
            )
            assert [one["run_id"] for one in client.get("runs").json()["runs"]] == ["r #1"]
    # Each store names its versions in its own way.
    assert [len({answer.pop("version") for answer in one}) for one in answers] == [1, 1]
    assert answers[0] == answers[1]
    assert answers[0][1]["s_sum_t_sum"] == [2.0]

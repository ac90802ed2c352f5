"""The gateway over real HTTP: what CauseMos may send, what the queue makes of it, who may call.

It listens in this process, over a lake and a Dagster of its own; no daemon is there, so nothing starts. The
whole way of a request, with processes that are killed, is `test_gateway_process.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from prometheus_client.parser import text_string_to_metric_families

from datacube_assets.definitions import build_definitions
from datacube_assets.development.causemos_simulator import CauseMosSimulator
from datacube_assets.development.s3_server import S3Server
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.gateway import checking
from datacube_assets.gateway import queue as gateway_queue
from datacube_assets.gateway.admission import Admission, check_networks
from datacube_assets.gateway.parameters import LARGEST_BODY, LARGEST_REQUEST
from datacube_assets.gateway.server import FAILED, application
from datacube_assets.orchestration.home import open_instance
from datacube_assets.orchestration.jobs import BY_HAND, FORCED, PRIORITY_TAG, process_model_run
from datacube_assets.partitions import REQUEST_TAG, model_runs
from datacube_assets.sensors.reports import due
from datacube_assets.settings import Settings, SettingsError, networks
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import Ticket, ask_for_run, doc_ids_of, requested
from datacube_assets_tests.integration.support import rows
from datacube_assets_tests.integration.system import (
    evaluate,
    indicator_document,
    model_document,
    run_document,
    success,
)

Json = dict[str, Any]
HTTP = httpx.Client(timeout=60)
"""One for all calls: making one takes longer than they do."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


def parameters(run_id: str = "r", **fields: Any) -> Json:
    """A flow parameter object as CauseMos builds it (docs/specification/requests.md#parameters)."""
    return {
        "model_id": "m",
        "run_id": run_id,
        "doc_ids": [run_id],
        "data_paths": ["https://bucket.example/dmc_results/r/r_m.1.parquet.gzip"],
        "model_bucket": "models",
        "indicator_bucket": "indicators",
        "qualifier_map": {"rain": ["crop"]},
        "weight_column": "",
        "qualifier_thresholds": {
            "max_count": 10000,
            "regional_timeseries_count": 100,
            "regional_timeseries_max_level": 1,
        },
        "compute_tiles": True,
        **fields,
    }


@dataclass
class Desk:
    """A gateway, and what stands behind it."""

    settings: Settings
    instance: DagsterInstance
    site: Site
    host: str = "127.0.0.1"

    @property
    def lake(self) -> Lake:
        return Lake(open_store(self.settings.lake, self.settings.s3_endpoint))

    def open(self, **settings: Any) -> Desk:
        """Start the gateway anew, with other settings by field name; it remembers nothing."""
        self.settings = self.settings.model_copy(update=settings)
        self.site.app = application(self.settings, self.instance, self.host)
        return self

    def call(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        return HTTP.request(method, f"{self.site.url}{path}", content=content, headers=headers)

    def put(self, path: str, body: object = None) -> httpx.Response:
        return self.call("PUT", f"/data-pipeline/{path}", body)

    def enqueue(self, run_id: str = "r", **fields: Any) -> None:
        answer = self.put("enqueue", parameters(run_id, **fields))
        assert (answer.status_code, answer.content) == (200, b""), answer.text

    def jobs(self) -> list[Json]:
        jobs: list[Json] = self.call("GET", "/data-pipeline/jobs").raise_for_status().json()
        return jobs

    def runs(self) -> list[str]:
        return [job["run_id"] for job in self.jobs()]

    def status(self) -> Json:
        status: Json = self.call("GET", "/data-pipeline/status").raise_for_status().json()
        return status

    def metric(self, name: str, **labels: str) -> float | None:
        text = self.call("GET", "/metrics").raise_for_status().text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    def started(self) -> list[RunRequest]:
        """What the sensor would start now."""
        return list(evaluate(self.settings, self.instance, "requests").run_requests or ())

    def hand_over(self, asked: RunRequest, status: DagsterRunStatus = DagsterRunStatus.QUEUED) -> DagsterRun:
        """Let Dagster have a run, as its daemon does with what the sensor asks for."""
        job = build_definitions(self.settings).resolve_job_def(process_model_run.name)
        self.instance.add_dynamic_partitions(str(model_runs.name), [str(asked.partition_key)])
        tags = {**asked.tags, "dagster/partition": str(asked.partition_key)}
        location = RegisteredCodeLocationOrigin("datacube_assets")
        origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job.name)
        return self.instance.create_run_for_job(
            job, tags=tags, status=status, remote_job_origin=origin, job_code_origin=None
        )


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """A Dagster on files, as the gateway has it; tests share it, as opening one takes a while."""
    with mock.patch.dict(os.environ):
        os.environ.pop("DAGSTER_HOME", None)
        home = str(tmp_path_factory.mktemp("home"))
        with open_instance(Settings.from_environment(DATACUBE_HOME=home)) as opened:
            yield opened


@pytest.fixture
def desk(
    quick_folder: Path, site: Site, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    for name in list(os.environ):
        if name.startswith(("DATACUBE_", "DOJO_", "CAUSEMOS_")):
            monkeypatch.delenv(name)
    # What others do is to be seen at once.
    monkeypatch.setattr(gateway_queue, "LOOK_SECONDS", 0.0)
    yield Desk(Settings.from_environment(DATACUBE_HOME=str(quick_folder / "home")), instance, site).open()
    for run in instance.get_runs():
        instance.delete_run(run.run_id)


# --- putting in ------------------------------------------------------------------------------------------


def test_what_causemos_sends_waits_in_its_order_and_can_be_read_as_it_came(desk: Desk) -> None:
    assert desk.status() == {"count": 0, "is_running": True, "running": 0}
    assert desk.jobs() == []
    for run_id in ("b", "a", "c"):
        desk.enqueue(run_id, temporal_resolution={"any": ["thing", None, 1.5]})
    assert desk.jobs() == [
        parameters(run_id, temporal_resolution={"any": ["thing", None, 1.5]}) for run_id in ("b", "a", "c")
    ]
    assert desk.status() == {"count": 3, "is_running": True, "running": 0}
    left = requested(desk.lake, ModelRun("m", "a"))
    assert left is not None
    assert (left.qualifier_map, left.doc_ids) == ({"rain": ("crop",)}, ("a",))


def test_whoever_starts_anew_or_beside_it_sees_the_same_queue(desk: Desk) -> None:
    desk.enqueue("a")
    ask_for_run(desk.lake, DatacubeRequest(model_id="m", run_id="by hand", data_paths=("x",)))
    desk.enqueue("b")
    assert desk.runs() == ["a", "by hand", "b"]
    assert desk.open().runs() == ["a", "by hand", "b"]
    desk.enqueue("a")
    assert desk.status()["count"] == 3, "a duplicate is known by whoever sees it"


SAME = parameters("r")


WRITTEN = {
    "in another order": json.dumps(SAME, sort_keys=True),
    "with spaces": json.dumps(SAME, indent=4),
    "reversed": json.dumps(dict(reversed(SAME.items()))),
    "with defaults": json.dumps({**SAME, "fill_timestamp": 0, "is_indicator": False}),
    "with nulls": json.dumps({**SAME, "weight_column": None, "selected_output_tasks": None}),
    "with more": json.dumps({**SAME, "compute_tiles": False, "something": "else"}),
    "for nobody": json.dumps({**SAME, "doc_ids": None}),
}


def test_the_same_request_however_it_is_written_waits_once(desk: Desk) -> None:
    desk.enqueue()
    for number, (how, body) in enumerate(WRITTEN.items(), 1):
        assert desk.put("enqueue", body.encode()).status_code == 200, how
        assert desk.jobs() == [SAME], how
        assert desk.metric("datacube_requests_total", outcome="duplicate") == number, how


def test_another_request_for_the_same_run_waits_behind_and_the_last_one_asked_for_counts(desk: Desk) -> None:
    for column in ("a", "b", "a"):
        desk.enqueue(weight_column=column)
    assert [job["weight_column"] for job in desk.jobs()] == ["a", "b", "a"]
    left = requested(desk.lake, ModelRun("m", "r"))
    assert left is not None
    assert left.weight_column == "a"


def test_documents_that_only_a_duplicate_names_wait_for_the_same_run(desk: Desk) -> None:
    desk.enqueue(doc_ids=["a"])
    desk.enqueue(doc_ids=["a", "b"])
    desk.enqueue(doc_ids=["c"])
    (asked,) = desk.started()
    assert set(doc_ids_of(desk.lake, asked.tags[REQUEST_TAG])) == {"a", "b", "c"}


def test_a_run_tells_the_documents_of_its_own_request_too_when_a_later_one_replaced_it(desk: Desk) -> None:
    desk.enqueue(weight_column="a", doc_ids=["a"])
    (asked,) = desk.started()
    run = desk.hand_over(asked, DagsterRunStatus.STARTED)
    desk.enqueue(weight_column="b", doc_ids=["b"])
    desk.instance.report_run_failed(run)
    record = desk.instance.get_run_record_by_id(run.run_id)
    assert record is not None
    report = due(desk.instance, desk.lake, record)[0]
    assert (report.kind, report.body["doc_ids"]) == ("queue-runtime", ["a"])
    assert report.body["start_time"] == Ticket.of(asked.tags[REQUEST_TAG]).asked_at


def test_a_request_whose_run_has_started_is_put_in_again(desk: Desk) -> None:
    desk.enqueue()
    (asked,) = desk.started()
    run = desk.hand_over(asked)
    desk.enqueue()
    assert desk.status()["count"] == 1, "it waits in Dagster's queue, and is still the same"
    desk.instance.report_run_canceled(run)
    desk.enqueue()
    assert desk.status() == {"count": 1, "is_running": True, "running": 0}
    assert len(desk.jobs()) == 1
    assert {request.run_key for request in desk.started()} > {asked.run_key}


def test_of_equal_requests_at_the_same_time_one_waits(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: desk.put("enqueue", parameters(doc_ids=[f"d{n}"])), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(desk.jobs()) == 1
    (asked,) = desk.started()
    assert set(doc_ids_of(desk.lake, asked.tags[REQUEST_TAG])) == {f"d{n}" for n in range(16)}


def test_many_requests_at_the_same_time_are_all_there(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(desk.enqueue, map(str, range(60))))
    assert sorted(desk.runs(), key=int) == list(map(str, range(60)))
    assert sorted(desk.open().runs(), key=int) == list(map(str, range(60)))


def test_a_full_queue_says_so_and_takes_nothing(desk: Desk) -> None:
    desk.open(queue_size=2)
    desk.enqueue("a")
    assert desk.put("bulk-enqueue", [parameters("b"), parameters("c")]).status_code == 503
    assert desk.runs() == ["a"], "all or none"
    desk.enqueue("b")
    answer = desk.put("enqueue", parameters("c"))
    assert answer.status_code == 503
    assert answer.text.splitlines()[0] == FAILED
    assert "DATACUBE_QUEUE_SIZE" in answer.text
    desk.enqueue("b")
    assert desk.put("bulk-enqueue", [parameters("a"), parameters("b")]).status_code == 200, "duplicates"
    assert desk.runs() == ["a", "b"]
    assert desk.metric("datacube_requests_total", outcome="full") == 2


REFUSED = {
    "no JSON": (b'{"model_id": ', "JSON"),
    "nothing": (b"", "JSON"),
    "no text": (b"\xff\xfe", "JSON"),
    "too deep": (b"[" * 100_000, "JSON"),
    "infinity": (json.dumps(parameters(x=1)).encode().replace(b'"x": 1', b'"x": 1e999'), "JSON"),
    "half a letter": (json.dumps(parameters(x="\ud800")).encode(), "JSON"),
    "an array": (b"[]", "object"),
    "no model": (parameters(model_id=""), "model_id"),
    "no run": ({"model_id": "m", "data_paths": ["x"]}, "run_id"),
    "no files": ({"model_id": "m", "run_id": "r"}, "data_paths"),
    "no file": (parameters(data_paths=[]), "data_paths"),
    "an empty file": (parameters(data_paths=["x", ""]), "data_paths.1"),
    "a number for an id": ({**parameters(), "run_id": 5}, "run_id"),
    "text for a list": (parameters(data_paths="x"), "data_paths"),
    "text for a truth": (parameters(is_indicator="true"), "is_indicator"),
    "a number among documents": (parameters(doc_ids=[1]), "doc_ids.0"),
    "text for a limit": (parameters(qualifier_thresholds={"max_count": "5"}), "max_count"),
    "a dataset's run id": (parameters(run_id="indicator"), "indicator"),
    "an id that leaves its folder": (parameters(model_id=".."), "model id"),
    "an id with a slash at its end": (parameters(run_id="a/"), "run id"),
    "an id that is too long": (parameters(run_id="x" * 5000), "run id"),
    "a kind of address": (parameters(data_paths=["ftp://host/x"]), "ftp://"),
    "a bucket's file without a name": (parameters(data_paths=["s3://bucket"]), "S3"),
    "a seal of somebody else": (parameters(data_paths=["https://h/x?sealed=AAAA"]), "sealed"),
}


def test_what_cannot_be_used_is_refused_with_a_reason_and_not_queued(desk: Desk) -> None:
    good = json.dumps(parameters()).encode()
    for what, (body, reason) in REFUSED.items():
        answer = desk.put("enqueue", body)
        assert answer.status_code == 400, what
        first, second = answer.text.splitlines()
        assert first == FAILED, what
        assert reason in second, what
        bad = body if isinstance(body, bytes) else json.dumps(body).encode()
        assert desk.put("bulk-enqueue", b"[" + good + b"," + bad + b"]").status_code == 400, what
    assert desk.jobs() == []
    assert desk.status()["count"] == 0
    assert list((desk.settings.home / "lake").rglob("*.json")) == []


def test_a_bulk_keeps_its_order_and_knows_its_own_duplicates(desk: Desk) -> None:
    many = [parameters(f"r{number}") for number in range(20)]
    assert desk.put("bulk-enqueue", [*many, *many[:5]]).status_code == 200
    assert desk.runs() == [one["run_id"] for one in many]
    assert desk.put("bulk-enqueue", []).status_code == 200
    assert desk.put("bulk-enqueue", parameters()).status_code == 400


def test_a_body_that_is_too_large_is_refused_before_it_is_read(desk: Desk) -> None:
    answer = desk.put("bulk-enqueue", b" " * (LARGEST_BODY + 1))
    assert answer.status_code == 413
    assert desk.call("POST", "/", b" " * (LARGEST_BODY + 1)).status_code == 413


def test_one_request_is_no_larger_than_it_need_be(desk: Desk) -> None:
    assert desk.put("enqueue", parameters(note="x" * LARGEST_REQUEST)).status_code == 413
    assert desk.put("bulk-enqueue", [parameters(note="x" * LARGEST_REQUEST)]).status_code == 413
    assert desk.put("retry-flow/any", b" " * (LARGEST_REQUEST + 1)).status_code == 413
    assert desk.jobs() == []


def test_what_is_secret_in_addresses_is_sealed_before_anything_is_kept(desk: Desk) -> None:
    address = "https://ann:s3cret@bucket.example/x.parquet.gzip?X-Amz-Signature=abc123"
    desk.enqueue(data_paths=[address])
    desk.enqueue(data_paths=[address])
    (job,) = desk.jobs()
    assert job["data_paths"][0].startswith("https://bucket.example/x.parquet.gzip?sealed=")
    assert desk.put("enqueue", job).status_code == 200
    assert len(desk.jobs()) == 1, "what /jobs shows can be sent again"
    kept = b"".join(path.read_bytes() for path in desk.settings.home.rglob("*") if path.is_file())
    assert b"s3cret" not in kept
    assert b"abc123" not in kept


def test_only_addresses_that_may_be_read_are_accepted(desk: Desk) -> None:
    desk.open(source_hosts="bucket.example")
    desk.enqueue("a")
    answer = desk.put("enqueue", parameters("b", data_paths=["https://elsewhere/x?token=s3cret"]))
    assert answer.status_code == 400
    assert "DATACUBE_SOURCE_HOSTS" in answer.text
    assert "s3cret" not in answer.text
    desk.open(source_hosts="")
    desk.enqueue("c", data_paths=["/local/file.parquet.gzip"])
    desk.host = "10.0.0.1"
    desk.open()
    answer = desk.put("enqueue", parameters("d", data_paths=["/etc/passwd"]))
    assert (answer.status_code, "local files" in answer.text) == (400, True), "not for other machines"


# --- checking --------------------------------------------------------------------------------------------


def check(desk: Desk, **fields: Any) -> httpx.Response:
    return desk.call("POST", "/data-pipeline/check", parameters(**{"qualifier_map": {}, **fields}))


def test_a_request_is_checked_and_nothing_is_queued_or_published(desk: Desk, quick_folder: Path) -> None:
    part = quick_folder / "part.parquet.gzip"
    pq.write_table(rows(admin1=["Nairobi", "Oromia", "NAIROBI", "Oromia"]), part)
    answer = check(desk, data_paths=[str(part)])
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["rows"], found["rows_kept"], found["errors"]) == (4, 4, [])
    assert [one["name"] for one in found["warnings"]] == ["names_have_one_spelling"]
    assert found["objects"]["all"] > 0
    assert desk.jobs() == []
    part.write_bytes(b"no Parquet")
    refused = check(desk, data_paths=[str(part)])
    assert refused.status_code == 200
    assert "cannot be read as Parquet" in refused.json()["errors"][0]
    assert not [path for path in (quick_folder / "home").rglob("*") if path.is_file()]


def test_what_cannot_be_requested_cannot_be_checked(desk: Desk) -> None:
    for what, (body, reason) in REFUSED.items():
        answer = desk.call("POST", "/data-pipeline/check", body)
        assert (answer.status_code, reason in answer.text) == (400, True), what
    assert desk.call("POST", "/data-pipeline/check", b" " * (LARGEST_REQUEST + 1)).status_code == 413
    desk.host = "10.0.0.1"
    desk.open()
    answer = check(desk, data_paths=["/etc/passwd"])
    assert (answer.status_code, "local files" in answer.text) == (400, True), "not for other machines"


def test_checks_are_few_at_a_time_and_hold_up_nobody(desk: Desk) -> None:
    reached, wait = threading.Event(), threading.Event()

    def handle(_: object) -> None:
        reached.set()
        wait.wait(60)

    with slow_server(handle) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(check, desk, data_paths=[f"{address}/part.parquet"])
        assert reached.wait(30)
        answer = check(desk, data_paths=["/nothing"])
        assert answer.status_code == 503
        assert "DATACUBE_GATEWAY_CHECKS" in answer.text
        began = time.monotonic()
        assert desk.status()["count"] == 0
        assert time.monotonic() - began < 5
        wait.set()
        assert first.result().json()["errors"]
    desk.open(gateway_checks=0)
    assert check(desk).status_code == 503


def test_a_check_that_nobody_waits_for_or_takes_too_long_is_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = threading.Event()
    monkeypatch.setattr(checking, "LOOK_SECONDS", 0.1)
    with slow_server(lambda _: wait.wait(60)) as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{desk.site.url}/data-pipeline/check",
                json=parameters(data_paths=[f"{address}/part.parquet"]),
                timeout=2,
            )
        monkeypatch.setattr(checking, "MOST_SECONDS", 1.0)
        until = time.monotonic() + 20
        while (answer := check(desk, data_paths=[f"{address}/part.parquet"])).status_code == 503:
            assert time.monotonic() < until, "the first one goes on"
        assert answer.status_code == 500
        assert "longer than 1 seconds" in answer.text
        wait.set()


@contextlib.contextmanager
def slow_server(handle: Callable[[Any], object]) -> Iterator[str]:
    """An HTTP server that does something before it hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            handle(self.server)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# --- steering --------------------------------------------------------------------------------------------


def test_a_paused_queue_accepts_and_starts_nothing_until_it_is_resumed(desk: Desk) -> None:
    desk.enqueue("a")
    assert desk.put("stop").status_code == 200
    desk.enqueue("b")
    assert desk.status() == {"count": 2, "is_running": False, "running": 0}
    assert desk.started() == []
    assert desk.open().status()["is_running"] is False, "it outlives the gateway"
    assert desk.metric("datacube_queue_paused") == 1
    desk.put("start")
    assert desk.status()["is_running"] is True
    assert [request.partition_key for request in desk.started()] == ["m:a", "m:b"]


def test_the_next_one_can_be_forced_though_the_queue_is_paused(desk: Desk) -> None:
    desk.put("stop")
    assert desk.put("force-flow").status_code == 200, "there is none"
    for run_id in ("a", "b", "c"):
        desk.enqueue(run_id)
    assert desk.put("force-flow?labels=x,y").status_code == 200
    assert [request.partition_key for request in desk.started()] == ["m:a"]
    desk.put("force-flow")
    forced = desk.started()
    assert [request.partition_key for request in forced] == ["m:a", "m:b"]
    assert {request.tags[PRIORITY_TAG] for request in forced} == {FORCED[PRIORITY_TAG]}
    desk.put("start")
    later = desk.started()[-1]
    assert (later.partition_key, later.tags[PRIORITY_TAG]) == ("m:c", BY_HAND[PRIORITY_TAG])


def test_one_that_dagster_has_already_is_forced_there(desk: Desk) -> None:
    desk.enqueue("a")
    run = desk.hand_over(desk.started()[0])
    desk.put("force-flow")
    now = desk.instance.get_run_by_id(run.run_id)
    assert now is not None
    assert now.tags[PRIORITY_TAG] == FORCED[PRIORITY_TAG]


def test_clearing_drops_what_waits_and_not_what_is_at_work(desk: Desk) -> None:
    for run_id in ("a", "b", "c"):
        desk.enqueue(run_id)
    first, second, _ = desk.started()
    at_work = desk.hand_over(first, DagsterRunStatus.STARTED)
    queued = desk.hand_over(second)
    assert desk.status() == {"count": 2, "is_running": True, "running": 1}
    assert desk.runs() == ["b", "c"]
    assert desk.put("clear").status_code == 200
    assert desk.status() == {"count": 0, "is_running": True, "running": 1}
    assert desk.jobs() == []
    found = [desk.instance.get_run_by_id(run.run_id) for run in (at_work, queued)]
    assert [run and run.status for run in found] == [DagsterRunStatus.STARTED, DagsterRunStatus.CANCELED]
    desk.enqueue("c")
    assert desk.runs() == ["c"], "what was dropped may come again"


def test_a_run_is_put_in_again_with_other_parameters_when_it_is_over(desk: Desk) -> None:
    desk.enqueue("a", weight_column="people", something="else")
    run = desk.hand_over(desk.started()[0], DagsterRunStatus.STARTED)
    answer = desk.put(f"retry-flow/{run.run_id}")
    assert (answer.status_code, "not over" in answer.text) == (400, True)
    desk.instance.report_run_failed(run)
    desk.enqueue("b")
    assert desk.put(f"retry-flow/{run.run_id}?labels=x", {"fill_timestamp": 7}).status_code == 200
    assert desk.jobs() == [
        parameters("b"),
        parameters("a", weight_column="people", something="else", fill_timestamp=7),
    ]
    assert desk.put(f"retry-flow/{run.run_id}", {"fill_timestamp": "seven"}).status_code == 400
    assert desk.put(f"retry-flow/{run.run_id}", [1]).status_code == 400
    assert desk.put("retry-flow/nobody-knows").status_code == 404
    assert desk.put("retry-flow/%00%FF").status_code == 404
    assert desk.status()["count"] == 2


def test_dagster_is_handed_no_more_than_can_soon_start(desk: Desk) -> None:
    desk.open(runs_per_tick=2)
    for run_id in ("a", "b", "c"):
        desk.enqueue(run_id)
    first, second = desk.started()
    desk.hand_over(first)
    desk.hand_over(second)
    tick = evaluate(desk.settings, desk.instance, "requests", json.dumps([first.run_key, second.run_key]))
    assert not tick.run_requests
    assert "wait in Dagster" in str(tick.skip_message)
    assert desk.runs() == ["a", "b", "c"], "whoever asks sees one queue"


def test_it_is_the_same_queue_on_s3(desk: Desk, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    desk.open(lake="s3://lake/gateway", s3_endpoint=s3_server.endpoint)
    assert desk.put("bulk-enqueue", [parameters(str(number)) for number in range(20)]).status_code == 200
    desk.enqueue("7", doc_ids=["more"])
    assert desk.open().runs() == list(map(str, range(20)))
    desk.put("stop")
    desk.put("force-flow")
    assert desk.status() == {"count": 20, "is_running": False, "running": 0}
    (asked,) = desk.started()
    assert asked.partition_key == "m:0"
    desk.put("start")
    assert len(desk.started()) == 20
    desk.put("clear")
    assert desk.jobs() == []


# --- state and log of a run ------------------------------------------------------------------------------


def ask(desk: Desk, run_id: str, *, path: str = "/") -> Json:
    """The queries of CauseMos (docs/specification/queue-and-causemos.md#state-and-log-of-a-run)."""
    fields = "state start_time end_time logs { timestamp message } agent { id labels }"
    query = f'query {{ flow_run(where: {{ id: {{_eq: "{run_id}"}}}}) {{ {fields} }} }}'
    answer: Json = desk.call("POST", path, {"query": query}).raise_for_status().json()
    return answer


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (DagsterRunStatus.QUEUED, "Scheduled"),
        (DagsterRunStatus.STARTING, "Submitted"),
        (DagsterRunStatus.STARTED, "Running"),
        (DagsterRunStatus.SUCCESS, "Success"),
        (DagsterRunStatus.FAILURE, "Failed"),
        (DagsterRunStatus.CANCELED, "Cancelled"),
    ],
)
def test_the_state_of_a_run_is_told_as_prefect_would(
    status: DagsterRunStatus, state: str, desk: Desk
) -> None:
    desk.enqueue()
    run = desk.hand_over(desk.started()[0], status)
    (told,) = ask(desk, run.run_id, path="/graphql")["data"]["flow_run"]
    assert told["state"] == state
    assert told["start_time"]
    assert told["logs"]
    assert told["agent"]["id"]
    assert told["agent"]["labels"]
    query = f'query {{ flow_run(where: {{ id: {{_eq: "{run.run_id}"}}}}) {{ state start_time end_time }} }}'
    (short,) = desk.call("POST", "/", {"query": query}).json()["data"]["flow_run"]
    assert set(short) == {"state", "start_time", "end_time"}


def test_of_a_run_that_nobody_knows_nothing_is_told(desk: Desk) -> None:
    for run_id in ("0b0e9c5e-0000-4000-8000-000000000000", "", "x" * 10_000, "\\u0000", "'; DROP TABLE runs"):
        assert ask(desk, run_id) == {"data": {"flow_run": []}}
    for body in (b"", b"{}", b"[]", b'{"query": 5}', b'{"query": "{ agents { id } }"}'):
        answer = desk.call("POST", "/", body)
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["message"]


def test_a_long_log_is_cut_and_secrets_are_not_in_it(desk: Desk) -> None:
    desk.enqueue()
    run = desk.hand_over(desk.started()[0])
    for number in range(1010):
        desk.instance.report_engine_event(f"line {number}", run)
    signed = "https://ann:s3cret@host/x?token=s3cret could not be read"
    desk.instance.report_engine_event(f"{signed} {'long ' * 1000}", run)
    (told,) = ask(desk, run.run_id)["data"]["flow_run"]
    messages = [line["message"] for line in told["logs"]]
    assert len(messages) == 1001
    assert messages[0].startswith("(only the last 1,000 lines")
    assert messages[-1].startswith("https://host/x could not be read")
    assert len(messages[-1]) < 2100
    assert messages[-2] == "line 1009"
    assert "s3cret" not in json.dumps(told)


# --- who may call ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "status"),
    [("127.0.0.1", 200), ("127.0.0.0/8", 200), ("10.0.0.0/8", 403), ("::1", 403), ("::1,127.0.0.1/32", 200)],
)
def test_only_networks_that_are_named_may_call(clients: str, status: int, desk: Desk) -> None:
    desk.open(gateway_clients=clients)
    claims = {"X-Forwarded-For": "10.0.0.1", "X-Real-IP": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
    for method, path in (("GET", "/data-pipeline/status"), ("GET", "/metrics"), ("GET", "/openapi.json")):
        assert desk.call(method, path, **claims).status_code == status
    assert desk.put("enqueue", parameters()).status_code == status
    assert desk.call("GET", "/healthz").text == "ok\n"


def test_a_token_is_asked_for_where_one_is_set(desk: Desk) -> None:
    desk.open(gateway_token=desk.settings.gateway_token.__class__("s3cret-töken"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        answer = desk.call("GET", "/data-pipeline/status", **headers)
        assert answer.status_code == 401
        assert "s3cret" not in answer.text
    desk.open(gateway_token=desk.settings.gateway_token.__class__("s3cret-token"))
    assert desk.call("GET", "/data-pipeline/status", Authorization="Bearer s3cret-token").status_code == 200
    assert desk.call("GET", "/healthz").status_code == 200


async def _nobody(*_: object) -> None:
    raise AssertionError("nobody was to be let through")


@pytest.mark.parametrize(
    ("host", "admitted"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.1.2.3", False), ("fe80::1%eth0", False)],
)
def test_the_address_of_the_connection_decides(host: str, admitted: bool) -> None:
    assert Admission(_nobody, networks("10.0.0.0/8"), "")._is_client(host) is admitted


def test_listening_to_other_machines_takes_saying_which() -> None:
    settings = Settings.model_validate({}).resolved()
    for host in ("127.0.0.1", "::1", "localhost"):
        check_networks(settings, host)
    for host in ("0.0.0.0", "::", "192.168.1.5", "gateway.example"):
        with pytest.raises(SettingsError, match="DATACUBE_GATEWAY_CLIENTS"):
            check_networks(settings, host)
        check_networks(settings.model_copy(update={"gateway_clients": "10.0.0.0/8"}), host)
    with pytest.raises(SettingsError, match="DATACUBE_GATEWAY_CLIENTS cannot be used"):
        Settings.from_environment(DATACUBE_GATEWAY_CLIENTS="10.0.0.1/8")


def test_pages_of_any_origin_may_call_as_at_the_original(desk: Desk) -> None:
    answer = desk.call("GET", "/data-pipeline/status", Origin="https://page.example")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    asking = {"Origin": "https://page.example", "Access-Control-Request-Method": "PUT"}
    assert desk.call("OPTIONS", "/data-pipeline/enqueue", **asking).status_code == 200
    desk.open(gateway_origins="https://causemos.example")
    answer = desk.call("GET", "/data-pipeline/status", Origin="https://page.example")
    assert "Access-Control-Allow-Origin" not in answer.headers


# --- operations ------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_queue(desk: Desk) -> None:
    for run_id in ("a", "b"):
        desk.enqueue(run_id)
    desk.put("enqueue", b"no JSON")
    assert desk.metric("datacube_requests_waiting") == 2
    assert (desk.metric("datacube_requests_oldest_seconds") or 0) > 0
    assert desk.metric("datacube_queue_paused") == 0
    for outcome, count in (("accepted", 2), ("refused", 1), ("full", 0), ("duplicate", 0)):
        assert desk.metric("datacube_requests_total", outcome=outcome) == count
    desk.hand_over(desk.started()[0], DagsterRunStatus.STARTED)
    assert desk.metric("datacube_runs", status="started") == 1
    asked_for = desk.metric("datacube_runs_oldest_unfinished_seconds") or 0
    assert 0 < asked_for < 600
    route = "/data-pipeline/enqueue"
    assert desk.metric("datacube_gateway_requests_total", route=route, status="200") == 2
    assert desk.metric("datacube_gateway_requests_total", route=route, status="400") == 1
    assert desk.metric("datacube_gateway_request_seconds_count", route=route) == 3
    for number in range(5):
        desk.call("GET", f"/no/such/{number}")
    assert desk.metric("datacube_gateway_requests_total", route="none", status="404") == 5


def test_what_goes_wrong_behind_it_is_told_without_details(desk: Desk) -> None:
    desk.settings.home.mkdir()
    (desk.settings.home / "lake").write_text("a file where a folder should be")
    answer = desk.put("enqueue", parameters())
    assert answer.status_code == 500
    assert answer.text.splitlines()[0] == FAILED


# --- CauseMos' simulator ----------------------------------------------------------------------------------


def test_what_dojo_tells_causemos_arrives_as_a_request(desk: Desk, tmp_path: Path) -> None:
    bucket = open_store(tmp_path.as_uri())
    causemos = CauseMosSimulator(bucket, bucket, queue_url=desk.site.url)
    causemos.put("data-datacube", model_document("m"))
    causemos.put("data-model-run", {"id": "r", "status": "SUBMITTED"})
    run = run_document("r", model_id="m", data_paths=["https://host/r.1.parquet.gzip"], attributes=success())
    dataset = indicator_document("d", data_paths=["https://host/d.1.parquet.gzip"])
    with in_background(causemos.app()) as url, httpx.Client(base_url=f"{url}/api/maas", timeout=60) as dojo:
        assert dojo.post("/model-runs/r/post-process", json=run).status_code == 200
        assert dojo.post("/model-runs/x/post-process", json={**run, "id": "x"}).status_code == 201
        assert dojo.post("/model-runs/y/post-process", json={**run, "model_id": "?"}).status_code == 409
        new = dojo.post("/indicators/post-process", json=dataset)
        again = dojo.post("/indicators/post-process", json=dataset)
        assert (new.status_code, again.status_code) == (201, 200)
        assert again.json() == {"new_ids": [], "existing_ids": new.json()["new_ids"]}
        told = [(job["model_id"], job["run_id"], job["doc_ids"]) for job in desk.jobs()]
        assert told == [("m", "r", ["r"]), ("m", "x", []), ("d", "indicator", new.json()["new_ids"])]
        assert causemos.documents["data-model-run"]["r"]["status"] == "PROCESSING"
        started = desk.hand_over(desk.started()[0], DagsterRunStatus.STARTED)
        causemos.put("data-model-run", {"id": "r", "flow_id": started.run_id})
        assert dojo.get("/model-runs/r/status").json()["state"] == "Running"
        assert dojo.get("/model-runs/r/logs").json()["logs"]
        assert dojo.get("/model-runs/x/status").json() == {}
        desk.open(queue_size=1)
        assert dojo.post("/model-runs/z/post-process", json={**run, "id": "z"}).status_code == 500

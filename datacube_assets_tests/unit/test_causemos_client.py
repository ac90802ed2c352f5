from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from datacube_assets.causemos.client import (
    CauseMosClient,
    Delivered,
    ProcessingFailed,
    ProcessingSucceeded,
    QueueRuntime,
    Refused,
    Unreachable,
)
from datacube_assets.development.causemos_simulator import CauseMosSimulator
from datacube_assets.development.simulator_http import Site, Switches, in_background
from datacube_assets.storage.opening import open_store

SUCCEEDED = ProcessingSucceeded(
    flow_id="f1", run_id="r1", data_id="m1", doc_ids=("r1",), is_indicator=False, start_time=3, end_time=4
)
FAILED = ProcessingFailed(flow_id="f1", run_id="r1", data_id="m1", doc_ids=("r1",), is_indicator=False)
QUEUED = QueueRuntime(
    run_id="r1", data_id="m1", doc_ids=("r1",), is_indicator=False, start_time=1, end_time=2
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


@pytest.fixture
def causemos(tmp_path: Path) -> CauseMosSimulator:
    results = tmp_path / "models" / "m1" / "r1" / "results" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps({"data_info": {"num_rows": 12}, "output_agg_values": []}))
    models, indicators = (open_store((tmp_path / name).as_uri()) for name in ("models", "indicators"))
    return CauseMosSimulator(models, indicators, upsert=True, username="ann", password="s3cret")


@pytest.fixture
def url(site: Site, causemos: CauseMosSimulator) -> str:
    site.app = causemos.app()
    return site.url


@pytest.fixture
def client(url: str) -> Iterator[CauseMosClient]:
    with CauseMosClient(url + "/", "ann", "s3cret", timeout=5) as client:
        yield client


def test_the_three_reports_carry_the_bodies_of_the_original_queue(
    causemos: CauseMosSimulator, client: CauseMosClient
) -> None:
    assert client.queue_runtime(QUEUED) == Delivered("queue-runtime noted")
    assert client.processing_succeeded(SUCCEEDED) == Delivered("processing-succeeded noted")
    assert client.processing_failed(FAILED) == Delivered("processing-failed noted")
    about = {"run_id": "r1", "data_id": "m1", "doc_ids": ["r1"], "is_indicator": False}
    assert [(report.call, report.body) for report in causemos.reports] == [
        ("queue-runtime", about | {"start_time": 1, "end_time": 2}),
        ("processing-succeeded", about | {"flow_id": "f1", "start_time": 3, "end_time": 4}),
        ("processing-failed", about | {"flow_id": "f1"}),
    ]


def test_a_refused_success_turns_into_a_failure_with_the_same_times(
    causemos: CauseMosSimulator, client: CauseMosClient
) -> None:
    unpublished = SUCCEEDED.model_copy(update={"run_id": "r2"})
    answer = client.processing_succeeded(unpublished)
    assert isinstance(answer, Refused)
    assert answer.status == 404
    assert isinstance(client.processing_failed(unpublished.as_failure()), Delivered)
    assert causemos.reports[0].body == causemos.reports[1].body


@pytest.mark.parametrize("doc_ids", [None, ()])
def test_a_report_without_documents_is_refused(
    causemos: CauseMosSimulator, client: CauseMosClient, doc_ids: tuple[str, ...] | None
) -> None:
    report = FAILED.model_copy(update={"doc_ids": doc_ids})
    assert client.processing_failed(report) == Refused(400, "No document IDs")
    assert causemos.reports[0].body["doc_ids"] == (doc_ids if doc_ids is None else [])


def test_each_report_is_tried_once(causemos: CauseMosSimulator, client: CauseMosClient) -> None:
    causemos.switches = Switches(error_rate=1, error_status=500)
    assert client.processing_failed(FAILED) == Refused(500, "switched to fail")
    assert causemos.requests.total() == 1
    assert causemos.reports == []


def test_a_wrong_password_is_a_refusal(url: str, causemos: CauseMosSimulator) -> None:
    with CauseMosClient(url, "ann", "wrong") as client:
        assert client.processing_failed(FAILED) == Refused(401, "Unauthorized")
        assert "wrong" not in repr(client)


def test_a_slow_causemos_is_unreachable(url: str, causemos: CauseMosSimulator) -> None:
    causemos.switches = Switches(latency_seconds=0.5)
    with CauseMosClient(url, "ann", "s3cret", timeout=0.05) as client:
        answer = client.processing_failed(FAILED)
    assert isinstance(answer, Unreachable)
    assert "ReadTimeout" in answer.error or "no whole answer within 0.05 s" in answer.error


def test_an_absent_causemos_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with CauseMosClient(f"http://127.0.0.1:{port}") as client:
        assert isinstance(client.processing_failed(FAILED), Unreachable)


def test_credentials_are_not_taken_from_the_address() -> None:
    with pytest.raises(ValueError, match="base URL"):
        CauseMosClient("https://ann:s3cret@causemos.example")

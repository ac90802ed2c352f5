"""The whole way of a request, with a gateway that is killed, and the gateway held to its description.

Dagster's daemon, CauseMos' simulator and the gateway run as they do in production, each on its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from prometheus_client.parser import text_string_to_metric_families

from datacube_assets.development.ports import free_port
from datacube_assets.development.simulator_http import in_background
from datacube_assets.gateway.server import application
from datacube_assets.orchestration.home import open_instance
from datacube_assets.settings import Settings
from datacube_assets_tests.integration.system import Json, Program, System, system, wait_for


class Gateway:
    """The command `datacube gateway`, as a process of a system."""

    def __init__(self, whole: System, **environment: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-P", "-m", "datacube_assets.cli", "gateway", "--port", str(port)]
        self.http = httpx.Client(timeout=60)
        self.program = Program("gateway", command, {**whole.environment, **environment}, whole.folder)

    def up(self) -> None:
        self.program.start()

        def answers() -> bool:
            self.program.check()
            return httpx.get(f"{self.url}/healthz").is_success

        wait_for(answers, "the gateway")

    def put(self, path: str, body: object = None) -> httpx.Response:
        return self.http.put(f"{self.url}/data-pipeline/{path}", content=json.dumps(body or {}))

    def get(self, path: str) -> Any:
        return self.http.get(f"{self.url}/data-pipeline/{path}").raise_for_status().json()

    def flow(self, run_id: str) -> Json:
        """What CauseMos asks for (docs/specification/queue-and-causemos.md#state-and-log-of-a-run)."""
        fields = "state start_time end_time logs { timestamp message } agent { id labels }"
        query = f'query {{ flow_run(where: {{ id: {{_eq: "{run_id}"}}}}) {{ {fields} }} }}'
        answer = self.http.post(self.url, json={"query": query}).raise_for_status()
        flow: Json = answer.json()["data"]["flow_run"][0]
        return flow

    def metrics(self) -> dict[str, float]:
        """Figures without labels, or summed over them."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(self.http.get(f"{self.url}/metrics").text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
        return sums


@pytest.mark.slow
def test_a_request_outlives_a_killed_gateway_runs_and_is_told(quick_folder: Path) -> None:
    with system(quick_folder) as whole:
        gateway = Gateway(whole)
        try:
            _the_whole_way(whole, gateway)
        finally:
            gateway.program.stop()


def _the_whole_way(whole: System, gateway: Gateway) -> None:
    gateway.up()
    part = whole.folder / "part.parquet.gzip"
    whole.dojo.add_file("part.parquet.gzip")
    (whole.folder / "dojo" / "files" / "part.parquet.gzip").rename(part)

    def parameters(run_id: str, **fields: Any) -> Json:
        return {"model_id": "m", "run_id": run_id, "data_paths": [str(part)], "doc_ids": [run_id], **fields}

    def status_of(name: str) -> str:
        return str(whole.causemos.documents().get(name, {}).get("status", ""))

    assert gateway.put("stop").status_code == 200
    for body in (parameters("a"), parameters("b"), parameters("a", doc_ids=["joined"]), parameters("c")):
        assert (answer := gateway.put("enqueue", body)).status_code == 200, answer.text
    gateway.program.stop(signal.SIGKILL)
    gateway.up()
    assert [job["run_id"] for job in gateway.get("jobs")] == ["a", "b", "c"]
    assert gateway.get("status") == {"count": 3, "is_running": False, "running": 0}

    assert gateway.put("force-flow").status_code == 200
    whole.start_daemon()
    wait_for(lambda: status_of("a") == "READY" and status_of("joined") == "READY", "the forced one")
    assert [job["run_id"] for job in gateway.get("jobs")] == ["b", "c"], "the queue is paused"
    calls = [(r["call"], set(r["body"]["doc_ids"])) for r in whole.causemos.reports()]
    assert calls == [(call, {"a", "joined"}) for call in ("queue-runtime", "processing-succeeded")]
    waited = whole.causemos.reports()[0]["body"]
    assert 0 < waited["start_time"] < waited["end_time"]

    flow_id = whole.causemos.documents()["a"]["flow_id"]
    flow = gateway.flow(flow_id)
    assert flow["state"] == "Success"
    assert flow["start_time"] < flow["end_time"]
    assert flow["agent"]["id"]
    assert any("Fetched part 1 of 1" in line["message"] for line in flow["logs"])

    assert gateway.put(f"retry-flow/{flow_id}", {"raw_count_threshold": 1}).status_code == 200
    (*_, last) = gateway.get("jobs")
    assert (last["run_id"], last["raw_count_threshold"]) == ("a", 1)
    assert set(last["doc_ids"]) == {"a", "joined"}
    assert gateway.put("clear").status_code == 200
    assert gateway.get("jobs") == []

    assert gateway.put("start").status_code == 200
    broken = parameters("d", data_paths=[str(whole.folder / "missing")])
    assert gateway.put("bulk-enqueue", [parameters("b"), broken]).status_code == 200
    wait_for(lambda: status_of("b") == "READY" and status_of("d") == "PROCESSING FAILED", "the others")
    failed = gateway.flow(whole.causemos.documents()["d"]["flow_id"])
    assert failed["state"] == "Failed"
    assert any("missing" in line["message"] for line in failed["logs"])
    assert "c" not in whole.causemos.documents(), "it was dropped"
    wait_for(lambda: gateway.get("status") == {"count": 0, "is_running": True, "running": 0}, "an idle queue")

    figures = gateway.metrics()
    assert figures["datacube_run_seconds_count"] == 3
    assert figures["datacube_delay_seconds_count"] == 2
    assert figures["datacube_delay_seconds_sum"] > 0
    assert figures["datacube_published_objects_total"] > 20
    assert figures["datacube_published_bytes_total"] > 1000
    assert figures["datacube_reports_undelivered"] == 0
    assert gateway.metrics()["datacube_run_seconds_count"] == 3, "each is counted once"


@pytest.mark.slow
def test_whatever_was_answered_with_200_before_a_kill_waits_after_it(quick_folder: Path) -> None:
    with system(quick_folder) as whole:
        gateway = Gateway(whole)
        try:
            gateway.up()
            accepted: list[str] = []

            def send(client: int) -> None:
                for number in range(10_000):
                    run_id = f"{client}-{number}"
                    body = {"model_id": "m", "run_id": run_id, "data_paths": ["x"], "doc_ids": [run_id]}
                    try:
                        answer = gateway.put("enqueue", body)
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 200, answer.text
                    accepted.append(run_id)

            with ThreadPoolExecutor(4) as threads:
                sending = [threads.submit(send, client) for client in range(4)]
                wait_for(lambda: len(accepted) >= 100, "a hundred requests")
                gateway.program.stop(signal.SIGKILL)
                for one in sending:
                    one.result()
            gateway.up()
            waiting = [job["run_id"] for job in gateway.get("jobs")]
            assert set(accepted) <= set(waiting)
            assert len(waiting) <= len(accepted) + 4, "besides, those that nobody heard of any more"
            for client in range(4):
                of_one = [run_id for run_id in waiting if run_id.startswith(f"{client}-")]
                assert of_one == sorted(of_one, key=lambda run_id: int(run_id.partition("-")[2]))
        finally:
            gateway.program.stop()


# --- its description -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What the gateway says of itself, over HTTP."""
    home = tmp_path_factory.mktemp("gateway")
    kept = os.environ.pop("DAGSTER_HOME", None)
    os.environ["DATACUBE_HOME"] = str(home)
    try:
        configured = Settings.from_environment(DATACUBE_HOME=str(home), DATACUBE_QUEUE_SIZE="1000000")
        with open_instance(configured) as instance, in_background(application(configured, instance)) as url:
            yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    finally:
        for name, value in (("DAGSTER_HOME", kept), ("DATACUBE_HOME", None)):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def test_it_keeps_to_its_description(description: Any) -> None:
    _hold(description, 10)


@pytest.mark.slow
def test_it_keeps_to_its_description_at_length(description: Any) -> None:
    _hold(description, 500)


def _hold(description: Any, examples: int) -> None:
    """Send what the description allows, and what it does not, and look whether the answers are as it says."""
    # An id or an address can be refused for what a schema does not say: a path, a host, a kind.
    unsaid = schemathesis.checks.CHECKS.get_one("positive_data_acceptance")
    for found in description.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def hold(case: Any) -> None:
                case.call_and_validate(excluded_checks=[unsaid], timeout=60)

            # Where nothing can be sent, nothing can be sent wrongly.
            with contextlib.suppress(Unsatisfiable):
                hold()

"""Alerts and dashboard by Prometheus itself: rules by promtool, queries against a gateway that is scraped."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from datacube_assets.development.ports import free_port
from datacube_assets_tests.integration.system import gateway_process, wait_for
from datacube_assets_tests.integration.test_infra import INFRA

PROMETHEUS = INFRA / "prometheus"

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="there is no Prometheus here: run `make prometheus`",
)

FAILED, SUCCEEDED = (
    f'datacube_run_seconds_count{{status="{status}", instance="a"}}' for status in ("failure", "success")
)


def rule(name: str, series: dict[str, str], at: str, fires: bool, **labels: str) -> dict[str, Any]:
    """A case for promtool: values of series, a minute apart, and whether the alert is on at a time."""
    alerts = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"][0]["rules"]
    (found,) = (one for one in alerts if one["alert"] == name)
    told = {"exp_labels": found["labels"] | labels, "exp_annotations": found["annotations"]}
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": [told] if fires else []}],
    }


UP = 'up{job="datacube", instance="a"}'
FULL = 'datacube_requests_total{outcome="full", instance="a"}'
CASES = {
    "runs fail and none succeeds": rule(
        "DatacubeRunsFail", {FAILED: "0+1x60", SUCCEEDED: "0x60"}, "60m", True
    ),
    "runs fail and no success was ever told": rule("DatacubeRunsFail", {FAILED: "0+1x60"}, "60m", True),
    "more succeed than fail": rule("DatacubeRunsFail", {FAILED: "0+1x60", SUCCEEDED: "0+3x60"}, "60m", False),
    "two failures of a day": rule("DatacubeRunsFail", {FAILED: "0x30 2x30", SUCCEEDED: "0x60"}, "60m", False),
    "the gateway is away": rule("DatacubeGatewayAway", {UP: "0x10"}, "6m", True),
    "nobody scrapes": rule("DatacubeGatewayAway", {}, "6m", True, job="datacube"),
    "one of two gateways is away": rule(
        "DatacubeGatewayAway", {UP: "0x10", UP.replace('"a"', '"b"'): "1x10"}, "6m", False
    ),
    "a request waits": rule(
        "DatacubeRequestsWaitTooLong",
        {"datacube_requests_oldest_seconds": "4000+60x20", "datacube_queue_paused": "0x20"},
        "15m",
        True,
    ),
    "a request waits in a paused queue": rule(
        "DatacubeRequestsWaitTooLong",
        {"datacube_requests_oldest_seconds": "4000+60x20", "datacube_queue_paused": "1x20"},
        "15m",
        False,
    ),
    "a run is never finished": rule(
        "DatacubeRunsWaitTooLong", {"datacube_runs_oldest_unfinished_seconds": "3600+60x120"}, "80m", True
    ),
    "runs wait, none for long": rule(
        "DatacubeRunsWaitTooLong", {"datacube_runs_oldest_unfinished_seconds": "600x120"}, "80m", False
    ),
    "paused and forgotten": rule(
        "DatacubeQueuePaused",
        {"datacube_requests_waiting": "3x400", "datacube_queue_paused": "1x400"},
        "365m",
        True,
    ),
    "the queue is full": rule("DatacubeRequestsRefusedForRoom", {FULL: "0x5 1x10"}, "10m", True),
    "it was full once": rule("DatacubeRequestsRefusedForRoom", {FULL: "1x30"}, "20m", False),
    "CauseMos is away": rule(
        "DatacubeReportsUndelivered",
        {"datacube_reports_oldest_undelivered_seconds": "1800+60x20"},
        "15m",
        True,
    ),
    "one error after another": rule(
        "DatacubeGatewayErrors",
        {'datacube_gateway_requests_total{route="/", status="503"}': "0+1x30"},
        "25m",
        True,
    ),
    "an error of long ago": rule(
        "DatacubeGatewayErrors",
        {'datacube_gateway_requests_total{route="/", status="503"}': "0 1x60"},
        "40m",
        False,
    ),
}


@needs_prometheus
def test_each_alert_is_on_when_it_should_be_and_off_when_not(tmp_path: Path) -> None:
    shutil.copy2(PROMETHEUS / "alerts.yaml", tmp_path)
    text = {"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": list(CASES.values())}
    (tmp_path / "cases.yaml").write_text(json.dumps(text))
    told = subprocess.run(
        ["promtool", "test", "rules", "cases.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    alerts = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"][0]["rules"]
    tried = {one["alert_rule_test"][0]["alertname"] for one in CASES.values()}
    assert tried == {one["alert"] for one in alerts}, "each has a case"


@needs_prometheus
def test_what_prometheus_is_told_is_understood_by_it(tmp_path: Path) -> None:
    for file in ("prometheus.yaml", "alerts.yaml"):
        shutil.copy2(PROMETHEUS / file, tmp_path)
    told = subprocess.run(
        ["promtool", "check", "config", "prometheus.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that nobody has called."""
    with gateway_process(tmp_path_factory.mktemp("scraped")) as url:
        yield url.removeprefix("http://")


def test_series_that_alerts_ask_for_are_there_from_the_start(gateway: str) -> None:
    """Of one that appears with its first failure, Prometheus cannot tell that it grew from nothing."""
    text = httpx.get(f"http://{gateway}/metrics", timeout=60).text
    there = {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for status in ("success", "failure", "canceled"):
        assert ("datacube_run_seconds_count", ("status", status)) in there
    for status in ("500", "503"):
        for route in ("/data-pipeline/enqueue", "none"):
            assert ("datacube_gateway_requests_total", ("route", route), ("status", status)) in there


@needs_prometheus
def test_every_query_of_the_dashboard_has_an_answer(gateway: str, tmp_path: Path) -> None:
    """Of a Prometheus that scrapes a gateway as `prometheus.yaml` says, but more often."""
    settings = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    (job,) = settings["scrape_configs"]
    job |= {"scrape_interval": "1s", "static_configs": [{"targets": [gateway]}]}
    shutil.copy2(PROMETHEUS / "alerts.yaml", tmp_path)
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    command = [
        *("prometheus", f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/data"),
        f"--web.listen-address=127.0.0.1:{(port := free_port())}",
    ]
    dashboard = json.loads((INFRA / "grafana" / "datacube.json").read_text())
    queries = {
        target["expr"].replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    alerts = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"][0]["rules"]
    unanswered: dict[str, Any] = {}

    def asked(query: str) -> Any:
        address = f"http://127.0.0.1:{port}/api/v1/query"
        return httpx.get(address, params={"query": query}, timeout=30).json()

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: _answers(f"http://127.0.0.1:{port}/-/ready"), "Prometheus", 120)
            httpx.get(f"http://{gateway}/data-pipeline/status", timeout=60)

            def all_answered() -> bool:
                unanswered.clear()
                for query in queries:
                    if not (answer := asked(query)).get("data", {}).get("result"):
                        unanswered[query] = answer
                return not unanswered

            wait_for(all_answered, "answers", 60)
            for one in alerts:
                assert asked(one["expr"])["status"] == "success", one["alert"]
                assert asked(one["expr"])["data"]["result"] == [], f"{one['alert']}: nothing is wrong"
        except AssertionError as error:
            raise AssertionError(f"{error}: {unanswered}") from error
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=10).is_success
    except httpx.TransportError:
        return False

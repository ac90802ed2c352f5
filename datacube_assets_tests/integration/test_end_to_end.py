"""From Dojo to CauseMos, every part a process of its own, undisturbed and while faults are injected.

The usual suite has a few runs and all troubles at once. What the project promises is tried with thirty
runs, which takes some five minutes on two cores:

    make test ARGS="-m slow datacube_assets_tests/integration/test_end_to_end.py"
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus

from datacube_assets.dojo.derive import request_for_indicator
from datacube_assets.dojo.documents import IndicatorDocument
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.orchestration.jobs import ASSET_KEYS, process_model_run
from datacube_assets.orchestration.run_launcher import process_of
from datacube_assets.storage.reports import Outbox
from datacube_assets.storage.requests import leave_request
from datacube_assets.storage.run_info import request_key
from datacube_assets_tests.integration.support import Datacube
from datacube_assets_tests.integration.system import (
    MODEL,
    System,
    gate,
    indicator_document,
    run_document,
    success,
    system,
    wait_for,
)

pytestmark = pytest.mark.timeout(1200)

AGAIN = "executed-again"
"""The run that is executed again while others are processed."""


@pytest.fixture
def whole(quick_folder: Path) -> Iterator[System]:
    with system(quick_folder) as opened:
        yield opened


@dataclass
class Story:
    """What happens in Dojo during a test, and what has to become of it."""

    system: System
    runs: int
    expected: dict[str, str] = field(default_factory=dict)
    """Version that has to be published, by partition."""
    unheard: set[str] = field(default_factory=set)
    """Partitions nobody waits for: published, but not reported."""

    def begin(self) -> None:
        """Put documents that are not ready into Dojo: good ones, bad ones and broken ones."""
        dojo = self.system.dojo
        dojo.put("runs", *(run_document(name) for name in (*self._names(), AGAIN)))
        text = dojo.add_file(f"only-text_{MODEL}_str.1.parquet.gzip")
        dojo.put(
            "runs",
            run_document("failed", attributes={"status": "failed"}),
            run_document("without-paths", attributes=success()),
            run_document("only-text", attributes=success(), data_paths=[text]),
            run_document("without-status", attributes={}),
            run_document("no-list", attributes=success(), data_paths="not a list"),
            run_document("no-object", attributes="success"),
            {"model_id": MODEL, "attributes": success(), "data_paths": [text]},
            run_document("../outside", attributes=success(), data_paths=[dojo.add_file("outside.parquet")]),
        )
        dojo.put("indicators", indicator_document("unpublished", published=False))
        dojo.put("indicators", {"id": "broken", "published": True, "data_paths": 1})

    def _names(self) -> list[str]:
        return [f"run-{number:02}" for number in range(self.runs)]

    def finish(self, begin: int, end: int) -> None:
        """Let some of the good runs succeed."""
        for name in self._names()[begin:end]:
            self.expected[f"{MODEL}:{name}"] = self.system.dojo.finish(name)

    def execute_again(self, execution: int) -> None:
        self.expected[f"{MODEL}:{AGAIN}"] = self.system.dojo.finish(AGAIN, execution)

    def publish_datasets(self) -> None:
        """Publish two datasets in Dojo; CauseMos has documents that wait for one of them."""
        dojo = self.system.dojo
        for name in ("waited-for", "unheard-of"):
            document = indicator_document(name, data_paths=[dojo.add_file(f"{name}.parquet.gzip")])
            partition = f"{name}:indicator"
            self.expected[partition] = dojo.version(document)
            if name == "waited-for":
                leave_request(self.system.lake, self._request(document))
            else:
                self.unheard.add(partition)
            dojo.put("indicators", document)

    def _request(self, document: dict[str, Any]) -> DatacubeRequest:
        paths = [path.replace("{files}", f"{self.system.dojo.url}/files") for path in document["data_paths"]]
        served = IndicatorDocument.model_validate({**document, "data_paths": paths})
        return request_for_indicator(served, ["document-of-rain"])

    def is_over(self) -> bool:
        """Whether everything that was expected has come to rest."""
        published = all(self._published_version(one) == version for one, version in self.expected.items())
        return (
            published
            and len(self.system.runs()) >= len(self.expected)
            and all(run.is_finished for run in self.system.runs())
            and not Outbox(self.system.lake).waiting()
            and all(self._outcomes(one) for one in self.expected if one not in self.unheard)
        )

    def _published_version(self, partition: str) -> str | None:
        from datacube_assets.dojo.model_run import ModelRun

        if not self.system.published(partition):
            return None
        document = self.system.lake.read_document(request_key(ModelRun.from_key(partition)))
        return str(document["source_version"]) if document else None

    def _outcomes(self, partition: str) -> list[dict[str, Any]]:
        """What CauseMos was told of a partition's outcome."""
        return [
            report
            for report in self.system.causemos.reports()
            if f"{report['body']['data_id']}:{report['body']['run_id']}" == partition
            and report["call"] != "queue-runtime"
        ]

    def check(self) -> None:
        """Everything good is published once and told once, and nothing else happened."""
        assert self.system.partitions() == set(self.expected)
        runs = [run for run in self.system.runs() if run.parent_run_id is None]
        # Behind a `#`, how often the state changed.
        keys = (run.tags["dagster/run_key"].rpartition("@")[2].partition("#")[0] for run in runs)
        asked = Counter(zip((run.tags["dagster/partition"] for run in runs), keys, strict=True))
        assert set(asked.values()) == {1}, "the same state of a run was processed twice"
        assert set(self.expected.items()) <= set(asked)
        assert {partition for partition, _ in asked} == set(self.expected)
        reports = self.system.causemos.reports()
        taken = [report for report in reports if report["status"] == 200]
        refused = [report["body"] for report in reports if report["call"] == "processing-failed"]
        assert not refused, [self.system.why(body["flow_id"]) for body in refused]
        ready = Counter(
            (f"{report['body']['data_id']}:{report['body']['run_id']}", report["body"]["flow_id"])
            for report in taken
            if report["call"] == "processing-succeeded"
        )
        assert set(ready.values()) == {1}, "a run was reported twice"
        told = Counter(partition for partition, _ in ready)
        again = told.pop(f"{MODEL}:{AGAIN}")
        assert again in (1, 2), "once for every execution that was published, the newest included"
        assert told == dict.fromkeys(set(self.expected) - self.unheard - {f"{MODEL}:{AGAIN}"}, 1)
        self._check_order(taken)
        documents = self.system.causemos.documents()
        assert {document["status"] for document in documents.values()} == {"READY"}
        self._check_datacubes()
        assert self.system.busiest()[0] == 1, "two runs of a partition at the same time"

    def _check_order(self, taken: list[dict[str, Any]]) -> None:
        """A run's start is told before its outcome, with times that can be."""
        begun: dict[tuple[str, str], int] = {}
        for report in taken:
            body = report["body"]
            assert body["start_time"] <= body["end_time"]
            name = (body["data_id"], body["run_id"])
            if report["call"] == "queue-runtime":
                begun[name] = body["end_time"]
            else:
                assert begun[name] <= body["end_time"]

    def _check_datacubes(self) -> None:
        buckets = self.system.settings.home / "buckets"
        for partition in self.expected:
            model_id, run_id = partition.split(":")
            folder = buckets / ("indicators" if run_id == "indicator" else "models") / model_id / run_id
            Datacube(
                folder,
                {
                    path.relative_to(folder).as_posix(): path.read_bytes()
                    for path in folder.rglob("*")
                    if path.is_file()
                },
            ).check()
        # The part of each execution has its number as the first value.
        again = Datacube(
            buckets, {"raw.csv": next((buckets / "models" / MODEL / AGAIN).rglob("raw.csv")).read_bytes()}
        )
        assert "2.0" in {line["value"] for line in again.csv("raw.csv") if line["country"] == "Kenya"}


def check_sensors(whole: System) -> None:
    """All sensors are on, and none of their last ticks failed."""
    repository = {"repositoryName": "__repository__", "repositoryLocationName": "datacube_assets.definitions"}
    found = whole.graphql(
        """query($repository: RepositorySelector!) {
          sensorsOrError(repositorySelector: $repository) {
            ... on Sensors {
              results { name sensorState { status ticks(limit: 100) { status error { message } } } }
            }
          }
        }""",
        repository=repository,
    )["sensorsOrError"]["results"]
    names = {sensor["name"] for sensor in found}
    assert names == {"dojo_model_runs", "dojo_indicators", "requests", "causemos_reports"}
    for sensor in found:
        assert sensor["sensorState"]["status"] == "RUNNING"
        errors = [tick["error"] for tick in sensor["sensorState"]["ticks"] if tick["status"] == "FAILURE"]
        assert not errors, (sensor["name"], errors[0])


@pytest.mark.slow
def test_every_run_that_becomes_ready_is_published_and_reported_once(whole: System) -> None:
    story = Story(whole, 30)
    story.begin()
    story.finish(0, 10)
    story.execute_again(1)
    whole.start_daemon()
    whole.start_webserver()
    wait_for(whole.runs, "the first runs")
    story.finish(10, 20)
    story.publish_datasets()
    wait_for(lambda: whole.published(f"{MODEL}:{AGAIN}"), "the run that is executed again", 300)
    story.execute_again(2)
    story.finish(20, 30)
    wait_for(story.is_over, "the end", 900)
    story.check()
    assert {run.status for run in whole.runs()} == {DagsterRunStatus.SUCCESS}
    check_sensors(whole)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [4, 30])
def test_kills_and_outages_lead_to_the_same_end(whole: System, runs: int) -> None:
    story = Story(whole, runs)
    story.begin()
    story.finish(0, runs // 2)
    story.execute_again(1)
    whole.start_daemon()
    victim = wait_for(
        lambda: next((run for run in whole.runs() if run.status == DagsterRunStatus.STARTED), None), "a run"
    )
    whole.kill_daemon()
    process = process_of(victim.run_id)
    if process is not None:
        os.kill(process, signal.SIGKILL)
    whole.dojo.down()
    whole.causemos.switch(error_rate=1.0, error_status=500)
    story.finish(runs // 2, runs)
    story.publish_datasets()
    story.execute_again(2)
    whole.start_daemon()
    outbox = Outbox(whole.lake)
    wait_for(lambda: any(report.attempts for report in outbox.waiting()), "a report that CauseMos refuses")
    whole.dojo.up()
    wait_for(lambda: len(whole.runs()) > runs // 2 + 1, "runs that became ready while Dojo was down", 180)
    whole.causemos.switch(error_rate=0.0)
    wait_for(story.is_over, "the end", 120 + 20 * runs)
    story.check()
    killed = [run for run in whole.runs() if run.status != DagsterRunStatus.SUCCESS]
    assert process is None or [run.run_id for run in killed] == [victim.run_id]


LAUNCH = """mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""


def launch_backfill(whole: System, **params: Any) -> None:
    """Start a backfill as the UI does."""
    answer = whole.graphql(LAUNCH, params=params)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer


@pytest.mark.slow
def test_backfills_run_a_partition_once_at_a_time_and_let_new_runs_pass(whole: System) -> None:
    partitions = [f"{MODEL}:filled-{number}" for number in range(3)]
    name = whole.dojo.add_file("filled.parquet.gzip").rpartition("/")[2]
    with gate(whole.dojo.folder / "files") as (closed, url):
        for partition in partitions:
            leave_request(
                whole.lake,
                DatacubeRequest(
                    model_id=MODEL,
                    run_id=partition.split(":")[1],
                    data_paths=(f"{url}/{name}",),
                ),
            )
        whole.instance.add_dynamic_partitions("model_runs", partitions)
        whole.start_daemon()
        whole.start_webserver()
        # Two people ask for the same at once: one from the asset graph, one from the job's page.
        launch_backfill(
            whole,
            partitionNames=partitions,
            assetSelection=[{"path": list(key.path)} for key in sorted(ASSET_KEYS)],
        )
        launch_backfill(
            whole,
            partitionNames=partitions,
            selector={
                "partitionSetName": f"{process_model_run.name}_partition_set",
                "repositorySelector": {
                    "repositoryName": "__repository__",
                    "repositoryLocationName": "datacube_assets.definitions",
                },
            },
        )
        wait_for(lambda: len(whole.runs()) == 2 * len(partitions), "the runs of both backfills")
        # Backfills stand still where they fetch, until the new run is there.
        whole.dojo.finish("new")
        wait_for(lambda: len(whole.runs()) == 2 * len(partitions) + 1, "the new run")
        closed.open()
        wait_for(whole.settled, "all runs", 240)
    assert {run.status for run in whole.runs()} == {DagsterRunStatus.SUCCESS}
    assert whole.busiest() == (1, 2)
    starts = {
        record.dagster_run.run_id: record.start_time or 0.0 for record in whole.instance.get_run_records()
    }
    new = whole.runs(f"{MODEL}:new")[0]
    later = [run for run in whole.runs() if starts[run.run_id] > starts[new.run_id]]
    assert later, "the new run waited for both backfills"
    assert all(whole.published(partition) for partition in partitions)

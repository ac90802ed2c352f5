"""Reports to CauseMos: which are made, in which order, how often, and what an outage does to them.

Runs are executed and recorded in a Dagster storage on disk, CauseMos is its simulator; the sensor is
evaluated as Dagster's code server does it. Only the clock of `deliver` is turned by hand.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import (
    consume_new_runs_for_automatic_reexecution,
)

from datacube_assets.causemos.client import CauseMosClient
from datacube_assets.definitions import build_definitions
from datacube_assets.development.causemos_simulator import CauseMosSimulator
from datacube_assets.development.ports import free_port
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.orchestration.jobs import ASSET_KEYS, process_model_run, selection
from datacube_assets.partitions import model_runs
from datacube_assets.sensors import reports
from datacube_assets.sensors.reports import deliver
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest
from datacube_assets.storage.reports import FIRST_WAIT, LONGEST_WAIT, Kind, Outbox, Report
from datacube_assets.storage.requests import leave_request
from datacube_assets.storage.run_info import request_key
from datacube_assets_tests.integration.support import House, begin_home, dagster_storage, rows
from datacube_assets_tests.integration.system import evaluate

RUN = ModelRun("model", "run")
CHECK = AssetCheckKey(AssetKey("pipeline_results"), "reports_delivered")
BODY: dict[str, Any] = {"run_id": "run", "data_id": "model", "doc_ids": ["run"], "is_indicator": False}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


@dataclass
class Post:
    """A house whose outcomes are told to a CauseMos."""

    house: House
    causemos: CauseMosSimulator
    url: str
    said: list[str] = field(default_factory=list)

    @property
    def lake(self) -> Lake:
        return Lake(open_store(self.house.settings.lake))

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.lake)

    @property
    def instance(self) -> DagsterInstance:
        return self.house.instance

    def tick(self, cursor: str | None = None) -> SensorExecutionData:
        """Evaluate the sensor."""
        return evaluate(self.house.settings, self.instance, "causemos_reports", cursor)

    def deliver(self, now: int) -> tuple[int, int]:
        """Deliver what is due at a time (ms)."""
        with CauseMosClient(self.url, timeout=1) as client:
            return deliver(self.outbox, client, self.lake, now, self.said.append)

    @property
    def calls(self) -> list[tuple[str, int]]:
        """What reached CauseMos, with its answers."""
        return [(report.call, report.status) for report in self.causemos.reports]

    @property
    def status(self) -> str | None:
        """What CauseMos says of the run."""
        status: str | None = self.causemos.documents["data-model-run"].get("run", {}).get("status")
        return status

    def publish(self, **fields: Any) -> DagsterRun:
        """Process four rows; returns Dagster's run of it."""
        self.house.publish(rows(), **{"doc_ids": ["run"], **fields})
        return self.instance.get_runs(limit=1)[0]

    def record(self, status: DagsterRunStatus, run: ModelRun = RUN, **tags: str) -> DagsterRun:
        """A run of the full selection that came to this end before its first step."""
        job = build_definitions(self.house.settings).resolve_job_def(process_model_run.name)
        tags = {"dagster/partition": run.key, **{name.replace("__", "/"): tag for name, tag in tags.items()}}
        created = self.instance.create_run_for_job(job, tags=tags)
        if status == DagsterRunStatus.FAILURE:
            self.instance.report_run_failed(created)
        elif status == DagsterRunStatus.CANCELED:
            self.instance.report_run_canceled(created)
        return created


@pytest.fixture
def post(quick_folder: Path, site: Site) -> Iterator[Post]:
    home = quick_folder / "home"
    settings = Settings.model_validate(
        {"DATACUBE_HOME": home, "CAUSEMOS_URL": site.url, "DATACUBE_PICTURES": False}
    ).resolved()
    models, indicators = (open_store((home / "buckets" / name).as_uri()) for name in ("models", "indicators"))
    causemos = CauseMosSimulator(models, indicators, upsert=True)
    site.app = causemos.app()
    configuration = begin_home(home) / "dagster.yaml"
    # A run that failed is told at once.
    configuration.write_text(configuration.read_text().replace("max_retries: 3", "max_retries: 0"))
    with dagster_storage(home) as instance:
        instance.add_dynamic_partitions(str(model_runs.name), [RUN.key])
        yield Post(House(home, settings, instance), causemos, site.url)


def test_a_run_that_succeeded_is_told_in_order_with_its_times(post: Post) -> None:
    run = post.publish()
    tick = post.tick()
    assert "2 new reports for CauseMos, 2 settled, none waits." in str(tick.skip_message)
    queued, succeeded = post.causemos.reports
    assert (queued.call, succeeded.call) == ("queue-runtime", "processing-succeeded")
    assert set(queued.body) == {*BODY, "start_time", "end_time"}
    assert set(succeeded.body) == {*BODY, "start_time", "end_time", "flow_id"}
    assert {name: succeeded.body[name] for name in BODY} == BODY
    assert succeeded.body["flow_id"] == run.run_id
    record = post.instance.get_run_record_by_id(run.run_id)
    assert record is not None
    assert queued.body["start_time"] == int(record.create_timestamp.timestamp() * 1000)
    assert queued.body["end_time"] == succeeded.body["start_time"] == int((record.start_time or 0) * 1000)
    assert succeeded.body["end_time"] == int((record.end_time or 0) * 1000)
    assert queued.body["start_time"] <= succeeded.body["start_time"] <= succeeded.body["end_time"]
    assert post.status == "READY"


def test_each_run_is_told_once_across_ticks_lost_cursors_and_restarts(post: Post) -> None:
    post.publish()
    cursor = post.tick().cursor
    for again in (cursor, None, "", "no cursor", cursor):
        post.tick(again)
    assert post.calls == [("queue-runtime", 200), ("processing-succeeded", 200)]
    run = post.publish(weight_column="")  # the same input once more: another run
    post.tick(cursor)
    assert len(post.calls) == 4
    assert post.causemos.reports[-1].body["flow_id"] == run.run_id
    assert post.outbox.settled(run.run_id) == ["delivered", "delivered"]


def test_going_back_to_an_earlier_version_is_told_as_ready_again(post: Post) -> None:
    post.publish()
    cursor = post.tick().cursor
    post.house.publish(rows(value=[5.0, 6.0, 7.0, 8.0]), doc_ids=["run"])
    cursor = post.tick(cursor).cursor
    assert [call for call, _ in post.calls] == ["queue-runtime", "processing-succeeded"] * 2
    done = post.house.run_job("rollback_datacube", RUN)
    post.tick(cursor)
    told = post.causemos.reports[-1]
    assert (told.call, told.status) == ("processing-succeeded", 200)
    assert {name: told.body[name] for name in BODY} == BODY
    assert told.body["flow_id"] == done.run_id
    assert post.status == "READY"


def test_a_dataset_is_told_with_the_documents_that_wait_for_it(post: Post) -> None:
    post.publish(model_id="d", run_id="indicator", is_indicator=True, doc_ids=["one", "two"])
    post.tick()
    body = post.causemos.reports[-1].body
    assert (body["run_id"], body["data_id"], body["is_indicator"]) == ("indicator", "d", True)
    assert body["doc_ids"] == ["one", "two"]
    documents = post.causemos.documents["data-datacube"]
    assert {name: document["status"] for name, document in documents.items()} == {
        "one": "READY",
        "two": "READY",
    }


@pytest.mark.parametrize("doc_ids", [None, []])
def test_nobody_is_told_of_a_run_nobody_waits_for(doc_ids: list[str] | None, post: Post) -> None:
    post.publish(doc_ids=doc_ids)
    assert str(post.tick().skip_message) == "Nothing new to tell CauseMos."
    assert post.calls == []


def test_nobody_is_told_of_runs_of_a_part_of_the_assets(post: Post) -> None:
    post.publish()
    cursor = post.tick().cursor
    post.house.materialize(RUN, "dojo_request", "raw_dojo_output")
    assets = selection(("compute_tiles",)) or []
    post.house.materialize(RUN, *(key.to_user_string() for key in assets))
    post.tick(cursor)
    assert len(post.calls) == 2


def test_a_materialization_of_all_assets_from_the_graph_is_told(post: Post) -> None:
    leave_request(
        post.lake,
        DatacubeRequest.model_validate(
            {**BODY, "model_id": "model", "data_paths": [post.house.write(rows())]}
        ),
    )
    post.house.materialize(RUN, *(key.to_user_string() for key in ASSET_KEYS))
    post.tick()
    assert post.calls == [("queue-runtime", 200), ("processing-succeeded", 200)]


def test_a_run_that_failed_is_told_as_failed(post: Post) -> None:
    with pytest.raises(InputError):
        post.house.publish("/nowhere/part.parquet.gzip", doc_ids=["run"])
    post.tick()
    assert post.calls == [("queue-runtime", 200), ("processing-failed", 200)]
    body = post.causemos.reports[-1].body
    assert set(body) == {*BODY, "flow_id"}
    assert post.status == "PROCESSING FAILED"


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_a_model_run_that_ended_before_its_request_was_known_is_told_as_failed(
    status: DagsterRunStatus, post: Post
) -> None:
    run = post.record(status)
    post.tick()
    assert [call for call, _ in post.calls] == ["queue-runtime", "processing-failed"]
    assert post.causemos.reports[-1].body == {**BODY, "flow_id": run.run_id}


def test_of_a_dataset_nobody_knows_who_waits_before_its_request_is_known(post: Post) -> None:
    post.record(DagsterRunStatus.FAILURE, ModelRun("d", "indicator"))
    post.tick()
    assert post.calls == []


@contextlib.contextmanager
def with_retries(folder: Path) -> Iterator[DagsterInstance]:
    overrides = {"run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}}
    with DagsterInstance.local_temp(str(folder / "retrying"), overrides=overrides) as instance:
        yield instance


def test_a_failure_is_told_only_when_dagster_will_not_repeat_the_run(post: Post, tmp_path: Path) -> None:
    (tmp_path / "retrying").mkdir()
    with with_retries(tmp_path) as instance:
        post.house = House(post.house.folder, post.house.settings, instance)
        run = post.record(DagsterRunStatus.FAILURE)
        failed = instance.get_run_by_id(run.run_id)
        assert failed is not None
        assert failed.tags["dagster/will_retry"] == "true"
        cursor = post.tick().cursor
        assert [call for call, _ in post.calls] == ["queue-runtime"]
        # Dagster sets the tag after the status, so a tick may come between them.
        instance.run_storage.delete_run(run.run_id)
        storage = instance.run_storage
        storage.add_run(failed.with_tags({"dagster/partition": RUN.key}))
        cursor = post.tick(cursor).cursor
        assert [call for call, _ in post.calls] == ["queue-runtime"]
        # When the retry cannot be made, Dagster takes the announcement back.
        instance.add_run_tags(run.run_id, {"dagster/will_retry": "false"})
        post.tick(cursor)
        assert [call for call, _ in post.calls] == ["queue-runtime", "processing-failed"]


def test_a_run_that_dagster_could_not_repeat_is_started_anew_and_not_told_as_failed(
    post: Post, tmp_path: Path
) -> None:
    """A soak lost a run: its code server was killed in the moment in which Dagster repeated it."""
    (tmp_path / "retrying").mkdir()
    with with_retries(tmp_path) as instance:
        post.house = House(post.house.folder, post.house.settings, instance)
        instance.add_dynamic_partitions(str(model_runs.name), [RUN.key])
        job = build_definitions(post.house.settings).resolve_job_def(process_model_run.name)
        origin = RemoteJobOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("away"), "__repository__"), job.name
        )
        tags = {"dagster/partition": RUN.key, "datacube/source": "dojo", "dagster/priority": "10"}
        died = instance.create_run_for_job(job, tags=tags, remote_job_origin=origin)
        instance.report_run_failed(died)
        away = GrpcServerTarget(host="127.0.0.1", port=free_port(), socket=None, location_name="away")
        with WorkspaceProcessContext(instance, away) as workspace:
            records = instance.get_run_records(RunsFilter(run_ids=[died.run_id]))
            list(consume_new_runs_for_automatic_reexecution(workspace, records, logging.getLogger("daemon")))
        (failed,) = instance.get_runs(RunsFilter(run_ids=[died.run_id]))
        assert failed.tags["dagster/will_retry"] == "false", "Dagster gave it up"
        cursor = post.tick().cursor
        assert [call for call, _ in post.calls] == ["queue-runtime"]

        tick = evaluate(post.house.settings, instance, "requests")
        (asked,) = tick.run_requests or ()
        assert (asked.partition_key, asked.tags["datacube/source"], asked.tags["dagster/priority"]) == (
            RUN.key,
            "dojo",
            "10",
        )
        # A tick whose runs nobody created asks again for the same one; Dagster creates it once.
        (same,) = evaluate(post.house.settings, instance, "requests").run_requests or ()
        assert same.run_key == asked.run_key
        instance.create_run_for_job(job, tags={**asked.tags, "dagster/run_key": str(asked.run_key)})
        assert not evaluate(post.house.settings, instance, "requests").run_requests
        assert not evaluate(post.house.settings, instance, "requests").run_requests
        post.tick(cursor)
        assert [call for call, _ in post.calls] == ["queue-runtime"]


@pytest.mark.parametrize("job", ["process_model_run", "republish_datacube", "recompute_tiles"])
def test_a_run_that_dagster_could_not_repeat_is_started_anew_however_long_ago_and_of_whichever_job(
    job: str, post: Post, tmp_path: Path
) -> None:
    """After 24 hours it was forgotten, and CauseMos heard PROCESSING for ever."""
    (tmp_path / "retrying").mkdir()
    with with_retries(tmp_path) as instance:
        instance.add_dynamic_partitions(str(model_runs.name), [RUN.key])
        definition = build_definitions(post.house.settings).resolve_job_def(job)
        tags = {"dagster/partition": RUN.key, "datacube/source": "dojo"}
        died = instance.create_run_for_job(definition, tags=tags)
        instance.report_run_failed(died)
        instance.add_run_tags(died.run_id, {"dagster/will_retry": "false"})
        failed = instance.get_run_by_id(died.run_id)
        assert failed is not None
        instance.report_engine_event("Failed to retry run", failed)
        with sqlite3.connect(tmp_path / "retrying" / "history" / "runs.db") as runs:
            runs.execute("update runs set update_timestamp = '2020-01-01 00:00:00.000000'")
        tick = evaluate(post.house.settings, instance, "requests")
        (asked,) = tick.run_requests or ()
        assert (asked.partition_key, asked.job_name) == (RUN.key, job)
        # Whoever has looked since does not look at everything again.
        later = evaluate(post.house.settings, instance, "requests", tick.cursor)
        assert not later.run_requests


def test_a_run_that_died_after_its_last_object_is_told_as_ready(post: Post) -> None:
    run = post.publish()
    # As run monitoring finds it when the process is killed before it could say that it was done.
    record = post.instance.get_run_by_id(run.run_id)
    assert record is not None
    post.instance.report_run_failed(record)
    assert post.instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
    post.tick()
    assert post.calls == [("queue-runtime", 200), ("processing-succeeded", 200)]
    assert post.status == "READY"


def test_success_is_not_told_of_a_datacube_that_was_replaced_meanwhile(post: Post) -> None:
    first = post.publish()
    second = post.publish(fill_timestamp=1)
    post.tick()
    assert [call for call, _ in post.calls] == ["queue-runtime", "queue-runtime", "processing-succeeded"]
    assert post.causemos.reports[-1].body["flow_id"] == second.run_id
    assert post.outbox.settled(first.run_id) == ["delivered", "superseded"]


def test_success_is_not_told_while_another_version_is_being_published(post: Post) -> None:
    run = post.publish()
    with pytest.raises(InputError):
        post.house.publish(rows(value=["a", "b", "c", "d"]), doc_ids=["run"])
    manifest_before = manifest(post.lake, RUN, RESULTS_ASSET)
    assert manifest_before is not None, "input that cannot be used leaves the datacube as it was"
    post.lake.store.delete_many([f"{RUN.folder}/manifests/pipeline_results/manifest.json"])
    post.tick()
    assert "processing-succeeded" not in [call for call, _ in post.calls]
    assert post.outbox.settled(run.run_id) == ["delivered", "superseded"]
    assert post.status == "PROCESSING FAILED", "that of the second run"


def report(kind: Kind, flow_id: str = "f", *, version: str | None = None, created: int = 0) -> Report:
    times = {"start_time": 1, "end_time": 2}
    bodies: dict[Kind, dict[str, Any]] = {
        "queue-runtime": {**BODY, **times},
        "processing-succeeded": {**BODY, **times, "flow_id": flow_id},
        "processing-failed": {**BODY, "flow_id": flow_id},
    }
    return Report(flow_id, kind, RUN.key, bodies[kind], version, created)


def test_success_that_causemos_cannot_follow_becomes_a_report_of_failure(post: Post) -> None:
    run = post.publish()
    results = post.house.bucket() / "model" / "run" / "results" / "results.json"
    results.unlink()
    post.tick()
    assert post.calls == [("queue-runtime", 200), ("processing-succeeded", 404), ("processing-failed", 200)]
    succeeded, failed = post.causemos.reports[1:]
    assert failed.body == succeeded.body, "the times included, as from the original queue"
    assert post.status == "PROCESSING FAILED"
    assert post.outbox.settled(run.run_id) == ["delivered", "delivered"]


@pytest.mark.parametrize(
    "status", [404, *(pytest.param(status, marks=pytest.mark.slow) for status in (400, 409, 422))]
)
def test_success_that_is_refused_for_good_becomes_a_report_of_failure(status: int, post: Post) -> None:
    post.publish()
    version = (manifest(post.lake, RUN, RESULTS_ASSET) or {})["version"]
    post.outbox.post(report("processing-succeeded", version=version))
    post.causemos.switches.error_next, post.causemos.switches.error_status = 1, status
    assert post.deliver(0) == (1, 0)
    assert post.calls == [("processing-failed", 200)]


@pytest.mark.parametrize("kind", ["queue-runtime", "processing-failed"])
def test_what_is_refused_for_good_and_has_no_other_form_is_put_on_record(kind: Kind, post: Post) -> None:
    post.outbox.post(report(kind))
    post.causemos.switches.error_next, post.causemos.switches.error_status = 1, 400
    assert post.deliver(0) == (1, 0)
    assert post.outbox.settled("f") == ["refused: 400 switched to fail"]
    assert post.deliver(10**9) == (0, 0)
    assert post.calls == []


@pytest.mark.parametrize("status", [500, 502, 503, 401, 403, 408, 429, None])
def test_what_cannot_be_delivered_waits_longer_and_longer_and_is_delivered_in_the_end(
    status: int | None, post: Post
) -> None:
    post.outbox.post(report("processing-failed", created=2))
    post.outbox.post(report("queue-runtime", created=1))
    url = post.url
    if status is None:
        post.url = "http://127.0.0.1:9"  # nobody listens there
    else:
        post.causemos.switches.error_rate, post.causemos.switches.error_status = 1.0, status
    now, waits = 1_000_000, []
    for attempt in range(1, 9):
        assert post.deliver(now) == (0, 2)
        queued, failed = post.outbox.waiting()
        assert (queued.attempts, failed.attempts) == (attempt, 0), "the outcome is not told before the start"
        assert queued.last_error
        waits.append(queued.next_attempt - now)
        asked = post.causemos.requests.total()
        assert post.deliver(queued.next_attempt - 1) == (0, 2)
        assert post.causemos.requests.total() == asked, "nobody is asked before the time has come"
        now = queued.next_attempt
    assert waits == [min(FIRST_WAIT * 2**doubling, LONGEST_WAIT) for doubling in range(8)]
    assert waits[-1] == LONGEST_WAIT
    post.url, post.causemos.switches.error_rate = url, 0.0
    assert post.deliver(now) == (2, 0)
    assert post.calls == [("queue-runtime", 200), ("processing-failed", 200)]


def test_while_nobody_answers_a_tick_makes_a_single_attempt(post: Post) -> None:
    for number in range(5):
        failed = report("processing-failed", f"f{number}", created=number)
        post.outbox.post(replace(failed, partition=f"model:run-{number}"))
    url, post.url = post.url, "http://127.0.0.1:9"
    assert post.deliver(0) == (0, 5)
    assert [waiting.attempts for waiting in post.outbox.waiting()] == [1, 0, 0, 0, 0]
    assert post.deliver(1) == (0, 5)
    assert [waiting.attempts for waiting in post.outbox.waiting()] == [1, 1, 0, 0, 0]
    post.url = url
    assert post.deliver(FIRST_WAIT + 1) == (5, 0)


def test_what_is_told_of_a_partition_keeps_its_order(post: Post) -> None:
    post.outbox.post(report("processing-failed", "earlier", created=1))
    post.outbox.post(report("processing-failed", "later", created=2))
    url, post.url = post.url, "http://127.0.0.1:9"
    post.deliver(0)
    post.url = url
    assert post.deliver(1) == (0, 2)
    assert post.deliver(FIRST_WAIT + 1) == (2, 0)
    assert [told.body["flow_id"] for told in post.causemos.reports] == ["earlier", "later"]


def test_a_partition_that_is_no_run_of_a_model_stops_no_report(post: Post) -> None:
    job = build_definitions(post.house.settings).resolve_job_def(process_model_run.name)
    stray = post.instance.create_run_for_job(job, tags={"dagster/partition": "foo"})
    post.instance.report_run_failed(stray)
    post.publish()
    post.tick()
    assert post.calls == [("queue-runtime", 200), ("processing-succeeded", 200)]


def test_reports_of_one_run_stay_in_order_whenever_they_were_written(post: Post) -> None:
    # The start was noticed late: after the run's own clock said that it was over.
    record = post.publish()
    post.tick()
    stages = [post.lake.read_document(f"reports/settled/{record.run_id}.{stage}.json") for stage in (0, 1)]
    queued, succeeded = [document or {} for document in stages]
    assert queued["created"] <= succeeded["created"]
    post.outbox.post(report("queue-runtime", "late", created=5))
    post.outbox.post(report("processing-failed", "late", created=5))
    assert [waiting.kind for waiting in post.outbox.waiting()] == ["queue-runtime", "processing-failed"]


def test_undelivered_reports_are_seen_in_the_check_until_they_are_delivered(post: Post) -> None:
    run = post.publish()
    post.causemos.switches.error_rate, post.causemos.switches.error_status = 1.0, 500
    tick = post.tick()
    (evaluation,) = tick.asset_events
    assert isinstance(evaluation, AssetCheckEvaluation)
    assert evaluation.asset_check_key == CHECK
    assert not evaluation.passed
    assert evaluation.metadata["undelivered"].value == 1
    assert evaluation.metadata["partitions"].value == [RUN.key]
    assert "could not be delivered" in str(evaluation.description)
    quiet = post.tick(tick.cursor)
    assert not quiet.asset_events, "nothing new to say"
    assert run.status == DagsterRunStatus.SUCCESS, "the data is no worse for it"
    post.causemos.switches.error_rate = 0.0
    assert post.deliver(10**15) == (2, 0)
    (evaluation,) = post.tick(quiet.cursor).asset_events
    assert isinstance(evaluation, AssetCheckEvaluation)
    assert evaluation.passed
    assert post.status == "READY"


def test_the_check_of_a_run_says_whether_reports_wait(post: Post) -> None:
    post.publish()

    def last_check() -> bool:
        history = post.instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=1)
        event = history[0].event
        assert event is not None
        return event.get_dagster_event().asset_check_evaluation_data.passed

    assert last_check()
    post.outbox.post(report("queue-runtime"))
    post.publish()
    assert last_check(), "nobody has tried to deliver it yet"
    post.causemos.switches.error_rate = 1.0
    post.deliver(0)
    post.publish()
    assert not last_check()


def test_a_clock_that_was_ahead_hides_no_later_run(post: Post) -> None:
    """The cursor stood in the future, and no run was told until the clock had come there."""
    ahead = f"{time.time() + 30 * 86_400} 0"
    post.publish()
    tick = post.tick(ahead)
    assert [call for call, _ in post.calls] == ["queue-runtime", "processing-succeeded"]
    assert float(str(tick.cursor).split()[0]) <= time.time()


class Wrong:
    """A clock that is wrong by the first of some seconds, then by the next, and by the last from then on."""

    monotonic, time_ns = staticmethod(time.monotonic), staticmethod(time.time_ns)

    def __init__(self, *by: float) -> None:
        self.by = list(by)

    def time(self) -> float:
        return time.time() + (self.by.pop(0) if len(self.by) > 1 else self.by[0])


def test_what_ended_between_a_clock_set_back_and_the_next_tick_is_told(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A soak lost reports: the tick came later than its overlap, and began to look at its own beginning."""
    post.publish()
    monkeypatch.setattr(reports, "time", Wrong(300.0))
    post.tick(f"{time.time() + 360} 0")
    assert [call for call, _ in post.calls] == ["queue-runtime", "processing-succeeded"]


@pytest.mark.parametrize("back", [300.0, 30 * 86_400.0])
def test_what_ended_while_the_clock_was_wrong_for_a_moment_is_told_minutes_later(
    post: Post, monkeypatch: pytest.MonkeyPatch, back: float
) -> None:
    """A soak lost reports: no tick fell into the moment, so that none saw the clock go back."""
    post.publish()
    post.record(DagsterRunStatus.FAILURE)
    # What the runs ended by was behind; here it is the sensor's clock that is ahead.
    monkeypatch.setattr(reports, "time", Wrong(back))
    now = time.time() + back
    tick = post.tick(f"{now - 5} 0 {now - 5}")
    assert post.calls == []
    tick = post.tick(f"{now - 5} 0 {now - 5 - reports.WIDE_EVERY}")
    assert [call for call, _ in post.calls][:2] == ["queue-runtime", "processing-succeeded"]
    assert post.calls[-1][0] == "processing-failed", "what came last is told last"
    # The cursor is where it was: runs that end now are seen at the next tick.
    assert float(str(tick.cursor).split()[0]) == now - 5
    assert float(str(tick.cursor).split()[2]) >= now


def test_a_clock_that_is_set_right_during_a_tick_hides_nothing_that_ends_meanwhile(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of before stood in the future, and the cursor went there once that had come."""
    post.publish()
    began = time.time()
    monkeypatch.setattr(reports, "time", Wrong(-300.0, 0.0))
    tick = post.tick(f"{began - 310} 0")
    assert [call for call, _ in post.calls] == ["queue-runtime", "processing-succeeded"]
    assert float(str(tick.cursor).split()[0]) <= time.time() - 300


def test_without_a_causemos_the_sensor_says_how_to_name_one(post: Post) -> None:
    post.publish()
    post.house = post.house.with_settings(causemos_url="")
    assert "Set CAUSEMOS_URL" in str(post.tick().skip_message)
    assert post.outbox.waiting() == []


def test_the_request_a_run_worked_on_says_who_waits_not_the_one_left_since(post: Post) -> None:
    post.publish(doc_ids=["run", "friend"])
    document = post.lake.read_document(request_key(RUN)) or {}
    post.lake.write_document(request_key(RUN), {**document, "doc_ids": ["somebody else"]})
    post.tick()
    assert {tuple(report.body["doc_ids"]) for report in post.causemos.reports} == {("run", "friend")}

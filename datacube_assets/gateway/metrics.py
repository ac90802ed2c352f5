"""What Prometheus is told: the queue, Dagster's runs, reports, and the gateway's own answers.

What is counted over time begins at zero when the gateway starts, as Prometheus expects, with every label
that an alert asks for: of a series that begins at one, Prometheus cannot tell that it grew. A scrape asks
for counts and for what changed since the last one, never for everything.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datacube_assets.gateway.queue import RequestQueue
from datacube_assets.orchestration.jobs import process_model_run
from datacube_assets.resources.waiting import asked_at
from datacube_assets.storage import requests as kept
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.reports import Outbox, oldest

OVERLAP = 30.0
"""Seconds by which looks at finished runs overlap, for clocks and transactions that lag."""
MOST_RUNS = 200
"""Finished runs that a scrape looks at; the next one goes on from there."""
NO_ROUTE = "none"
"""Stands for the path of whatever asks for one that is not there."""
_FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_UNFINISHED = [status for status in DagsterRunStatus if status not in (*_FINISHED, DagsterRunStatus.MANAGED)]
_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_ANSWER_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


@dataclass
class Metrics:
    """The figures, and where they come from."""

    lake: Lake
    instance: DagsterInstance
    queue: RequestQueue
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        def gauge(name: str, about: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(f"datacube_{name}", about, labels, registry=self.registry)

        def counter(name: str, about: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"datacube_{name}", about, labels, registry=self.registry)

        def histogram(name: str, about: str, buckets: Iterable[float], labels: Iterable[str]) -> Histogram:
            return Histogram(
                f"datacube_{name}", about, labels, buckets=tuple(buckets), registry=self.registry
            )

        self._waiting = gauge("requests_waiting", "Requests whose run has not started")
        self._oldest = gauge(
            "requests_oldest_seconds", "Age of the oldest of these requests; 0 if there is none"
        )
        self._paused = gauge("queue_paused", "1 while the queue is paused")
        self._runs = gauge("runs", "Dagster's runs", ["status"])
        self._unfinished = gauge(
            "runs_oldest_unfinished_seconds",
            "For how long the run was asked for that has waited longest to be finished; 0 if none waits",
        )
        self._undelivered = gauge("reports_undelivered", "Reports that CauseMos has not received")
        self._undelivered_age = gauge(
            "reports_oldest_undelivered_seconds", "Age of the oldest of these reports; 0 if there is none"
        )
        self.requests = counter("requests", "Requests that were sent to the queue", ["outcome"])
        for outcome in ("accepted", "duplicate", "refused", "full"):
            self.requests.labels(outcome)
        self._run_seconds = histogram("run_seconds", "How long runs took", _SECONDS, ["status"])
        for status in _FINISHED:
            self._run_seconds.labels(status.value.lower())
        self._delay_seconds = histogram("delay_seconds", "From asked for to published", _SECONDS, [])
        self._objects = counter(
            "published_objects", "Objects of datacubes that runs published, unchanged ones included"
        )
        self._bytes = counter("published_bytes", "Bytes of these objects")
        self._answers = counter("gateway_requests", "Answers of the gateway", ["route", "status"])
        self._answer_seconds = histogram(
            "gateway_request_seconds", "How long answers of the gateway took", _ANSWER_SECONDS, ["route"]
        )
        self._since = time.time()
        self._started = self._since
        self._counted: dict[str, float] = {}
        self._scraping = threading.Lock()

    def expose(self) -> bytes:
        """Everything in Prometheus' text format, as it is now."""
        with self._scraping:
            self._measure_queue()
            self._measure_runs()
            self._measure_reports()
            return generate_latest(self.registry)

    def measured(self, app: ASGIApp, routes: Iterable[str]) -> Measured:
        """An application whose answers are counted, with the paths of its routes."""
        for route in (*routes, NO_ROUTE):
            for status in (500, 503):
                self._answers.labels(route, status)
        return Measured(app, self._answers, self._answer_seconds)

    def _measure_queue(self) -> None:
        oldest = self.queue.oldest()
        self._waiting.set(self.queue.waiting())
        self._oldest.set(max(time.time() - oldest / 1000, 0) if oldest else 0)
        self._paused.set(kept.is_paused(self.lake))

    def _measure_runs(self) -> None:
        for status in DagsterRunStatus:
            # Dagster's own name for runs of another tool, which it only shows.
            if status != DagsterRunStatus.MANAGED:
                count = self.instance.get_runs_count(RunsFilter(statuses=[status]))
                self._runs.labels(status.value.lower()).set(count)
        waiting = self.instance.get_run_records(
            RunsFilter(statuses=_UNFINISHED, job_name=process_model_run.name),
            limit=1,
            order_by="create_timestamp",
            ascending=True,
        )
        asked = [asked_at(self.instance, record) for record in waiting]
        self._unfinished.set(max([time.time() - moment for moment in asked], default=0))
        after = dt.datetime.fromtimestamp(self._since - OVERLAP, dt.UTC)
        records = self.instance.get_run_records(
            RunsFilter(statuses=_FINISHED, updated_after=after, job_name=process_model_run.name),
            limit=MOST_RUNS,
            order_by="update_timestamp",
            ascending=True,
        )
        for record in records:
            run_id, updated = record.dagster_run.run_id, record.update_timestamp.timestamp()
            ended = record.end_time or updated
            if run_id not in self._counted and ended >= self._started:
                self._count(record)
            self._counted[run_id] = updated
            self._since = max(self._since, updated)
        # After a clock that was ahead, what happens now would count as seen.
        self._since = min(self._since, time.time())
        oldest = self._since - 2 * OVERLAP
        self._counted = {run_id: updated for run_id, updated in self._counted.items() if updated > oldest}

    def _count(self, record: RunRecord) -> None:
        run = record.dagster_run
        ended = record.end_time or record.update_timestamp.timestamp()
        if record.start_time is not None:
            self._run_seconds.labels(run.status.value.lower()).observe(ended - record.start_time)
        if run.status != DagsterRunStatus.SUCCESS:
            return
        self._delay_seconds.observe(ended - asked_at(self.instance, record))
        events = self.instance.get_records_for_run(
            run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION
        ).records
        for found in events:
            event = found.event_log_entry.get_dagster_event()
            metadata = event.step_materialization_data.materialization.metadata
            if "objects" in metadata:
                self._objects.inc(float(str(metadata["objects"].value)))
                self._bytes.inc(float(str(metadata["bytes"].value)))

    def _measure_reports(self) -> None:
        slips = Outbox(self.lake).slips()
        first = oldest(slips)
        self._undelivered.set(len(slips))
        self._undelivered_age.set(0 if first is None else max(time.time() - first / 1000, 0))


class Measured:
    """Counts what an application answers, by route and status."""

    def __init__(self, app: ASGIApp, answers: Counter, seconds: Histogram) -> None:
        self._app = app
        self._answers = answers
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500
        started = time.perf_counter()

        async def measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, measured)
        finally:
            if scope["type"] == "http":
                # Only routes that there are: anybody can think up any number of paths.
                route = getattr(scope.get("route"), "path", NO_ROUTE)
                self._answers.labels(route, status).inc()
                self._seconds.labels(route).observe(time.perf_counter() - started)

"""The sensor that tells CauseMos how runs went (docs/dojo-to-causemos.md#reports).

Each tick first writes down what has to be told about runs that changed, then delivers what is due. Only
runs of the full selection are told, and only when somebody waits for them (`doc_ids`).

Success is told only of a datacube that stands: results.json must still be the one that this run, or
one from the same input, wrote. What CauseMos refuses for good becomes a report of failure, as the
original queue did; everything else is tried again, with growing pauses, until CauseMos answers.
"""

import datetime as dt
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRecord,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from datacube_assets.assets.dojo import dojo_request
from datacube_assets.assets.results import pipeline_results
from datacube_assets.causemos.client import (
    CauseMosClient,
    Delivered,
    Delivery,
    ProcessingFailed,
    ProcessingSucceeded,
    QueueRuntime,
    Refused,
    Unreachable,
)
from datacube_assets.checks.judging.reports import MOST, undelivered
from datacube_assets.checks.judging.reports import NAME as REPORTS_DELIVERED
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.orchestration.jobs import is_full
from datacube_assets.partitions import PARTITION_TAG, REQUEST_TAG
from datacube_assets.redaction import public, redacting
from datacube_assets.resources.causemos import CauseMosResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.sensors.repeating import WILL_RETRY, could_not_be_repeated
from datacube_assets.sensors.tick_log import count
from datacube_assets.storage.lake import DamagedError, Lake
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest
from datacube_assets.storage.reports import Kind, Outbox, Report, Slip
from datacube_assets.storage.requests import Ticket, asked_for, doc_ids_of
from datacube_assets.storage.run_info import request_key

OVERLAP = 30.0
"""Seconds by which looks at Dagster's runs overlap, for clocks and transactions that lag."""
SET_BACK = 86_400.0
"""Seconds to look back after the clock was set back. Runs that were told are passed over quickly."""
WIDE_EVERY = 300.0
"""Seconds between looks that go back as far whatever the cursor says: a clock that was wrong for a moment,
and right again before the next tick, may have dated the end of a run before what had been seen."""
NEWEST = 200
"""Runs that such a look takes in however they are dated: the last ones that were begun."""
PASSING_REFUSALS = frozenset((401, 403, 407, 408, 425, 429))
"""Refusals that say nothing about the report: credentials and load. So do all from 500."""
LOOKING_SECONDS = 15.0
DELIVERING_SECONDS = 20.0
"""After these a tick leaves the rest to the next one: Dagster gives up on ticks that take a minute. Each
begins with its own work, so that a slow look leaves no less time for delivering."""
MOST_IN_VAIN = 5
"""Refusals of a CauseMos that is overloaded or away, one after the other, that end a tick's deliveries."""
_THREADS = 16
"""Partitions that are told at once, at most."""


def build_reports_sensor(*, interval: int) -> SensorDefinition:
    """The sensor, looking every `interval` seconds."""

    @sensor(
        name="causemos_reports",
        minimum_interval_seconds=interval,
        default_status=DefaultSensorStatus.RUNNING,
        description="Tells CauseMos when runs start, and whether their datacube is ready.",
    )
    @redacting()
    def causemos_reports(
        context: SensorEvaluationContext, causemos: CauseMosResource, lake: LakeResource
    ) -> SensorResult:
        if not causemos.url:
            return SensorResult(
                skip_reason="Set CAUSEMOS_URL to tell CauseMos how runs went: no CauseMos is configured."
            )
        store = lake.open()
        outbox = Outbox(store)
        outbox.adopt()
        since, known, widely = read_cursor(context.cursor)
        looked = time.time()
        if since > looked:
            # The clock was set back, nobody knows when: what happened since then is dated before now.
            since = looked - SET_BACK
        posted, newest = 0, since
        until = time.monotonic() + LOOKING_SECONDS
        for record, told_before in looked_at(outbox, runs_updated(context.instance, since)):
            if not told_before:
                posted += sum(outbox.post(report) for report in due(context.instance, store, record))
            updated = record.update_timestamp.timestamp()
            newest = max(newest, updated)
            # Never inside the overlap: the next tick would stop there again.
            if updated > since and time.monotonic() > until:
                break
        # Where a run is dated in the future, neither what happens after the look may count as seen, nor what
        # happens once the clock is set while this tick lasts.
        newest = min(newest, looked, time.time())
        if not widely <= looked < widely + WIDE_EVERY:
            widely = looked
            for record, told_before in looked_at(outbox, runs_of_a_day(context.instance, looked)):
                if not told_before:
                    posted += sum(outbox.post(report) for report in due(context.instance, store, record))
                if time.monotonic() > until:
                    break
        with causemos.client() as client:
            delivered, left = deliver(outbox, client, store, now_ms(), context.log.info)
        told = tell(posted, delivered, left)
        # A check result for every tick would bury the others.
        changed = [undelivered(*outbox.stuck(MOST))] if left != known else []
        evaluations: list[AssetCheckEvaluation] = [
            AssetCheckEvaluation(
                asset_key=pipeline_results.key,
                check_name=REPORTS_DELIVERED,
                passed=verdict.passed,
                severity=AssetCheckSeverity.WARN,
                metadata=verdict.figures,
                description=verdict.says,
            )
            for verdict in changed
        ]
        return SensorResult(
            asset_events=evaluations,
            cursor=f"{newest} {left} {widely}",
            skip_reason=told,
        )

    return causemos_reports


def tell(posted: int, settled: int, left: int) -> str:
    """What a tick did, as a line of a log."""
    if not posted and not settled and not left:
        return "Nothing new to tell CauseMos."
    line = f"{count(posted, 'new report')} for CauseMos, {settled:,} settled"
    return f"{line}; {left:,} wait until it answers." if left else f"{line}, none waits."


_TOLD: dict[Kind, str] = {
    "queue-runtime": "that its run has started",
    "processing-succeeded": "that its datacube is ready",
    "processing-failed": "that its run failed",
}


def read_cursor(cursor: str | None) -> tuple[float, int, float]:
    """Time up to which runs were seen, reports left then, time of the last wide look; times in seconds UTC.

    A lost cursor sees all again, and one of an earlier version had no third part.
    """
    try:
        since, left, *widely = (cursor or "").split()
        return float(since), int(left), float(widely[0]) if widely else 0.0
    except ValueError:
        return 0.0, -1, 0.0


_TOLD_OF: Final = (
    DagsterRunStatus.STARTED,
    DagsterRunStatus.SUCCESS,
    DagsterRunStatus.FAILURE,
    DagsterRunStatus.CANCELED,
)


def runs_of_a_day(instance: DagsterInstance, now: float) -> list[RunRecord]:
    """The runs of the full selection of the last day, and the last ones that were begun, however dated.

    In the order in which they were begun, which no clock has told: so is a partition's outcome told last
    that came last.
    """
    begun = instance.get_run_records(filters=RunsFilter(statuses=list(_TOLD_OF)), limit=NEWEST)
    found = {record.storage_id: record for record in begun if is_full(record.dagster_run)}
    found |= {record.storage_id: record for record in runs_updated(instance, now - SET_BACK)}
    return [found[number] for number in sorted(found)]


def runs_updated(instance: DagsterInstance, since: float) -> list[RunRecord]:
    """Runs of the full selection that changed since, oldest change first."""
    after = dt.datetime.fromtimestamp(max(since - OVERLAP, 0), dt.UTC)
    filters = RunsFilter(statuses=list(_TOLD_OF), updated_after=after)
    records = instance.get_run_records(filters=filters, order_by="update_timestamp", ascending=True)
    return [record for record in records if is_full(record.dagster_run)]


def is_told(outbox: Outbox, run: DagsterRun) -> bool:
    """Whether nothing is left to be told about a run; quick, as most runs are looked at many times."""
    partition = run.tags.get(PARTITION_TAG, "")
    return outbox.knows(partition, run.run_id, "processing-succeeded" if run.is_finished else "queue-runtime")


def looked_at(outbox: Outbox, records: Sequence[RunRecord]) -> Iterator[tuple[RunRecord, bool]]:
    """Runs in their order, and whether all is told about each; a store that is slow is asked in parallel."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(records), 4 * _THREADS):
            some = records[start : start + 4 * _THREADS]
            told = threads.map(lambda record: is_told(outbox, record.dagster_run), some)
            yield from zip(some, told, strict=True)


def due(instance: DagsterInstance, lake: Lake, record: RunRecord) -> list[Report]:
    """What has to be told about a run in the state it is in."""
    run = record.dagster_run
    partition = run.tags.get(PARTITION_TAG)
    if ModelRun.known(partition) is None or (record.start_time is None and not run.is_finished):
        return []
    assert partition is not None
    request = request_of(instance, lake, run, partition)
    name = run.tags.get(REQUEST_TAG, "")
    # A later request may have replaced the one that this run was asked for with: both are waited for.
    waited = doc_ids_of(lake, name) if name else ()
    doc_ids = tuple(dict.fromkeys((*((request and request.doc_ids) or ()), *waited)))
    if request is None or not doc_ids:
        return []
    data: dict[str, Any] = {
        "run_id": request.run_id,
        "data_id": request.model_id,
        "doc_ids": doc_ids,
        "is_indicator": request.is_indicator,
    }
    asked_at = Ticket.of(name).asked_at
    created = asked_at or int(record.create_timestamp.timestamp() * 1000)
    started = int((record.start_time or record.create_timestamp.timestamp()) * 1000)
    ended = int((record.end_time or time.time()) * 1000)

    def report(
        kind: Kind,
        body: QueueRuntime | ProcessingSucceeded | ProcessingFailed,
        when: int,
        version: str | None,
    ) -> Report:
        return Report(run.run_id, kind, partition, body.model_dump(mode="json"), version, when)

    queued = QueueRuntime(**data, start_time=created, end_time=started)
    reports = [report("queue-runtime", queued, started, None)]
    if not run.is_finished or may_be_retried(instance, run):
        return reports
    version = input_version(instance, run)
    if version is not None:
        # Also of a run that died after its last object: the datacube is what CauseMos waits for.
        success = ProcessingSucceeded(**data, flow_id=run.run_id, start_time=started, end_time=ended)
        reports.append(report("processing-succeeded", success, ended, version))
    elif run.status != DagsterRunStatus.SUCCESS:
        failure = ProcessingFailed(**data, flow_id=run.run_id)
        reports.append(report("processing-failed", failure, ended, None))
    return reports


def may_be_retried(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether Dagster repeats a failed run, or has yet to decide; then its outcome is not the last word.

    The decision is a tag, which Dagster sets a moment after the status. Where it could not do as it
    decided, another run takes the place of this one.
    """
    if run.status != DagsterRunStatus.FAILURE or not instance.run_retries_enabled:
        return False
    return run.tags.get(WILL_RETRY) != "false" or could_not_be_repeated(instance, run)


def request_of(
    instance: DagsterInstance, lake: Lake, run: DagsterRun, partition: str, *, sealed: bool = False
) -> DatacubeRequest | None:
    """The request a run worked on: the one it materialized, else the partition's.

    What it materialized shows of addresses what everybody may see; `sealed`: with the rest, if the
    partition has it.
    """
    document: Any = _metadata(instance, run, dojo_request.key.path[-1]).get("request")
    last = lake.read_document(request_key(ModelRun.from_key(partition))) if sealed or not document else None
    if document is None or (last and [*map(public, last["data_paths"])] == document["data_paths"]):
        document = last
    if document is not None:
        return DatacubeRequest.model_validate(document)
    # A run that failed before it knew its request.
    model_run = ModelRun.from_key(partition)
    asked = asked_for(lake, run.tags.get(REQUEST_TAG, ""))
    if asked is None and model_run.is_indicator:
        return None
    return DatacubeRequest(
        model_id=model_run.model_id,
        run_id=model_run.run_id,
        data_paths=(),
        is_indicator=model_run.is_indicator,
        # CauseMos's document of a model run has its id.
        doc_ids=asked.doc_ids if asked else (model_run.run_id,),
    )


def input_version(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Version of the datacube that a run completed."""
    version = _metadata(instance, run, RESULTS_ASSET).get("input version")
    return None if version is None else str(version)


def _metadata(instance: DagsterInstance, run: DagsterRun, asset: str) -> dict[str, object]:
    """Metadata of an asset's materialization in a run; empty when it did not come to it."""
    records = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
    for record in records:
        event = record.event_log_entry.get_dagster_event()
        if event.asset_key is not None and event.asset_key.path[-1] == asset:
            metadata = event.step_materialization_data.materialization.metadata
            return {name: value.value for name, value in metadata.items()}
    return {}


def deliver(
    outbox: Outbox,
    client: CauseMosClient,
    lake: Lake,
    now: int,
    log: Callable[[str], None],
    *,
    seconds: float = DELIVERING_SECONDS,
) -> tuple[int, int]:
    """Try what is due, for so long; returns how many reports were settled and how many wait.

    What is told of a partition keeps its order: an outcome not before its start, and not before the outcome
    of an earlier run, which would otherwise have the last word. Partitions know nothing of each other, so
    several are told at once.
    """
    queues = outbox.queues()
    round_ = _Round(outbox, client, lake, now, log, time.monotonic() + seconds)
    due_now = iter([queue for queue in queues if queue[0].is_due(now)])
    # The first one alone: while nobody is there, the others would only wait for their time-outs.
    for queue in itertools.islice(due_now, 1):
        round_.tell(queue)

    def take_turns() -> None:
        while not round_.is_over:
            with round_.lock:
                queue = next(due_now, None)
            if queue is None:
                return
            round_.tell(queue)

    with ThreadPoolExecutor(_THREADS) as threads:
        for turn in [threads.submit(take_turns) for _ in range(_THREADS)]:
            turn.result()
    return round_.settled, sum(map(len, queues)) - round_.settled


@dataclass
class _Round:
    """What is delivered in one tick; may be used by several threads."""

    outbox: Outbox
    client: CauseMosClient
    lake: Lake
    now: int
    log: Callable[[str], None]
    until: float
    settled: int = 0
    in_vain: int = 0
    """Attempts without a success between them."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until

    def tell(self, queue: Sequence[Slip]) -> None:
        """Deliver what waits of one partition, until something of it has to wait longer."""
        for slip in queue:
            if self.is_over or not slip.is_due(self.now) or not self._tell_one(slip):
                return

    def _tell_one(self, slip: Slip) -> bool:
        try:
            report = self.outbox.read(slip)
        except DamagedError as error:
            self.log(f"Held back with all that follows of its partition: {error}")
            return False
        if report is None:
            # Somebody else has settled it.
            self._count(settled=True)
            return True
        if report.kind == "processing-succeeded" and not stands(self.lake, report):
            self.log(f"{report.partition}: its datacube was replaced before CauseMos was told of it")
            return self._settle(slip, report, "superseded")
        delivery = send(self.client, report)
        if isinstance(delivery, Refused) and is_final(delivery) and report.kind == "processing-succeeded":
            self.log(
                f"{report.partition}: CauseMos refused the success ({delivery.status}), reporting failure"
            )
            report = as_failure(report)
            delivery = send(self.client, report)
        if isinstance(delivery, Delivered):
            self.log(f"{report.partition}: told CauseMos {_TOLD[report.kind]}")
            return self._settle(slip, report, "delivered")
        if isinstance(delivery, Refused) and is_final(delivery):
            said = f"{delivery.status} {delivery.message}"
            self.log(f"{report.partition}: CauseMos refused {report.kind}: {said}")
            return self._settle(slip, report, f"refused: {said}")
        problem = delivery.message if isinstance(delivery, Refused) else delivery.error
        self.log(f"{report.partition}: {report.kind} could not be delivered: {problem}")
        self.outbox.put_off(slip, report.failed(problem, self.now))
        self._count(settled=False)
        # What answers 500 may have trouble with this report alone; otherwise it is in trouble itself.
        if isinstance(delivery, Unreachable) or (delivery.status != 500 and self.in_vain >= MOST_IN_VAIN):
            self.until = 0.0
        return False

    def _settle(self, slip: Slip, report: Report, outcome: str) -> bool:
        self.outbox.settle(slip, report, outcome)
        self._count(settled=True)
        return True

    def _count(self, *, settled: bool) -> None:
        with self.lock:
            self.settled += settled
            self.in_vain = 0 if settled else self.in_vain + 1


def stands(lake: Lake, report: Report) -> bool:
    """Whether the datacube that a success is about is the published one."""
    head = manifest(lake, ModelRun.from_key(report.partition), RESULTS_ASSET)
    return head is not None and head["version"] == report.version


def is_final(refusal: Refused) -> bool:
    """Whether trying again cannot help."""
    return refusal.status < 500 and refusal.status not in PASSING_REFUSALS


def as_failure(report: Report) -> Report:
    """The report of failure that takes the place of a refused success; it keeps its place and times."""
    body = ProcessingSucceeded.model_validate(report.body).as_failure()
    return replace(report, kind="processing-failed", body=body.model_dump(mode="json"))


def send(client: CauseMosClient, report: Report) -> Delivery:
    """One attempt."""
    if report.kind == "queue-runtime":
        return client.queue_runtime(QueueRuntime.model_validate(report.body))
    if report.kind == "processing-succeeded":
        return client.processing_succeeded(ProcessingSucceeded.model_validate(report.body))
    return client.processing_failed(ProcessingFailed.model_validate(report.body))


def now_ms() -> int:
    return time.time_ns() // 1_000_000

"""Sensors that watch Dojo: every run or dataset that is ready gets a partition and a run.

What is new is decided by the plain functions of `dojo/watch.py`; here they meet Dagster. A tick sees
Dojo's whole list, because the list is unsorted and documents change in place
(docs/specification/dojo-documents.md#lists).

Nothing is lost and nothing runs twice by three rules. A request's run key carries the version of what
it is made of, so Dagster starts it once. The cursor holds only the requests of the last tick and is
stored by Dagster after their runs were created; what it held becomes known on the next tick. What is
known lies in the lake; without it, or without the cursor, requests are repeated and Dagster drops them.
"""

import json
from collections.abc import Callable, Iterable

from dagster import (
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from datacube_assets.dojo.client import DojoClient, DojoError
from datacube_assets.dojo.documents import DocumentProblem, IndicatorDocument, RunDocument, parse_documents
from datacube_assets.dojo.watch import Changes, Ready, changes, ready_indicators, ready_runs
from datacube_assets.orchestration.jobs import SENSED, process_model_run
from datacube_assets.partitions import NAME_TAG, model_runs, run_tags
from datacube_assets.resources.dojo import DojoResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.sensors.tick_log import count, listed
from datacube_assets.storage.lake import Lake

Listing = tuple[list[Ready], int, list[DocumentProblem]]
"""What is ready, how many documents there are, and those that cannot be read."""


def list_runs(client: DojoClient) -> Listing:
    """All model runs of Dojo. Raises DojoError, also when the listing is incomplete."""
    raw = client.runs()
    documents, problems = parse_documents(RunDocument, raw)
    return ready_runs(documents), len(raw), problems


def list_indicators(client: DojoClient) -> Listing:
    """All datasets of Dojo. Raises DojoError, also when the listing is incomplete."""
    raw = client.indicators()
    documents, problems = parse_documents(IndicatorDocument, raw)
    return ready_indicators(documents), len(raw), problems


def build_dojo_sensor(
    name: str, what: str, listing: Callable[[DojoClient], Listing], *, interval: int, limit: int
) -> SensorDefinition:
    """A sensor over one of Dojo's lists, every `interval` seconds, at most `limit` runs a tick."""

    @sensor(
        name=name,
        job=process_model_run,
        minimum_interval_seconds=interval,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Starts a run for every {what} in Dojo that is ready and new, or has changed.",
    )
    def watch(
        context: SensorEvaluationContext, dojo: DojoResource, lake: LakeResource
    ) -> SensorResult | SkipReason:
        if not dojo.url:
            return SkipReason("Set DOJO_URL to watch Dojo: no Dojo is configured.")
        known = Known(lake.open(), name)
        known.remember(requested_last(context.cursor))
        try:
            with dojo.client() as client:
                ready, listed, problems = listing(client)
        except DojoError as error:
            return SkipReason(f"Dojo's list could not be read, so nothing is changed: {error}")
        for problem in problems:
            context.log.warning(f"Skipped, because its document cannot be read: {problem}")
        found = changes(sound(ready, context.log.warning), known.versions, limit)
        told = tell(what, listed, len(ready), len(problems), found)
        context.log.info(told)
        if not found.due:
            return SensorResult(skip_reason=told, cursor="{}")
        return SensorResult(
            run_requests=[request_run(one) for one in found.due],
            dynamic_partitions_requests=[model_runs.build_add_request([one.run.key for one in found.due])],
            cursor=json.dumps({one.run.key: one.version for one in found.due}),
        )

    return watch


class Known:
    """The versions that were requested already, by partition key; kept in the lake."""

    def __init__(self, lake: Lake, sensor: str) -> None:
        self._lake = lake
        self._key = f"sensors/{sensor}/known.json"
        self.versions: dict[str, str] = lake.read_document(self._key) or {}

    def remember(self, versions: dict[str, str]) -> None:
        """Add versions for good."""
        if versions.items() <= self.versions.items():
            return
        self.versions |= versions
        self._lake.write_document(self._key, self.versions)


def requested_last(cursor: str | None) -> dict[str, str]:
    """What the last tick requested; nothing when the cursor is lost or not ours."""
    try:
        versions = json.loads(cursor or "{}")
    except json.JSONDecodeError:
        return {}
    return versions if isinstance(versions, dict) else {}


def sound(ready: Iterable[Ready], warn: Callable[[str], None]) -> list[Ready]:
    """Those whose ids can be partitions; the others are reported."""
    kept = []
    for one in ready:
        try:
            one.run.check()
        except ValueError as error:
            warn(f"Skipped: {error}")
        else:
            kept.append(one)
    return kept


def request_run(ready: Ready) -> RunRequest:
    """One run of the full selection for one state of a partition."""
    named = {NAME_TAG: ready.name} if ready.name else {}
    return RunRequest(
        run_key=ready.run_key,
        partition_key=ready.run.key,
        tags={**run_tags(ready.run), **named, **SENSED},
    )


def tell(what: str, listed_: int, ready: int, malformed: int, found: Changes) -> str:
    """What a tick saw and did, as a line of a log."""
    line = f"Dojo lists {count(listed_, what)}, {ready:,} of them ready"
    if malformed:
        line += f", {malformed:,} unreadable"
    if not found.due:
        return f"{line}; nothing new since the last look."
    changed = len(found.due) + found.waiting - found.new
    line += f"; {found.new:,} new, {changed:,} changed. Requested {count(len(found.due), 'run')}: "
    line += listed([called(one) for one in found.due])
    return f"{line}. {found.waiting:,} wait for the next look." if found.waiting else f"{line}."


def called(ready: Ready) -> str:
    """A run or dataset, by its partition and the name that people know."""
    return f"{ready.run.key} ({ready.name})" if ready.name else ready.run.key

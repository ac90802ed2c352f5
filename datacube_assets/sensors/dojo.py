"""Sensors that watch Dojo: every run or dataset that is ready gets a partition and a run.

What is new is decided by the plain functions of `dojo/watch.py`; here they meet Dagster. A tick sees
Dojo's whole list, because the list is unsorted and documents change in place
(docs/specification/dojo-documents.md#lists).

Nothing is lost and nothing runs twice by these rules. A request's run key carries the version of what it
is made of and how often its partition has changed before, so Dagster starts it once, and again when a
state comes back that was there before. The number of the change is written into the lake before the
request is made, so that it never stands for two requests. The cursor holds only the requests of the last
tick and is stored by Dagster after their runs were created; what it held becomes known on the next tick.
Without the cursor, requests are repeated under their numbers and Dagster drops them; without what is known
in the lake, Dagster's runs tell the numbers.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from datacube_assets.assets.versions import change_of
from datacube_assets.dojo.client import DojoClient, DojoError
from datacube_assets.dojo.documents import DocumentProblem, IndicatorDocument, RunDocument, parse_documents
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.watch import Changes, Ready, changes, is_misnamed, ready_indicators, ready_runs
from datacube_assets.orchestration.jobs import SENSED, process_model_run
from datacube_assets.orchestration.telling import tell_failure
from datacube_assets.partitions import (
    CHANGE_TAG,
    NAME_TAG,
    PARTITION_TAG,
    SOURCE_TAG,
    VERSION_TAG,
    model_runs,
    run_tags,
)
from datacube_assets.redaction import redacting
from datacube_assets.resources.dojo import DojoResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.sensors.tick_log import count, listed
from datacube_assets.storage.lake import Lake

_log = logging.getLogger(__name__)

LISTING_SECONDS = 120.0
"""How long a list may take: other sensors wait meanwhile."""


@dataclass(frozen=True)
class Listing:
    """One of Dojo's lists."""

    ready: Sequence[Ready]
    listed: int
    """How many documents there are."""
    problems: Sequence[DocumentProblem]
    """Those that cannot be read."""
    refused: Sequence[RunDocument] = ()
    """Runs that are ready, and that nobody could tell from datasets."""


def list_runs(client: DojoClient, warn: Callable[[str], None] = _log.warning) -> Listing:
    """All model runs of Dojo. Raises DojoError, also when the listing is incomplete."""
    raw = client.runs(warn=warn)
    documents, problems = parse_documents(RunDocument, raw)
    refused = [one for one in documents if one.is_ready and is_misnamed(one)]
    return Listing(ready_runs(documents), len(raw), problems, refused)


def list_indicators(client: DojoClient, warn: Callable[[str], None] = _log.warning) -> Listing:
    """All datasets of Dojo. Raises DojoError, also when the listing is incomplete."""
    raw = client.indicators(warn=warn)
    documents, problems = parse_documents(IndicatorDocument, raw)
    return Listing(ready_indicators(documents), len(raw), problems)


def build_dojo_sensor(
    name: str,
    what: str,
    listing: Callable[[DojoClient, Callable[[str], None]], Listing],
    *,
    interval: int,
    limit: int,
) -> SensorDefinition:
    """A sensor over one of Dojo's lists, every `interval` seconds, at most `limit` runs a tick."""

    @sensor(
        name=name,
        job=process_model_run,
        minimum_interval_seconds=interval,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Starts a run for every {what} in Dojo that is ready and new, or has changed.",
    )
    @redacting()
    def watch(
        context: SensorEvaluationContext, dojo: DojoResource, lake: LakeResource
    ) -> SensorResult | SkipReason:
        if not dojo.url:
            return SkipReason("Set DOJO_URL to watch Dojo: no Dojo is configured.")
        store = lake.open()
        known = Known(store, name)
        known.confirm(requested_last(context.cursor))
        try:
            with dojo.client(seconds=LISTING_SECONDS) as client:
                found_there = listing(client, context.log.warning)
        except DojoError as error:
            return SkipReason(f"Dojo's list could not be read, so nothing is changed: {error}")
        for problem in found_there.problems:
            context.log.warning(f"Skipped, because its document cannot be read: {problem}")
        for document in found_there.refused:
            refuse(store, document, context.log.warning)
        ready = found_there.ready
        found = changes(sound(ready, context.log.warning), known.versions, limit)
        told = tell(what, found_there.listed, len(ready), len(found_there.problems), found)
        context.log.info(told)
        if not found.due:
            return SensorResult(skip_reason=told, cursor="{}")
        states = known.ask(found.due, lambda run: state_of_last_run(context.instance, run))
        return SensorResult(
            run_requests=[request_run(one, states[one.run.key].change) for one in found.due],
            dynamic_partitions_requests=[model_runs.build_add_request([one.run.key for one in found.due])],
            cursor=json.dumps({key: [state.version, state.change] for key, state in states.items()}),
        )

    return watch


@dataclass(frozen=True)
class State:
    """A state of a partition that was requested."""

    version: str
    change: int = 0
    """How often the partition had changed before."""
    is_sure: bool = True
    """Whether Dagster is known to have created its run."""


class Known:
    """The newest state of each partition that was requested, by partition key; kept in the lake."""

    def __init__(self, lake: Lake, sensor: str) -> None:
        self._lake = lake
        self._key = f"sensors/{sensor}/known.json"
        document = lake.read_document(self._key) or {}
        self._states = {key: state for key, kept in document.items() if (state := _state(kept))}

    @property
    def versions(self) -> dict[str, str]:
        """Versions whose runs Dagster has, by partition key."""
        return {key: state.version for key, state in self._states.items() if state.is_sure}

    def confirm(self, requested: Mapping[str, State]) -> None:
        """Note that Dagster has these runs."""
        news = {
            key: replace(state, is_sure=True)
            for key, state in requested.items()
            if state.change >= self._states.get(key, state).change
        }
        self._keep(news)

    def ask(self, due: Iterable[Ready], last_run: Callable[[ModelRun], State | None]) -> dict[str, State]:
        """Number these states, for good, before their runs are requested.

        `last_run` tells the newest state that Dagster has a run of, for partitions that are not known here.
        """
        asked = {}
        for one in due:
            before = self._states.get(one.run.key) or last_run(one.run)
            again = before is not None and before.version == one.version
            number = 0 if before is None else before.change if again else before.change + 1
            asked[one.run.key] = State(one.version, number, is_sure=False)
        self._keep(asked)
        return asked

    def _keep(self, states: Mapping[str, State]) -> None:
        if states.items() <= self._states.items():
            return
        self._states |= states
        self._lake.write_document(
            self._key,
            {
                key: [state.version, state.change, *([] if state.is_sure else ["asked"])]
                for key, state in self._states.items()
            },
        )


def _state(kept: object) -> State | None:
    """A state as it was written down; earlier versions wrote the version alone."""
    match kept:
        case str():
            return State(kept)
        case [str() as version, int() as change, *rest]:
            return State(version, change, not rest)
    return None


def requested_last(cursor: str | None) -> dict[str, State]:
    """What the last tick requested; nothing when the cursor is lost or not ours."""
    try:
        states = json.loads(cursor or "{}")
    except json.JSONDecodeError:
        return {}
    found = {key: _state(kept) for key, kept in states.items()} if isinstance(states, dict) else {}
    return {key: state for key, state in found.items() if state}


def state_of_last_run(instance: DagsterInstance, run: ModelRun) -> State | None:
    """The state that the newest run was started for which a sensor requested, as its tags tell."""
    runs = instance.get_runs(
        RunsFilter(tags={PARTITION_TAG: run.key, SOURCE_TAG: SENSED[SOURCE_TAG]}), limit=1
    )
    if not runs or VERSION_TAG not in runs[0].tags:
        return None
    return State(runs[0].tags[VERSION_TAG], change_of(runs[0]) or 0)


def refuse(lake: Lake, document: RunDocument, warn: Callable[[str], None]) -> None:
    """Have CauseMos told that a run called like all datasets is not processed; once for each state of it."""
    warn(
        f"Refused: the run {document.id!r} of model {document.model_id} has the id of datasets. "
        "Let Dojo run the model again under another id"
    )
    run = ModelRun(document.model_id, document.id)
    tell_failure(lake, f"refused-{document.version}", run, (document.id,), is_indicator=False)


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


def request_run(ready: Ready, change: int = 0) -> RunRequest:
    """One run of the full selection for one state of a partition, by the number of the state."""
    named = {NAME_TAG: ready.name} if ready.name else {}
    state = {VERSION_TAG: ready.version, CHANGE_TAG: str(change)}
    return RunRequest(
        run_key=f"{ready.run_key}#{change}" if change else ready.run_key,
        partition_key=ready.run.key,
        tags={**run_tags(ready.run), **named, **SENSED, **state},
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

"""What is told about a run, as an answer to the GraphQL query that CauseMos sends.

What it expects: docs/specification/queue-and-causemos.md#state-and-log-of-a-run.

It is that one query: the run is named by `_eq`, the fields by their names. Everything comes from the
Dagster run of that id, which is what reports give CauseMos as `flow_id`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import graphql
from dagster import DagsterInstance, DagsterRunStatus, EventLogEntry, RunRecord

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.gateway.parameters import is_run_id
from datacube_assets.orchestration.failures import reason
from datacube_assets.partitions import PARTITION_TAG
from datacube_assets.redaction import beginning
from datacube_assets.settings import Settings

STATES: Mapping[DagsterRunStatus, str] = {
    DagsterRunStatus.NOT_STARTED: "Scheduled",
    DagsterRunStatus.QUEUED: "Scheduled",
    DagsterRunStatus.STARTING: "Submitted",
    DagsterRunStatus.STARTED: "Running",
    DagsterRunStatus.CANCELING: "Running",
    DagsterRunStatus.SUCCESS: "Success",
    DagsterRunStatus.FAILURE: "Failed",
    DagsterRunStatus.CANCELED: "Cancelled",
}
"""What Prefect would call it."""
MOST_LINES = 1000
"""Lines of a log that are told, the newest ones."""
LONGEST_LINE = 2000
"""Letters of a line."""
LONGEST_QUERY = 20_000
"""Letters of a query; CauseMos' has some two hundred."""
_MOST_TOKENS = 1_000
"""Words and signs of a query: GraphQL's parser takes its time with each."""
_UNREADABLE = "only the query `flow_run(where: {id: {_eq: ...}})` is answered here"

Answer = dict[str, Any]
_FAILED = (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


class UnknownQueryError(ValueError):
    """A query of another kind."""


@dataclass(frozen=True)
class Flows:
    """The runs of a Dagster instance."""

    instance: DagsterInstance
    settings: Settings

    def answer(self, query: object) -> Answer:
        """The answer to a query. Raises UnknownQueryError."""
        run_id, wanted = asked_of(query)
        record = self._record(run_id)
        if record is None:
            return {"data": {"flow_run": []}}
        fields: dict[str, Callable[[RunRecord], Any]] = {
            "id": lambda record: record.dagster_run.run_id,
            "name": lambda record: record.dagster_run.tags.get(PARTITION_TAG, ""),
            "state": lambda record: STATES[record.dagster_run.status],
            "start_time": _start,
            "end_time": lambda record: _time(record.end_time),
            "logs": self._logs,
            "agent": _agent,
        }
        told = {name: tell(record) for name, tell in fields.items() if name in wanted or name == "state"}
        return {"data": {"flow_run": [told]}}

    def _record(self, run_id: str) -> RunRecord | None:
        return self.instance.get_run_record_by_id(run_id) if is_run_id(run_id) else None

    def _logs(self, record: RunRecord) -> list[Answer]:
        run = record.dagster_run
        # One more than is told shows whether there are more.
        newest = self.instance.get_records_for_run(run.run_id, limit=MOST_LINES + 1, ascending=False).records
        entries = [found.event_log_entry for found in newest[MOST_LINES::-1]]
        lines = [
            {"timestamp": _time(entry.timestamp), "message": text}
            for entry in entries[-MOST_LINES:]
            if (text := self._text(entry))
        ]
        why = reason(self.instance, run.run_id) if run.status in _FAILED else None
        if why:
            # Last, where one looks first: in the words that the modeller is told everywhere.
            lines.append({"timestamp": _time(record.end_time) or _start(record), "message": _line(why)})
        if len(newest) > MOST_LINES and lines:
            left_out = f"(only the last {MOST_LINES:,} lines; Dagster has all of them)"
            lines.insert(0, {"timestamp": lines[0]["timestamp"], "message": left_out})
        return lines or [{"timestamp": _start(record), "message": "Nothing has been logged yet."}]

    def _text(self, entry: EventLogEntry) -> str:
        event = entry.dagster_event
        text = entry.user_message or (event.message if event and event.message else "")
        error = entry.error_info or getattr(event.event_specific_data if event else None, "error", None)
        while error is not None:
            # Neither the stack nor what an exception says of itself in Python is for a user of CauseMos.
            text = f"{text} {error.message}".strip()
            error = error.cause
        return _line(text)


def _line(text: str) -> str:
    """A line without secrets, and not too long."""
    told = beginning(text, LONGEST_LINE)
    return told if len(text) <= LONGEST_LINE else f"{told}..."


def asked_of(query: object) -> tuple[str, set[str]]:
    """The id of the run that a query asks for, and the names of the fields. Raises UnknownQueryError."""
    if not isinstance(query, str) or len(query) > LONGEST_QUERY:
        raise UnknownQueryError(_UNREADABLE)
    try:
        document = graphql.parse(query, no_location=True, max_tokens=_MOST_TOKENS)
    except (graphql.GraphQLError, RecursionError):
        raise UnknownQueryError(_UNREADABLE) from None
    for operation in document.definitions:
        if isinstance(operation, graphql.OperationDefinitionNode):
            for field in _fields(operation.selection_set):
                where = next((one.value for one in field.arguments if one.name.value == "where"), None)
                run_id = _member(_member(where, "id"), "_eq")
                if field.name.value == "flow_run" and isinstance(run_id, graphql.StringValueNode):
                    return run_id.value, {one.name.value for one in _fields(field.selection_set)}
    raise UnknownQueryError(_UNREADABLE)


def _fields(selected: graphql.SelectionSetNode | None) -> list[graphql.FieldNode]:
    found = selected.selections if selected else ()
    return [one for one in found if isinstance(one, graphql.FieldNode)]


def _member(value: graphql.ValueNode | None, name: str) -> graphql.ValueNode | None:
    fields = value.fields if isinstance(value, graphql.ObjectValueNode) else ()
    return next((one.value for one in fields if one.name.value == name), None)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


def _start(record: RunRecord) -> str | None:
    """When it started; of one that never did, when it was asked for: CauseMos shows nothing without."""
    return _time(record.start_time or record.create_timestamp.timestamp())


def _agent(record: RunRecord) -> Answer:
    """Where the run was, or will be, executed: the code location it belongs to."""
    run = record.dagster_run
    origin = run.remote_job_origin
    location = origin.location_name if origin else run.job_name
    model_run = ModelRun.known(run.tags.get(PARTITION_TAG))
    kind = "datacube" if model_run is None else "indicator" if model_run.is_indicator else "model"
    return {"id": location, "labels": [run.job_name, kind]}

"""Why a run failed, as the modeller was told: the same words at the command line, in lists and in reports.

How errors are worded belongs to `kernels/errors.py` and `resources/ui.py`; where Dagster keeps them, here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dagster import DagsterEventType, DagsterInstance

from datacube_assets.checks.judging.verdict import ChecksFailedError
from datacube_assets.partitions import PARTITION_TAG
from datacube_assets.resources.ui import TELLING

_TOLD_BY = frozenset(error.__name__ for error in TELLING)
_INTERRUPTED = "DagsterExecutionInterruptedError"
_CHECKS_FAILED = "DagsterAssetCheckFailedError"


def reason(instance: DagsterInstance, run_id: str) -> str | None:
    """Why a run failed: what the step that failed first says; None when nothing is known.

    One or more lines; the first says most.
    """
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED):
        for entry in instance.all_logs(run_id, of_type=kind):
            event = entry.dagster_event
            error = getattr(event.event_specific_data, "error", None) if event else None
            chain = list(_chain(error))
            if any(one.cls_name == _CHECKS_FAILED for one in chain):
                return _of_checks(instance, run_id)
            if chain and chain[-1].cls_name == _INTERRUPTED:
                return "It was interrupted. Publish it again: it goes on where it was"
            text = told(error) or (_message(chain[-1]) if chain else event.message if event else None)
            if text and text.strip():
                return text.strip()
    return None


def told(error: Any) -> str | None:
    """The words of a serialized error that was raised for people to read; None for any other.

    Whoever words an error for people knows more than what it was raised from.
    """
    found = next((one for one in _chain(error) if one.cls_name in _TOLD_BY), None)
    return None if found is None else _message(found)


def _chain(error: Any) -> Iterator[Any]:
    while error is not None:
        yield error
        error = error.cause


def _message(error: Any) -> str:
    """The message of a serialized error, which begins with the name of its class."""
    text = str(error.message)
    head, separator, rest = text.partition(": ")
    named = separator and head.rpartition(".")[2] == error.cls_name
    return (rest if named else text).strip()


def _of_checks(instance: DagsterInstance, run_id: str) -> str | None:
    """What the checks say that stopped a run."""
    said, partition = [], ""
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        event = entry.dagster_event
        found = event.asset_check_evaluation_data if event else None
        if found is not None and not found.passed and found.blocking and found.severity.value == "ERROR":
            said.append(f"{found.asset_key.path[-1]}, {found.check_name}: {found.description}")
    run = instance.get_run_by_id(run_id)
    if run is not None:
        partition = run.tags.get(PARTITION_TAG, "")
    return str(ChecksFailedError(partition, said))

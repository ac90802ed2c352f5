"""The outbox of reports to CauseMos: what has to be told, kept in the lake until it is delivered.

A report is written down before anybody tries to deliver it, so that no crash and no outage loses it.
What reports say and what follows from a refusal is in `sensors/reports.py` and `causemos/client.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from datacube_assets.storage.lake import Lake

Kind = Literal["queue-runtime", "processing-succeeded", "processing-failed"]
_ORDER: dict[Kind, int] = {"queue-runtime": 0, "processing-succeeded": 1, "processing-failed": 1}
_WAITING = "reports/waiting"
SETTLED = "reports/settled"
"""Where reports are kept that were delivered or given up."""

FIRST_WAIT = 15_000
LONGEST_WAIT = 600_000
"""Milliseconds between attempts: doubled from the first to the longest."""


@dataclass(frozen=True)
class Report:
    """One thing that CauseMos has to be told about one run."""

    flow_id: str
    """Id of the Dagster run."""
    kind: Kind
    partition: str
    body: dict[str, Any]
    """What is sent."""
    version: str | None
    """Version of the datacube that success is about."""
    created: int
    """Milliseconds UTC."""
    attempts: int = 0
    next_attempt: int = 0
    """Milliseconds UTC before which nobody tries again."""
    last_error: str | None = None

    @property
    def key(self) -> str:
        """One per run and stage: a run has one outcome."""
        return _key(self.flow_id, self.kind)

    def failed(self, error: str, now: int) -> Report:
        """The report after an attempt that did not reach CauseMos."""
        wait = min(FIRST_WAIT * 2**self.attempts, LONGEST_WAIT)
        return replace(self, attempts=self.attempts + 1, next_attempt=now + wait, last_error=error)


def _key(flow_id: str, kind: Kind) -> str:
    return f"{flow_id}.{_ORDER[kind]}.json"


_REPORT = TypeAdapter(Report)


@dataclass(frozen=True)
class Outbox:
    """Reports that wait and reports that are settled."""

    lake: Lake

    def post(self, report: Report) -> bool:
        """Put a report in, unless this run's stage is waiting or settled already."""
        if self.knows(report.flow_id, report.kind):
            return False
        self._write(_WAITING, report)
        return True

    def knows(self, flow_id: str, kind: Kind) -> bool:
        """Whether this stage of a run is waiting or settled."""
        # In this order: a report is settled before it stops waiting.
        keys = (f"{folder}/{_key(flow_id, kind)}" for folder in (_WAITING, SETTLED))
        return any(self.lake.read_document(key) is not None for key in keys)

    def waiting(self) -> list[Report]:
        """Undelivered reports, oldest first; of one run in the order of its stages."""
        keys = [key for key, _ in self.lake.store.list(f"{_WAITING}/")]
        reports = [
            _REPORT.validate_python(document) for key in keys if (document := self.lake.read_document(key))
        ]
        return sorted(reports, key=lambda report: (report.created, report.flow_id, _ORDER[report.kind]))

    def ages(self, known: Mapping[str, int]) -> dict[str, int]:
        """When undelivered reports were made (milliseconds UTC), by key; what is known is not read again."""
        made = {}
        for key, _ in self.lake.store.list(f"{_WAITING}/"):
            if key in known:
                made[key] = known[key]
            elif document := self.lake.read_document(key):
                made[key] = int(document["created"])
        return made

    def put_off(self, report: Report) -> None:
        """Keep a report for a later attempt."""
        self._write(_WAITING, report)

    def settle(self, report: Report, outcome: str) -> None:
        """Take a report out for good; what became of it stays on record."""
        self._write(SETTLED, report, outcome=outcome)
        self.lake.store.delete_many([f"{_WAITING}/{report.key}"])

    def settled(self, flow_id: str) -> list[str]:
        """What became of a run's reports, by stage."""
        found = (self.lake.read_document(f"{SETTLED}/{flow_id}.{stage}.json") for stage in (0, 1))
        return [document["outcome"] for document in found if document]

    def _write(self, folder: str, report: Report, **more: str) -> None:
        document = {**_REPORT.dump_python(report, mode="json"), **more}
        self.lake.write_document(f"{folder}/{report.key}", document)

"""The outbox of reports to CauseMos: what has to be told, kept in the lake until it is delivered.

A report is written down before anybody tries to deliver it, so that no crash and no outage loses it.
What reports say and what follows from a refusal is in `sensors/reports.py` and `causemos/client.py`.

    reports/waiting/PARTITION/ORDER.DUE.ATTEMPTS.RUN.STAGE.json     what CauseMos has not heard
    reports/settled/RUN.STAGE.json                                  what it has, or what was given up

Names tell who is next and when, so that a hundred thousand waiting reports cost one listing; a report is
read when its turn has come. Earlier versions wrote `reports/waiting/RUN.STAGE.json`: see `adopt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from datacube_assets.dojo.request import digest
from datacube_assets.redaction import redacted
from datacube_assets.storage.lake import DamagedError, Lake

Kind = Literal["queue-runtime", "processing-succeeded", "processing-failed"]
_STAGES: dict[Kind, int] = {"queue-runtime": 0, "processing-succeeded": 1, "processing-failed": 1}
_WAITING = "reports/waiting"
SETTLED = "reports/settled"
"""Where reports are kept that were delivered or given up."""

FIRST_WAIT = 15_000
LONGEST_WAIT = 600_000
"""Milliseconds between attempts: doubled from the first to the longest."""
_THREADS = 16
_DIGITS = 15
"""Of a time in milliseconds."""


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
    def stage(self) -> int:
        """One report per run and stage: a run has one outcome."""
        return _STAGES[self.kind]

    def failed(self, error: str, now: int) -> Report:
        """The report after an attempt that did not reach CauseMos."""
        return replace(
            self,
            attempts=self.attempts + 1,
            next_attempt=now + _wait(self.attempts + 1),
            last_error=redacted(error),
        )


def _wait(attempts: int) -> int:
    """Milliseconds until the next attempt, after so many that failed."""
    return int(min(FIRST_WAIT * 2 ** min(attempts - 1, 30), LONGEST_WAIT))


@dataclass(frozen=True, order=True)
class Slip:
    """What the name of a waiting report tells; slips of a partition sort by who is told first."""

    order: int
    """Milliseconds UTC when it was made, or just after what was told of the partition before."""
    flow_id: str
    stage: int
    attempts: int
    due: int
    """Milliseconds UTC before which nobody tries."""
    mark: str
    """Digest of the partition."""

    @property
    def key(self) -> str:
        name = f"{self.order:0{_DIGITS}}.{self.due:0{_DIGITS}}.{self.attempts:03}.{self.flow_id}.{self.stage}"
        return f"{_WAITING}/{self.mark}/{name}.json"

    @classmethod
    def of(cls, key: str) -> Slip | None:
        """The slip of a key, None for one of another kind."""
        mark, _, name = key.removeprefix(f"{_WAITING}/").rpartition("/")
        order, _, rest = name.removesuffix(".json").partition(".")
        due, _, rest = rest.partition(".")
        attempts, _, rest = rest.partition(".")
        flow_id, _, stage = rest.rpartition(".")
        numbers = (order, due, attempts, stage)
        if not mark or not flow_id or not all(text.isascii() and text.isdecimal() for text in numbers):
            return None
        return cls(int(order), flow_id, int(stage), int(attempts), int(due), mark)

    def is_due(self, now: int) -> bool:
        """Whether it may be tried: one that was put off after now was so before the clock was set back."""
        return self.due <= now or not self.attempts or self.due - _wait(self.attempts) > now


_REPORT = TypeAdapter(Report)


@dataclass(frozen=True)
class Outbox:
    """Reports that wait and reports that are settled."""

    lake: Lake

    # --- putting in ----------------------------------------------------------------------------------

    def post(self, report: Report) -> bool:
        """Put a report in, unless this run's stage is waiting or settled already.

        It stands behind everything that waits of its partition, whatever the clock says: a run's reports
        side by side, those of a later run behind them.
        """
        slips = self._slips(f"{_WAITING}/{_mark(report.partition)}/")
        if self._knows(slips, report.flow_id, report.stage):
            return False
        own = [slip.order for slip in slips if slip.flow_id == report.flow_id]
        others = [slip.order + 1 for slip in slips if slip.flow_id != report.flow_id]
        order = min(own) if own else max([report.created, *others])
        self._write(_slip(report, order).key, report)
        return True

    def knows(self, partition: str, flow_id: str, kind: Kind) -> bool:
        """Whether this stage of a run is waiting or settled."""
        return self._knows(self._slips(f"{_WAITING}/{_mark(partition)}/"), flow_id, _STAGES[kind])

    def _knows(self, waiting: Sequence[Slip], flow_id: str, stage: int) -> bool:
        # In this order: a report is settled before it stops waiting.
        if any((slip.flow_id, slip.stage) == (flow_id, stage) for slip in waiting):
            return True
        keys = (f"{folder}/{flow_id}.{stage}.json" for folder in (_WAITING, SETTLED))
        return any(self.lake.read_document(key) is not None for key in keys)

    def adopt(self) -> int:
        """Give reports that an earlier version wrote their places; says how many. For the sensor alone."""
        old = [key for key in self._keys(f"{_WAITING}/") if _is_old(key)]

        def move(key: str) -> int:
            report = self._read(key)
            if report is None:
                return 0
            self._write(_slip(report, report.created).key, report)
            self.lake.store.delete_many([key])
            return 1

        if not old:
            return 0
        with ThreadPoolExecutor(_THREADS) as threads:
            return sum(threads.map(move, old))

    # --- looking -------------------------------------------------------------------------------------

    def slips(self) -> list[Slip]:
        """Every undelivered report, oldest first; nothing is read."""
        return sorted(self._slips(f"{_WAITING}/"))

    def queues(self) -> list[list[Slip]]:
        """What waits of each partition, in the order in which it is told; who has waited longest, first.

        For the sensor alone: names that a death left behind, while a report was put off, are removed.
        """
        keys = self._keys(f"{_WAITING}/")
        slips = sorted(_newest(keys), key=lambda slip: (slip.mark, slip))
        standing = {slip.key for slip in slips}
        self.lake.store.delete_many([key for key in keys if Slip.of(key) and key not in standing])
        queues = [list(some) for _, some in groupby(slips, key=lambda slip: slip.mark)]
        return sorted(queues, key=lambda queue: (queue[0].due, queue[0]))

    def waiting(self) -> list[Report]:
        """Undelivered reports, oldest first; of a partition in the order in which they are told."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return [report for report in threads.map(self.read, self.slips()) if report]

    def stuck(self, most: int) -> tuple[int, list[Report]]:
        """How many reports were tried in vain, and the oldest of them."""
        slips = [slip for slip in self.slips() if slip.attempts]
        with ThreadPoolExecutor(_THREADS) as threads:
            return len(slips), [report for report in threads.map(self.read, slips[:most]) if report]

    def read(self, slip: Slip) -> Report | None:
        """A waiting report, None when it waits no more. Raises DamagedError."""
        return self._read(slip.key)

    def _read(self, key: str) -> Report | None:
        document = self.lake.read_document(key)
        try:
            return None if document is None else _REPORT.validate_python(document)
        except ValidationError:
            raise DamagedError(f"the report {key} of the lake is none. Correct it, or delete it") from None

    def _keys(self, folder: str) -> list[str]:
        keys: list[str] = self.lake.store.listing(folder)["key"].to_pylist()
        return keys

    def _slips(self, folder: str) -> list[Slip]:
        return _newest(self._keys(folder))

    # --- taking out ----------------------------------------------------------------------------------

    def put_off(self, slip: Slip, report: Report) -> None:
        """Keep a report for a later attempt."""
        later = _slip(report, slip.order)
        self._write(later.key, report)
        if later.key != slip.key:
            self.lake.store.delete_many([slip.key])

    def settle(self, slip: Slip, report: Report, outcome: str) -> None:
        """Take a report out for good; what became of it stays on record."""
        self._write(f"{SETTLED}/{report.flow_id}.{report.stage}.json", report, outcome=redacted(outcome))
        self.lake.store.delete_many([slip.key])

    def settled(self, flow_id: str) -> list[str]:
        """What became of a run's reports, by stage."""
        found = (self.lake.read_document(f"{SETTLED}/{flow_id}.{stage}.json") for stage in (0, 1))
        return [document["outcome"] for document in found if document]

    def _write(self, key: str, report: Report, **more: str) -> None:
        self.lake.write_document(key, {**_REPORT.dump_python(report, mode="json"), **more})


def _mark(partition: str) -> str:
    return digest(partition)[:16]


def _slip(report: Report, order: int) -> Slip:
    due = max(report.next_attempt, order)
    return Slip(order, report.flow_id, report.stage, min(report.attempts, 999), due, _mark(report.partition))


def _newest(keys: Iterable[str]) -> list[Slip]:
    """The slips of keys; of a report that is just being put off the one that counts."""
    newest: dict[tuple[str, int], Slip] = {}
    for key in keys:
        slip = _old_slip(key) if _is_old(key) else Slip.of(key)
        if slip is not None:
            other = newest.get((slip.flow_id, slip.stage))
            newest[slip.flow_id, slip.stage] = slip if other is None else max(other, slip)
    return list(newest.values())


def _is_old(key: str) -> bool:
    return "/" not in key.removeprefix(f"{_WAITING}/")


def _old_slip(key: str) -> Slip | None:
    flow_id, _, stage = key.removeprefix(f"{_WAITING}/").removesuffix(".json").rpartition(".")
    return Slip(0, flow_id, int(stage), 0, 0, "") if flow_id and stage.isdecimal() else None


def oldest(slips: Iterable[Slip]) -> int | None:
    """When the oldest of some reports was made (milliseconds UTC)."""
    return min((slip.order for slip in slips if slip.order), default=None)

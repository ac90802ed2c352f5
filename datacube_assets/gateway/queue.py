"""The queue as CauseMos sees it: what waits in the lake, and what Dagster has and has not started yet.

How requests lie in the lake is `storage/requests.py`, when they are handed to Dagster the sensor `requests`.
Nothing is kept here that could be lost: a gateway that starts anew, or beside others, sees the same queue.
Names tell what counts, so that looking at the queue reads no request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.gateway.parameters import Parameters, is_run_id
from datacube_assets.orchestration.jobs import FORCED, PRIORITY_TAG
from datacube_assets.partitions import PARTITION_TAG, REQUEST_TAG
from datacube_assets.sensors.reports import request_of
from datacube_assets.sensors.requests import queued_runs
from datacube_assets.storage import requests as kept
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.requests import Ticket

_log = logging.getLogger(__name__)

Outcome = Literal["accepted", "duplicate"]

LOOK_SECONDS = 1.0
"""How long what was seen of the queue is believed."""
_AT_ONCE = 200
"""Requests that Dagster is asked about at once."""
_STRIPES = 64
_WAITS = (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED)
_AT_WORK = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


class FullError(RuntimeError):
    """The queue has no room; nothing was put into it."""


class UnknownRunError(LookupError):
    """There is no such run."""


class ActiveRunError(RuntimeError):
    """The run is not over yet."""


@dataclass(frozen=True)
class Status:
    """What `/status` tells."""

    count: int
    """Requests whose run has not started."""
    is_running: bool
    """Whether runs are started; not while the queue is paused."""
    running: int
    """Runs at work."""


@dataclass
class _Seen:
    """The queue when it was last looked at, and what this process has put into it since."""

    waiting: set[str] = field(default_factory=set)
    """Names in the lake of which Dagster has no run."""
    queued: dict[str, DagsterRun] = field(default_factory=dict)
    """Runs in Dagster's queue, by name of the request."""
    newest: dict[str, str] = field(default_factory=dict)
    """The newest name of each partition (by its mark) in either."""

    def add(self, name: str) -> None:
        self.waiting.add(name)
        self._renew(name)

    def _renew(self, name: str) -> None:
        mark = Ticket.of(name).partition
        if mark:
            self.newest[mark] = max(name, self.newest.get(mark, ""))

    @classmethod
    def of(cls, waiting: set[str], queued: dict[str, DagsterRun]) -> _Seen:
        seen = cls(waiting, queued)
        for name in (*waiting, *queued):
            seen._renew(name)
        return seen

    @property
    def count(self) -> int:
        return len(self.waiting) + len(self.queued)

    def names(self) -> list[str]:
        """Everything that waits, oldest first."""
        return sorted({*self.waiting, *self.queued})


def _grouped(many: Sequence[Parameters]) -> list[list[Parameters]]:
    """Requests in their order; equal ones of a partition, with none between them, together."""
    groups: list[list[Parameters]] = []
    newest: dict[str, tuple[str, list[Parameters]]] = {}
    for one in many:
        before = newest.get(one.partition)
        if before is not None and before[0] == one.meaning:
            before[1].append(one)
        else:
            groups.append([one])
            newest[one.partition] = one.meaning, groups[-1]
    return groups


def _together(group: Sequence[Parameters]) -> Parameters:
    """One request for all who wait for the same."""
    first = group[0]
    waiting = dict.fromkeys(doc_id for one in group for doc_id in one.request.doc_ids or ())
    if len(group) == 1 or not waiting:
        return first
    return replace(first, request=first.request.model_copy(update={"doc_ids": tuple(waiting)}))


class RequestQueue:
    """The requests that wait in a lake and in a Dagster. All methods may be called from many threads."""

    def __init__(self, lake: Lake, instance: DagsterInstance, capacity: int) -> None:
        self._lake = lake
        self._instance = instance
        self._capacity = capacity
        self._seen = _Seen()
        self._seen_at = float("-inf")
        self._added: set[str] = set()
        self._reserved = 0
        self._parameters: dict[str, Any] = {}
        self._lock = threading.Lock()
        """Of what is seen; nothing is waited for while it is held."""
        self._looking = threading.Lock()
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]

    # --- putting in ------------------------------------------------------------------------------------

    def enqueue(self, parameters: Parameters) -> Outcome:
        """Put a request in at the end; once this returns, nothing loses it.

        One that asks for the same as the newest request of its partition, which still waits, is accepted
        and not put in again; whoever waits for it is told of that one's outcome.

        Raises FullError, and StoreError when the lake cannot be written.
        """
        self._look_if_due()
        # Of two equal ones at the same time the second has to find the first.
        with self._stripes[int(parameters.partition, 16) % _STRIPES]:
            if self._joins(parameters):
                return "duplicate"
            with self._room(1):
                self._put(parameters)
        return "accepted"

    def enqueue_many(self, many: Sequence[Parameters]) -> list[Outcome]:
        """Put requests in, in this order: all of them, or none when there is no room. Raises as `enqueue`.

        Those that were put in before the lake could not be written any more stay; sent again, they are
        duplicates.
        """
        self._look_if_due()
        groups = _grouped(many)
        new = [group for group in groups if self._same_as(group[0]) is None]
        outcomes: list[Outcome] = []
        with self._room(len(new)):
            for group in groups:
                outcomes.append(self._take(_together(group)))
                outcomes.extend("duplicate" for _ in group[1:])
        return outcomes

    def _take(self, parameters: Parameters) -> Outcome:
        """Put a request in for which there is room."""
        # Of two equal ones at the same time the second has to find the first.
        with self._stripes[int(parameters.partition, 16) % _STRIPES]:
            if self._joins(parameters):
                return "duplicate"
            self._put(parameters)
        return "accepted"

    def _same_as(self, parameters: Parameters) -> str | None:
        """The newest request of the partition if it asks for the same, as far as was seen."""
        with self._lock:
            newest = self._seen.newest.get(parameters.partition)
        same = newest is not None and Ticket.of(newest).meaning == parameters.meaning
        return newest if same else None

    def _joins(self, parameters: Parameters) -> bool:
        name = self._same_as(parameters)
        if name is None or not self._waits(name):
            return False
        asked = kept.asked_for(self._lake, name)
        # What others have joined with is not looked at: there may be thousands, and told is each once.
        known = set(asked.doc_ids) if asked else set()
        more = [doc_id for doc_id in parameters.request.doc_ids or () if doc_id not in known]
        if not more:
            return True
        kept.join(self._lake, name, more)
        # If its run has started meanwhile, its outcome may have been told already.
        return self._waits(name)

    def _waits(self, name: str) -> bool:
        """Whether a request waits at this moment."""
        try:
            waits = kept.waits(self._lake, name)
            runs = self._instance.get_runs(RunsFilter(tags={REQUEST_TAG: name}), limit=1)
        except Exception:
            # Whatever Dagster's storage raises: to be accepted, a request needs only the lake.
            _log.exception("Dagster cannot be asked for runs: a request is put in, be it there or not")
            return False
        return runs[0].status in _WAITS if runs else waits

    def _put(self, parameters: Parameters) -> None:
        asked = kept.ask_for_run(
            self._lake, parameters.request, parameters=parameters.document, meaning=parameters.meaning
        )
        with self._lock:
            self._added.add(asked.name)
            self._seen.add(asked.name)

    @contextmanager
    def _room(self, number: int) -> Iterator[None]:
        """Keep room while requests are on their way into the queue. Raises FullError."""
        with self._lock:
            count = self._seen.count
            if number and count + self._reserved + number > self._capacity:
                raise FullError(
                    f"the queue is full: {count} requests wait, and DATACUBE_QUEUE_SIZE is {self._capacity}"
                )
            self._reserved += number
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= number

    # --- looking ---------------------------------------------------------------------------------------

    def status(self) -> Status:
        """How full it is, and what is at work."""
        count = self.waiting()
        running = self._instance.get_runs_count(RunsFilter(statuses=list(_AT_WORK)))
        return Status(count, not kept.is_paused(self._lake), running)

    def jobs(self) -> list[Mapping[str, Any]]:
        """What was asked for, oldest first; each as it came, its addresses sealed."""
        self._look_if_due(wait=True)
        with self._lock:
            names = self._seen.names()
            known = self._parameters
        unread = [name for name in names if name not in known]
        with ThreadPoolExecutor(16) as threads:
            found = dict(zip(unread, threads.map(self._parameters_of, unread), strict=True))
        now = {name: known[name] if name in known else found[name] for name in names}
        with self._lock:
            self._parameters = now
        return [parameters for parameters in now.values() if parameters is not None]

    def _parameters_of(self, name: str) -> Mapping[str, Any] | None:
        asked = kept.asked_for(self._lake, name)
        if asked is None:
            return None
        if asked.parameters is not None:
            return asked.parameters
        run = ModelRun.known(asked.partition)
        return {"model_id": run.model_id, "run_id": run.run_id} if run else None

    def waiting(self) -> int:
        """How many requests wait."""
        self._look_if_due(wait=True)
        with self._lock:
            return self._seen.count

    def oldest(self) -> int | None:
        """When the oldest request that waits was asked for (milliseconds UTC)."""
        self._look_if_due(wait=True)
        with self._lock:
            first = min((*self._seen.waiting, *self._seen.queued), default=None)
        return None if first is None else Ticket.of(first).asked_at

    def _look_if_due(self, *, wait: bool = False) -> None:
        if time.monotonic() - self._seen_at < LOOK_SECONDS or not self._looking.acquire(blocking=wait):
            return
        try:
            if time.monotonic() - self._seen_at >= LOOK_SECONDS:
                self._look()
        except Exception:
            if wait:
                raise
            _log.exception("The queue cannot be looked at; what was seen before is taken for true")
        finally:
            self._looking.release()

    def _look(self) -> None:
        with self._lock:
            self._added = set()
        names = kept.names_waiting(self._lake)
        queued = {
            run.tags[REQUEST_TAG]: run for run in queued_runs(self._instance) if REQUEST_TAG in run.tags
        }
        taken = self._taken(names)
        with self._lock:
            # What was put in meanwhile may or may not have been listed.
            self._seen = _Seen.of({*names, *self._added} - taken - queued.keys(), queued)
            self._seen_at = time.monotonic()

    def _taken(self, names: list[str]) -> set[str]:
        """Those of which Dagster has a run. They are the oldest ones, and those that were forced."""
        forced = set(kept.names_forced(self._lake)) & set(names)
        taken = self._with_run(sorted(forced))
        for start in range(0, len(names), _AT_ONCE):
            some = self._with_run(names[start : start + _AT_ONCE])
            taken |= some
            if not some:
                break
        return taken

    def _with_run(self, names: list[str]) -> set[str]:
        if not names:
            return set()
        runs = self._instance.get_runs(RunsFilter(tags={REQUEST_TAG: names}))
        return {run.tags[REQUEST_TAG] for run in runs}

    # --- steering --------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no more runs; requests are still accepted. Outlives everything."""
        kept.pause(self._lake)

    def resume(self) -> None:
        """Start runs again."""
        kept.resume(self._lake)

    def clear(self) -> int:
        """Drop everything that waits, and tell how many that were; runs at work go on."""
        with self._looking:
            self._look()
            with self._lock:
                waiting, queued = sorted(self._seen.waiting), list(self._seen.queued.values())
            kept.drop(self._lake, waiting)
            for run in queued:
                # What has started since is not waiting any more.
                now = self._instance.get_run_by_id(run.run_id)
                if now is not None and now.status in _WAITS:
                    self._instance.run_coordinator.cancel_run(run.run_id)
            self._look()
        return len(waiting) + len(queued)

    def force(self) -> bool:
        """Have the next one started before all others, though the queue be paused; False if none waits."""
        with self._looking:
            self._look()
            forced = set(kept.names_forced(self._lake))
            with self._lock:
                names, queued = self._seen.names(), dict(self._seen.queued)
            for name in names:
                run = queued.get(name)
                if run is None and name not in forced:
                    kept.force(self._lake, name)
                    return True
                if run is not None and run.tags.get(PRIORITY_TAG) != FORCED[PRIORITY_TAG]:
                    self._instance.add_run_tags(run.run_id, {PRIORITY_TAG: FORCED[PRIORITY_TAG]})
                    return True
        return False

    def again(self, run_id: str) -> dict[str, Any]:
        """The flow parameters that a run worked on, to be put in again.

        Raises UnknownRunError, and ActiveRunError while the run is not over.
        """
        run = self._instance.get_run_by_id(run_id) if is_run_id(run_id) else None
        partition = run.tags.get(PARTITION_TAG) if run else None
        if run is None or partition is None or ModelRun.known(partition) is None:
            raise UnknownRunError("there is no run of that id")
        if not run.is_finished:
            raise ActiveRunError("the run is not over yet")
        asked = kept.asked_for(self._lake, run.tags.get(REQUEST_TAG, ""))
        if asked is not None and asked.parameters is not None:
            fields = {**asked.parameters, "doc_ids": list(kept.doc_ids_of(self._lake, asked.name))}
        else:
            request = request_of(self._instance, self._lake, run, partition, sealed=True)
            if request is None:
                raise UnknownRunError("nothing is known of what that run worked on")
            fields = request.model_dump(mode="json")
        return fields

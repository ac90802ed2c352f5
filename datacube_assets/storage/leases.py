"""One owner per published datacube: the lease of a partition, and a bucket that only its holder may change.

The lease is a record beside the objects (`.datacube~/MODEL_ID/RUN_ID/lease` in the bucket). Whoever publishes
takes it, renews it while it works, and gives it back. It is taken from a holder that is known to be dead, or
that left it unchanged for its whole term, by one's own clock: the clocks of other machines do not matter.
With each holder its *number* goes up; the *owner* it names is a period in which one lake knows what is in
the bucket (`ownership.py`). What a holder of the past still writes cannot pass for its successor's:

* In a folder, the holder changes objects under a lock, after a look at the lease; nobody takes the lease
  meanwhile.
* On S3 a request that was sent cannot be called back. The holder makes sure of its time before each request.
  results.json is copied by the server from an object that a successor deletes before it begins. Other objects
  that were under way when their sender stood still may arrive late: the sender notices when it wakes up, and
  takes away the results.json that they may have spoilt.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.kernels.key_safety import Keys
from datacube_assets.storage.stores import (
    OWN,
    Body,
    ChangedRecordError,
    Entry,
    Fence,
    MissingObjectError,
    Store,
    StoreError,
    StoreUnavailable,
)

TERM = 60.0
"""Seconds that a lease is good for, unless settings say otherwise."""
LONGEST_TERM = 3600.0
"""What is believed of the term that a lease tells."""
_RENEWED, _SAFE = 1 / 3, 2 / 3
"""Parts of the term after which it is renewed, and up to which the holder goes on without asking."""
_LOOKS = 20
"""Looks in a term at a lease that somebody else holds."""
_LEASE = "lease"
WAIT = ". Wait until that is through, or end it"
"""How the error of a lease that is held ends."""


class LeaseHeldError(StoreUnavailable):
    """Somebody else is at work on the datacube."""


class LeaseLostError(StoreError):
    """Somebody else has taken the lease since."""


@dataclass(frozen=True)
class Clock:
    """Time as one machine has it; it goes on while the machine sleeps, and is never set."""

    now: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


@dataclass(frozen=True)
class Process:
    """What tells a process from all others of its machine, and of others."""

    machine: str
    """One start of a machine, as its processes see it: two that differ know nothing of each other."""
    pid: int
    started: str

    @classmethod
    def this(cls) -> Process:
        return cls(_machine(), os.getpid(), _started(os.getpid()) or "")

    def state(self) -> str:
        """`dead`, `stopped`, `alive`, or `unknown` where it cannot be seen from here."""
        if not self.machine or self.machine != _machine():
            return "unknown"
        started = _started(self.pid)
        if started is None or started != self.started:
            return "dead"
        return "stopped" if _status(self.pid) in "Tt" else "alive"


@cache
def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _stat(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        # The name of the command may hold anything, parentheses too.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _started(pid: int) -> str | None:
    """When a process began, None where there is none; a zombie is none."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def _status(pid: int) -> str:
    return (_stat(pid) or ["?"])[0]


@dataclass(frozen=True)
class Lease:
    """What the record says."""

    number: int
    """Fencing number: it goes up with every holder."""
    token: str
    """Of this holder and no other."""
    owner: str
    """The period of ownership that the objects are of; empty before the first."""
    home: str
    run: str | None
    """Who holds it (a run of Dagster, or what a command calls itself); None when it was given back."""
    host: str
    process: Process | None
    """None where several work for one run: the death of one says nothing."""
    term: float
    version: str = ""
    """What the holder publishes; what is of the same version has the same bytes."""
    shared: bool = False
    """Whether workers in other processes renew it too: then the death of its process says little."""
    sound: bool = True
    """False when it was taken from a holder that did not give it back, until its traces are dealt with."""
    settled: str = ""
    """`yes` once what was there before is dealt with by this holder, or the process that is at it."""
    staged: tuple[str, ...] = ()
    """Holders before whose results.json may be staged yet."""
    beat: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @classmethod
    def parse(cls, body: bytes) -> Lease:
        said = json.loads(body)
        process = said.pop("process")
        return cls(
            **{**said, "staged": tuple(said["staged"])}, process=Process(**process) if process else None
        )

    def dump(self) -> bytes:
        """As a record; no two are the same."""
        said = {**self.__dict__, "process": self.process.__dict__ if self.process else None}
        return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()

    def __str__(self) -> str:
        pid = f", process {self.process.pid}" if self.process else ""
        return f"{self.run or 'nobody'} on {self.host}{pid} (home {self.home})"


def lease_key(run: ModelRun) -> str:
    """The key of a run's lease in its bucket."""
    return f"{OWN}/{run.prefix}{_LEASE}"


def read_lease(store: Store, run: ModelRun) -> Lease | None:
    """The lease of a run as it stands, None when nobody ever published there."""
    found = store.record(lease_key(run))
    return None if found is None else _parsed(store, run, found[0])


def _parsed(store: Store, run: ModelRun, body: bytes) -> Lease:
    try:
        return Lease.parse(body)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{store.url}/{lease_key(run)} is no lease: {error}. Delete it while nothing is published there"
        ) from None


@dataclass(frozen=True)
class Holder:
    """Who wants a lease."""

    home: str
    """The lake, which tells homes apart."""
    run: str
    term: float = TERM
    clock: Clock = CLOCK
    process: Process | None = field(default_factory=Process.this)
    host: str = field(default_factory=socket.gethostname)


class Tenure:
    """A lease that one holds, in one process; all that work for the same run there share it."""

    def __init__(self, store: Store, run: ModelRun, lease: Lease, tag: str | None, clock: Clock) -> None:
        self.store, self.run, self.key, self.clock = store, run, lease_key(run), clock
        self.lease, self._tag, self._me = lease, tag, lease.run
        self.is_worker = False
        self._confirmed = float("-inf")
        self._lost: str | None = None
        self._lock = threading.RLock()
        self.settling = threading.Lock()
        """Of whoever deals with what was there before; others of the process wait for it."""
        self._users, self._kept = 1, False
        self._over = threading.Event()

    def __reduce__(self) -> Any:
        # Workers renew it for themselves: what the sender knew is of another clock.
        return _joined, (self.store, self.run, self.lease)

    @property
    def term(self) -> float:
        return self.lease.term

    def check(self) -> None:
        """Make sure that the lease is one's own for some time yet.

        Raises LeaseLostError, StoreUnavailable.
        """
        if self._lost or self.clock.now() >= self._confirmed + self.term * _SAFE:
            self.renew()

    def is_safe(self) -> bool:
        """Whether nobody can have taken the lease up to now."""
        return not self._lost and self.clock.now() < self._confirmed + self.term * _SAFE

    def renew(self, **changes: Any) -> None:
        """Renew the lease, and change what it says. Raises LeaseLostError, StoreUnavailable."""
        with self._lock:
            if self._lost:
                raise LeaseLostError(self._lost)
            # Counted from before the request: whoever watches the record sees it change later.
            began = self.clock.now()
            while True:
                mine = {"run": self._me, "beat": uuid.uuid4().hex[:12], **changes}
                if self.is_worker:
                    mine["shared"] = True
                wanted = replace(self.lease, **mine)
                try:
                    self._tag = self.store.swap(self.key, wanted.dump(), self._tag)
                except ChangedRecordError:
                    self._look()
                    continue
                self.lease, self._confirmed = wanted, began
                return

    def look(self) -> None:
        """Look whether the lease is one's own at this moment. Raises LeaseLostError."""
        with self._lock:
            if self._lost:
                raise LeaseLostError(self._lost)
            self._look()
            if self.lease.run is None:
                self.renew()

    def _look(self) -> None:
        found = self.store.record(self.key)
        now = None if found is None else _parsed(self.store, self.run, found[0])
        if found is None or now is None or now.token != self.lease.token:
            whom = "it was deleted" if now is None else f"it is with {now}, as number {now.number}"
            self._lost = (
                f"the lease of {self.run} in {self.store.url} was lost: this process stood still for longer "
                f"than {self.term:g} s, or was taken for dead, and {whom}. What that one publishes stands; "
                "process this run again if it is the one that is wanted"
            )
            raise LeaseLostError(self._lost)
        self.lease, self._tag = now, found[1]

    def release(self, *, last: bool = False) -> None:
        """Give the lease back, unless others of this process or (but for the `last`) of this run need it."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
            self._over.set()
            _forget(self)
            if self._lost or (self.lease.process is None and not last):
                return
            with contextlib.suppress(LeaseLostError, StoreUnavailable):
                self.renew(run=None)
            self._lost = f"the lease of {self.run} in {self.store.url} was given back"

    @property
    def is_lost(self) -> bool:
        return self._lost is not None

    def shared(self) -> Tenure:
        """The same, for one more who will release it."""
        with self._lock:
            self._users += 1
        self.keep()
        return self

    def keep(self) -> None:
        """Renew it from now on until it is given back."""
        with self._lock:
            if not self._kept:
                self._kept = True
                threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def _keep(self) -> None:
        while not self._over.wait(self.term * _RENEWED):
            try:
                with self._lock:
                    if not self._over.is_set():
                        self.renew()
            except LeaseLostError:
                return
            except StoreError:
                continue  # It is tried again, and writing stops when time is up.


_TENURES: dict[tuple[str, str, str], Tenure] = {}
_SHARED = threading.RLock()
"""What this process holds, by store, key and token."""


def _name(tenure: Tenure) -> tuple[str, str, str]:
    return tenure.store.url, tenure.key, tenure.lease.token


def _forget(tenure: Tenure) -> None:
    with _SHARED:
        _TENURES.pop(_name(tenure), None)


def _joined(store: Store, run: ModelRun, lease: Lease) -> Tenure:
    """The tenure of a lease that another process took for the same run."""
    with _SHARED:
        known = _TENURES.get((store.url, lease_key(run), lease.token))
        if known is None:
            known = Tenure(store, run, lease, None, CLOCK)
            known.is_worker = True
            _TENURES[_name(known)] = known
        return known


def acquire(store: Store, run: ModelRun, me: Holder, *, patient: bool = True) -> Tenure:
    """Take the lease of a run's datacube; whoever works for the same run shares it.

    Of a holder that cannot be seen from here, waits for as long as the lease lasts, or as it shows a sign of
    life. Raises LeaseHeldError while somebody else holds it; at once unless `patient`.
    """
    with _SHARED:
        for (url, key, _), tenure in _TENURES.items():
            same = (url, key) == (store.url, lease_key(run)) and tenure.lease.run == me.run
            if same and not tenure.is_lost:
                return tenure.shared()
    watch = _Watch(me.clock)
    while True:
        found = store.record(lease_key(run))
        there = None if found is None else _parsed(store, run, found[0])
        if there is not None and there.run == me.run:
            return _join(store, run, me, there, found[1] if found else None)
        if not _was_left_here(store, run, me, there) and not watch.is_free(there):
            if not patient or not watch.may_wait(there):
                raise _held(store, run, there)
            me.clock.sleep(min(LONGEST_TERM, there.term if there else me.term) / _LOOKS)
            continue
        with store.changing(lease_key(run), alone=True) as alone:
            if alone is None:
                if not patient or not watch.may_wait_for_change(there):
                    raise _held(store, run, there)
                took = None
            else:
                took = _take(store, run, me, there, found[1] if found else None)
        if took is not None:
            return _begun(took)
        me.clock.sleep(me.term / _LOOKS / 10)


def _was_left_here(store: Store, run: ModelRun, me: Holder, there: Lease | None) -> bool:
    """Whether it is of an earlier run of this process, which could not give it back: on a full disk, say."""
    if there is None or there.process is None or there.process != me.process or there.shared:
        return False
    with _SHARED:
        return (store.url, lease_key(run), there.token) not in _TENURES


def _take(store: Store, run: ModelRun, me: Holder, there: Lease | None, seen: str | None) -> Tenure | None:
    """The lease, if it is as it was seen."""
    staged = () if there is None else (*there.staged, there.token)
    mine = Lease(
        number=there.number + 1 if there else 1,
        token=uuid.uuid4().hex[:16],
        owner=there.owner if there else "",
        home=_short(me.home, 160),
        run=me.run,
        host=_short(me.host, 64),
        process=me.process,
        term=me.term,
        sound=there is None or (there.sound and there.run is None),
        # One who gave it back has nothing under way.
        staged=() if there is None or (there.run is None and not there.staged) else staged[-8:],
    )
    tenure = Tenure(store, run, mine, seen, me.clock)
    began = me.clock.now()
    try:
        tenure._tag = store.swap(tenure.key, mine.dump(), seen, contested=True)
    except ChangedRecordError:
        return None
    tenure._confirmed = began
    return tenure


def _short(text: str, size: int) -> str:
    """So many bytes of a text: a record is small."""
    return text.encode()[:size].decode(errors="ignore")


def _begun(tenure: Tenure) -> Tenure:
    with _SHARED:
        _TENURES[_name(tenure)] = tenure
    tenure.keep()
    if tenure.lease.staged:
        # Before anything else: what is staged could yet become results.json.
        staged = [staged_key(tenure.run, token) for token in tenure.lease.staged]
        tenure.store.delete_many(staged, fence=tenure.check)
        tenure.renew(staged=())
    return tenure


def _join(store: Store, run: ModelRun, me: Holder, there: Lease, tag: str | None) -> Tenure:
    tenure = Tenure(store, run, there, tag, me.clock)
    with _SHARED:
        _TENURES[_name(tenure)] = tenure
    tenure.renew(process=there.process if there.process == me.process else None)
    tenure.keep()
    return tenure


def _held(store: Store, run: ModelRun, there: Lease | None) -> LeaseHeldError:
    return LeaseHeldError(f"{run} in {store.url} is being published by {there}{WAIT}")


class _Watch:
    """What one sees of a lease that somebody else holds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: Lease | None = None
        self._since = 0.0
        self._alive = False
        self._busy_since: float | None = None

    def is_free(self, there: Lease | None) -> bool:
        if there is None or there.run is None:
            return True
        if there.process is not None and not there.shared and there.process.state() == "dead":
            return True
        if self._seen is None or self._seen.beat != there.beat:
            self._alive = self._seen is not None and self._seen.token == there.token
            self._seen, self._since = there, self._clock.now()
            return False
        return self._clock.now() - self._since >= min(there.term, LONGEST_TERM)

    def may_wait(self, there: Lease | None) -> bool:
        """Whether it may yet turn out that the holder is dead."""
        seen_alive = there is not None and there.process is not None and there.process.state() == "alive"
        return not self._alive and not seen_alive

    def may_wait_for_change(self, there: Lease | None) -> bool:
        """Whether to wait on for somebody who is in the middle of a change."""
        now = self._clock.now()
        if self._busy_since is None:
            self._busy_since = now
        return now - self._busy_since < (min(there.term, LONGEST_TERM) if there else TERM)


def staged_key(run: ModelRun, token: str) -> str:
    """Where results.json waits to be copied."""
    return f"{OWN}/{run.prefix}results-{token}.json"


# --- the bucket ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnedBucket:
    """A bucket in whose folder of a run one publishes: a store that is changed only as long as the lease is
    one's own. Can be sent to workers.

    What changes raises LeaseLostError when it is not; then nothing of it was done, or what was done has been
    seen to.
    """

    store: Store
    tenure: Tenure

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def owner(self) -> str:
        return self.tenure.lease.owner

    @property
    def number(self) -> int:
        return self.tenure.lease.number

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Fence]]:
        """A change; gives the fence to hand on, where there has to be one."""
        tenure, sent = self.tenure, [False]

        def fence() -> None:
            tenure.check()
            sent[0] = True

        with self.store.changing(tenure.key) as kept:
            if kept:
                # While it is locked, one look is enough.
                tenure.look()
                yield {}
                return
            try:
                if tenure.is_worker:
                    # It may be one that was taken for dead, and whose work somebody else has done.
                    tenure.renew()
                yield {"fence": fence}
                if not tenure.is_safe():
                    tenure.renew()
            except LeaseLostError:
                if sent[0]:
                    self._see_to_late_changes()
                raise

    def _see_to_late_changes(self) -> None:
        """Take away the results.json of a successor that requests of ours may have spoilt.

        Not where it publishes the same: then the objects are the same.
        """
        spoilt = read_lease(self.store, self.tenure.run)
        mine = self.tenure.lease
        if spoilt is None or (spoilt.version and spoilt.version == mine.version):
            return
        while True:
            found = self.store.record(self.tenure.key)
            there = None if found is None else _parsed(self.store, self.tenure.run, found[0])
            seized = replace(
                mine,
                number=max(mine.number, there.number if there else 0) + 1,
                token=uuid.uuid4().hex[:16],
                owner=f"spoilt-{uuid.uuid4().hex[:8]}",
                run=None,
                version="",
                settled="",
                staged=(),
                beat=uuid.uuid4().hex[:12],
            )
            try:
                self.store.swap(self.tenure.key, seized.dump(), found[1] if found else None, contested=True)
                break
            except ChangedRecordError:
                continue
        tokens = [*there.staged, there.token] if there else []
        staged = [staged_key(self.tenure.run, token) for token in tokens]
        self.store.delete_many([*staged, f"{self.tenure.run.prefix}{keys.RESULTS}"])

    def put_many(
        self,
        keys_: Sequence[str],
        bodies: Iterable[Body],
        content_type: str,
        *,
        fence: Fence | None = None,
    ) -> None:
        results = f"{self.tenure.run.prefix}{keys.RESULTS}"
        with self._changing() as mine:
            if list(keys_) != [results]:
                self.store.put_many(keys_, bodies, content_type, **mine)
                return
            # It says that all is complete, so it is not enough that time is left: the store is asked.
            staged = staged_key(self.tenure.run, self.tenure.lease.token)
            fence = self._asking(mine.get("fence", _open))
            try:
                self.store.put_staged(results, staged, next(iter(bodies)), content_type, fence)
            except MissingObjectError:
                self.tenure.look()
                raise

    def _asking(self, fence: Fence) -> Fence:
        def ask() -> None:
            self.tenure.renew()
            fence()

        return ask

    def put_staged(self, key: str, staged: str, body: Body, content_type: str, fence: Fence) -> None:
        self.store.put_staged(key, staged, body, content_type, fence)

    def put(self, key: str, body: Body, *, durably: bool = False) -> None:
        with self._changing() as mine:
            mine.get("fence", _open)()
            self.store.put(key, body, durably=durably)

    def put_file(self, key: str, path: Path) -> None:
        with self._changing() as mine:
            mine.get("fence", _open)()
            self.store.put_file(key, path)

    def delete_many(self, keys_: Sequence[str], *, fence: Fence | None = None) -> None:
        if keys_:
            with self._changing() as mine:
                self.store.delete_many(keys_, **mine)

    def sweep(self, keys_: Sequence[str], before: float) -> None:
        self.store.sweep(keys_, before)

    # What only reads is the store's.

    def check(self, setting: str, *, write: bool = True) -> None:
        self.store.check(setting, write=write)

    def get(self, key: str) -> bytes:
        return self.store.get(key)

    def open(self, key: str) -> str | BinaryIO:
        return self.store.open(key)

    def tail(self, key: str, size: int) -> bytes:
        return self.store.tail(key, size)

    def storable(self, keys_: Keys) -> npt.NDArray[np.bool_]:
        return self.store.storable(keys_)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self.store.list(prefix)

    def entries(self, prefix: str) -> Iterator[Entry]:
        return self.store.entries(prefix)

    def folders(self, prefix: str) -> Sequence[str]:
        return self.store.folders(prefix)

    def listing(self, prefix: str) -> pa.Table:
        return self.store.listing(prefix)

    def local_path(self, key: str) -> Path | None:
        return self.store.local_path(key)

    def record(self, key: str) -> tuple[bytes, str] | None:
        return self.store.record(key)

    def swap(self, key: str, body: bytes, seen: str | None, *, contested: bool = False) -> str:
        return self.store.swap(key, body, seen, contested=contested)

    def changing(self, key: str, *, alone: bool = False) -> contextlib.AbstractContextManager[bool | None]:
        return self.store.changing(key, alone=alone)

    def swaps_for_sure(self) -> bool:
        return self.store.swaps_for_sure()


def _open() -> None:
    """The fence where nobody can come in."""

"""Publishers of several homes that want the same folder of a bucket, for tests of who gets it.

Two ways to run them: as threads of which one moves at a time, each a machine with a clock of its own, in an
order that a seed decides (`Interleaving`); and as processes that stop themselves at a chosen moment
(`start_rival`). What a moment is, is in `crashing.py`. Each publishes by the functions that runs publish by.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.encode import CSV, Objects
from datacube_assets.storage import local_records
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.leases import Clock, Holder, LeaseLostError, Process, acquire
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.ownership import settled
from datacube_assets.storage.publishing import IncompleteDatacubeError, Publication, complete, standing
from datacube_assets.storage.stores import Store, StoreError, StoreUnavailable
from datacube_assets_tests.integration.crashing import FORKS, Nth, dying_at, watching

RUN = ModelRun("model", "run")
RESULTS = f"{RUN.prefix}results/results.json"
ASSETS = ("maps", "lists", "tiles")
INPUTS = ("a", "b", "c")


def objects_of(version: str, asset: str) -> dict[str, bytes]:
    """What an asset makes of an input: some objects change, some stay, some come or go with it."""
    kept = {f"{asset}/same.csv": b"same", f"{asset}/changed.csv": f"{asset} of {version}".encode()}
    return kept | {f"{asset}/only {version} {number}.csv": version.encode() for number in range(2)}


def expected(version: str) -> dict[str, bytes]:
    """All objects of a complete datacube."""
    made = {
        f"{RUN.prefix}{key}": body for asset in ASSETS for key, body in objects_of(version, asset).items()
    }
    return made | {RESULTS: f"results of {version}".encode()}


WHOLE = {version: expected(version) for version in INPUTS}


def publish(lake: Lake, bucket: Store, version: str, me: Holder, *, anew: bool = False) -> None:
    """Publish an input as a run does, step by step."""
    tenure = acquire(bucket, RUN, me)
    try:
        for asset in ASSETS:
            owned = settled(lake, tenure, version, anew=anew)
            if anew or standing(lake, owned, RUN, asset, version) is None:
                attempt = uuid.uuid4().hex
                publication = Publication.begin(lake, owned, RUN, asset, version, attempt, anew=anew)
                made = list(objects_of(version, asset).items())
                batches = [Objects.of(dict(made[:3]), CSV), Objects.of(dict(made[3:]), CSV)]
                published, names = publication.publish("work", batches)
                publication.finish(published, {"work": names})
        owned = settled(lake, tenure, version, anew=anew)
        complete(lake, owned, RUN, version, uuid.uuid4().hex, WHOLE[version][RESULTS], ASSETS, anew=anew)
    finally:
        tenure.release()


def in_bucket(store: Store) -> dict[str, bytes]:
    """Every object of the run."""
    return {key: store.get(key) for key, _ in store.list(RUN.prefix)}


def is_mixture(found: Mapping[str, bytes]) -> bool:
    """Whether it says that it is complete, and is not one input's datacube, whole and with nothing beside."""
    return RESULTS in found and found not in WHOLE.values()


REFUSALS = (StoreError, StoreUnavailable, IncompleteDatacubeError)


# --- threads, one at a time ------------------------------------------------------------------------------


class Killed(BaseException):
    """The machine is off."""


@dataclass
class Machine:
    """A home with a clock of its own, which counts from another moment and at another pace."""

    name: str
    lake: Lake
    bucket: Store
    offset: float
    pace: float
    turn: threading.Event = field(default_factory=threading.Event)
    waits: threading.Event = field(default_factory=threading.Event)
    asleep_until: float = 0.0
    done: bool = False
    dead: bool = False
    ends: Counter[str] = field(default_factory=Counter)


@dataclass
class Interleaving:
    """Machines whose steps follow each other as a seed decides; some sleep for long, some die."""

    seed: int
    machines: list[Machine]
    look: Callable[[], None]
    """Called after every step, while nobody moves."""
    publications: int = 2
    term: float = 60.0
    now: float = 0.0
    steps: int = 0

    def run(self) -> None:
        chance = random.Random(self.seed)
        threads = {
            machine.name: threading.Thread(
                target=self._work,
                args=(machine, random.Random(f"{self.seed} {machine.name}")),
                name=machine.name,
            )
            for machine in self.machines
        }
        self._by_thread = {machine.name: machine for machine in self.machines}
        with watching(self._passed, one_at_a_time=False):
            for machine in self.machines:
                threads[machine.name].start()
                machine.waits.wait(60)
            while working := [machine for machine in self.machines if not machine.done]:
                awake = [machine for machine in working if machine.asleep_until <= self.now]
                if not awake:
                    self.now = min(machine.asleep_until for machine in working)
                    continue
                machine = chance.choice(awake)
                if chance.random() < 0.03:
                    # It stands still, for a moment or far longer than anybody waits.
                    machine.asleep_until = self.now + chance.choice((5.0, 100.0, 3600.0))
                    continue
                machine.dead = machine.dead or chance.random() < 0.004
                machine.waits.clear()
                machine.turn.set()
                if not machine.waits.wait(120):
                    raise AssertionError(f"{machine.name} does not move (seed {self.seed})")
                self.steps += 1
                self.now += chance.uniform(0.0, 2.0)
                self.look()
            for thread in threads.values():
                thread.join(60)

    def _work(self, machine: Machine, chance: random.Random) -> None:
        clock = Clock(
            lambda: machine.offset + machine.pace * self.now, lambda seconds: self._sleep(machine, seconds)
        )
        for _ in range(self.publications):
            me = Holder(
                machine.name, uuid.uuid4().hex, self.term, clock, Process(machine.name, 1, "1"), machine.name
            )
            try:
                self._wait(machine)
                publish(machine.lake, machine.bucket, chance.choice(INPUTS), me, anew=chance.random() < 0.2)
                machine.ends["published"] += 1
            except Killed:
                machine.ends["killed"] += 1
                machine.dead = False
            except REFUSALS as error:
                machine.ends[type(error).__name__] += 1
        machine.done = True
        machine.waits.set()

    def _sleep(self, machine: Machine, seconds: float) -> None:
        machine.asleep_until = self.now + seconds / machine.pace
        self._wait(machine)

    def _passed(self, moment: str) -> None:
        machine = self._by_thread.get(threading.current_thread().name)
        if machine is not None:
            self._wait(machine)

    def _wait(self, machine: Machine) -> None:
        if not machine.dead:
            machine.waits.set()
            machine.turn.wait()
            machine.turn.clear()
        if machine.dead:
            raise Killed


def machines(folder: Path, bucket: Callable[[str], Store], count: int, seed: int) -> list[Machine]:
    """Homes of their own; two of more than two share a lake."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        lake = Lake(open_store((folder / f"lake-{number if number < 2 else 0}").as_uri()))
        name = f"machine-{number}"
        offset = chance.uniform(-1e6, 1e6)
        made.append(Machine(name, lake, bucket(name), offset, chance.uniform(0.98, 1.02)))
    return made


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Who waits for a lock that a sleeping machine holds gives up soon: nothing moves meanwhile."""
    before, local_records._PATIENCE = local_records._PATIENCE, 0.01
    try:
        yield
    finally:
        local_records._PATIENCE = before


# --- processes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rival:
    """A publication in a process of its own."""

    lake: str
    bucket: str
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    term: float = 0.5

    def publish(self) -> None:
        """Publish, waiting for others as a run of the daemon does."""
        lake, bucket = Lake(open_store(self.lake, self.endpoint)), open_store(self.bucket, self.endpoint)
        end = time.monotonic() + 60
        while True:
            try:
                return publish(lake, bucket, self.version, Holder(self.lake, uuid.uuid4().hex, self.term))
            except (StoreUnavailable, LeaseLostError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)


def start_rival(rival: Rival, fate: Nth | None = None) -> ForkServerProcess:
    """Start a publication that stops or dies at a moment."""
    process = FORKS.Process(target=_rival, args=(rival, fate))
    process.start()
    return process


def _rival(rival: Rival, fate: Nth | None) -> None:
    os.environ.update(rival.environment)
    with watching(dying_at(fate)) if fate else contextlib.nullcontext():
        try:
            rival.publish()
        except (LeaseLostError, IncompleteDatacubeError):
            raise SystemExit(3) from None


def wait_until_stopped(process: Any, seconds: float = 60.0) -> bool:
    """Whether a process stands still; it ended otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.exitcode is not None:
            return False
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return True
        time.sleep(0.01)
    raise AssertionError("it neither stops nor ends")


def go_on(process: Any) -> None:
    """Wake a process that was stopped."""
    os.kill(process.pid, signal.SIGCONT)

"""The whole system for some minutes, with runs that keep coming and things that keep breaking.

    make soak ARGS="--minutes 5"
    python -m benchmarks soak --minutes 60 --every 10

Daemon, webserver, simulators of Dojo and CauseMos, a real S3 server for lake and buckets, and a Dask cluster
are processes of their own. Runs finish in Dojo one after the other, some are executed again, and at times an
earlier state comes back. Meanwhile runs, daemon, code server and workers are killed with SIGKILL; Dojo and
CauseMos answer 503, break off, or send a byte at a time; Dojo lists documents twice; and where there is
a C compiler, the clock of all that Dagster runs jumps; and another home, with a lake of its own, publishes
runs of this one into the same bucket. With `--outage N` CauseMos is away in the end until so
many reports wait. Nothing may be lost, told twice or wrong: published objects are compared, byte for byte,
with those of a run that nothing disturbed. Needs the extra `dev`. Exits with status 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from datacube_assets.storage.stores import Store
    from datacube_assets_tests.integration.dask_cluster import Cluster
    from datacube_assets_tests.integration.system import System

AGAIN: Final = 4
"""Every so many runs, one of the earlier ones is executed again."""
SAMPLE_SECONDS: Final = 2.0
WARM_SECONDS: Final = 60.0
"""What a process needs at its start says nothing about growth."""
GROWTH_MB: Final = 20.0
"""Megabytes a minute that memory may grow by: less is noise."""
SLOWEST: Final = 3
"""Runs whose course is told."""
RECENT: Final = 50
"""Runs of Dagster whose state is looked at."""
JUDGED_SECONDS: Final = 600.0
"""A process watched for less has no verdict: its first work is a step in its memory, not growth."""


@dataclass
class Watched:
    """What was seen while it ran."""

    finished: dict[tuple[str, int], float] = field(default_factory=dict)
    """When Dojo said that an execution of a run had succeeded, by run and execution."""
    parts: dict[tuple[str, int], int] = field(default_factory=dict)
    """Which execution's files each of these states has: an earlier one's, where a state came back."""
    faults: list[tuple[float, str]] = field(default_factory=list)
    """What was broken, and when."""
    states: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """When a run of Dagster was first seen in a state, by run in Dojo, run of Dagster and state."""
    rivals: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    """Runs that another home publishes, or has published."""
    memory: dict[tuple[str, int], list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Seconds and megabytes, by name and process."""

    def at_rivals(self) -> set[str]:
        """Runs that another home publishes now, and which a newer state must not come to meanwhile."""
        return {name for name, process in self.rivals if process.poll() is None}


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    folder = Path(tempfile.mkdtemp(prefix="datacube-soak-", dir=options.folder))
    watched, start = Watched(), time.monotonic()
    clock = Clock.of(folder)
    with _everything(folder, options.max_runs, clock) as (system, cluster):
        over = threading.Event()
        sampling = threading.Thread(target=_sample, args=(system, cluster, watched, over), daemon=True)
        sampling.start()
        _disturb(system, cluster, watched, options, clock)
        if options.outage:
            _outage(system, watched, options.outage)
        clock.jump(0)
        settled = _settle(system, watched, options.patience)
        over.set()
        sampling.join()
        report = _report(system, watched, settled=settled)
    report["minutes"] = round((time.monotonic() - start) / 60, 1)
    _tell(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    broken = [name for name in ("lost", "duplicated", "wrong", "orphans left") if report[name]]
    broken += [
        f"memory of {name}"
        for name, one in report["memory"].items()
        if one["MB/min"] > GROWTH_MB and one["seconds"] >= JUDGED_SECONDS
    ]
    if broken:
        raise SystemExit(f"broken: {', '.join(broken)}; logs and data are in {folder}")
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks soak", description="Run everything, and break things, for some minutes."
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long runs keep coming")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between runs that finish")
    parser.add_argument("--fault-every", type=float, default=12.0, help="seconds between faults")
    parser.add_argument("--outage", type=int, default=0, help="reports that wait until CauseMos is back")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for the last run")
    parser.add_argument("--max-runs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--seed", type=int, default=1, help="of what breaks when")
    parser.add_argument("--folder", type=Path, help="where to work")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


@dataclass
class Clock:
    """The clock of everything that Dagster runs: wrong by some seconds, where there is a C compiler."""

    file: Path
    library: Path | None

    @classmethod
    def of(cls, folder: Path) -> Clock:
        compiler, library = shutil.which("cc"), folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        if compiler:
            command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
            subprocess.run(command, check=True)
        clock = cls(folder / "clock", library if compiler else None)
        clock.jump(0)
        return clock

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "CLOCK_FILE": str(self.file)} if self.library else {}

    def jump(self, seconds: int) -> bool:
        """Set the clock so many seconds off the true time; says whether there is a clock to set."""
        renewed = self.file.with_suffix(".new")
        renewed.write_text(str(seconds))
        renewed.replace(self.file)
        return self.library is not None


@contextlib.contextmanager
def _everything(folder: Path, max_runs: int, clock: Clock) -> Iterator[tuple[System, Cluster]]:
    from datacube_assets.development.s3_server import s3_server
    from datacube_assets_tests.integration.dask_cluster import cluster
    from datacube_assets_tests.integration.system import system

    with contextlib.ExitStack() as stack:
        s3 = stack.enter_context(s3_server())
        stores = {
            "DATACUBE_LAKE": "s3://lake/soak",
            "DATACUBE_MODELS_BUCKET": "s3://models",
            "DATACUBE_INDICATORS_BUCKET": "s3://indicators",
        }
        aws = {name: value for name, value in s3.environment().items() if name.startswith("AWS_")}
        os.environ.update(aws)
        environment = {**stores, **aws, "DATACUBE_S3_ENDPOINT": s3.endpoint}
        # A home of its own: what ends the system's processes shall leave the cluster alone.
        workers = folder / "cluster"
        workers.mkdir()
        dask = stack.enter_context(cluster(workers, **environment))
        more: dict[str, Any] = {**environment, "DATACUBE_DASK_SCHEDULER": dask.address}
        running = stack.enter_context(system(folder, max_runs=max_runs, **more))
        # A machine that does much else takes minutes.
        running.patience = 600.0
        running.daemon.environment = {**running.environment, **clock.environment()}
        running.start_daemon()
        running.start_webserver()
        yield running, dask


# --- what happens meanwhile ------------------------------------------------------------------------


def _disturb(
    system: System, cluster: Cluster, watched: Watched, options: argparse.Namespace, clock: Clock
) -> None:
    """Let runs finish, and break something now and then, until the time is over."""
    dice = random.Random(options.seed)
    rival = {"another home publishes": partial(_rival, system, watched, dice)}
    faults: Mapping[str, Callable[[], bool]] = {**rival, **_faults(system, cluster, clock, dice)}
    # At first in the order in which they are named, then in any.
    waiting = list(faults)[::-1]
    start = time.monotonic()
    next_run = next_fault = start
    number = 0
    while (now := time.monotonic()) < start + 60 * options.minutes:
        if now >= next_run:
            number += 1
            again = number % AGAIN == 0
            name = f"run-{dice.randrange(1, number):05}" if again else f"run-{number:05}"
            if name in watched.at_rivals():
                name = f"run-{number:05}"
            state = _newest(watched).get(name, 0) + 1
            # Every other time it is not executed again: a state that was there before comes back.
            comes_back = state > 2 and number % (2 * AGAIN) == 0 and _is_told(system, watched, name)
            _finish(system, watched, name, state, state - 2 if comes_back else state)
            next_run = now + options.every
        if now >= next_fault and number > 1:
            if not waiting:
                waiting = dice.sample(sorted(faults), len(faults))
            what = waiting.pop()
            if faults[what]():
                watched.faults.append((time.time(), what))
                next_fault = now + options.fault_every
            else:
                # There was nothing to break. Something else comes first, in a moment.
                waiting.insert(0, what)
                next_fault = now + 1
            print(f"\r{number} runs, {len(watched.faults)} faults", end="", file=sys.stderr, flush=True)
        time.sleep(0.1)


def _finish(system: System, watched: Watched, name: str, state: int, like: int) -> None:
    """Bring a run into its next state in Dojo: of a new execution, or as it was in an earlier state."""
    part = watched.parts.get((name, like), like)
    _patiently(partial(system.dojo.finish, name, part))
    watched.parts[name, state] = part
    watched.finished[name, state] = time.time()


def _rival(system: System, watched: Watched, dice: random.Random) -> bool:
    """Let another home publish the newest state of a run into the same bucket, from tables of its own."""
    from datacube_assets_tests.integration.system import MODEL

    newest = _newest(watched)
    with contextlib.suppress(OSError):
        there = sorted(_told_since(system, watched) - watched.at_rivals())
        if not there:
            return False
        name = dice.choice(there)
        part = f"{system.dojo.url}/files/{name}_{MODEL}.{watched.parts[name, newest[name]]}.parquet.gzip"
        home = system.settings.home.parent / "another home"
        home.mkdir(exist_ok=True)
        options = ["--model-id", MODEL, "--run-id", name, "--quiet"]
        options += ["--home", str(home), "--lake", (home / "lake").as_uri()]
        with (home / f"{len(watched.rivals)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "datacube_assets.cli", "publish", part, *options],
                env={name: value for name, value in system.environment.items() if name != "DAGSTER_HOME"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        watched.rivals.append((name, process))
        return True
    return False


def _is_told(system: System, watched: Watched, name: str) -> bool:
    """Whether CauseMos knows of a run's newest state: only of one that was seen can another come back."""
    with contextlib.suppress(OSError):
        return name in _told_since(system, watched)
    return False


def _outage(system: System, watched: Watched, reports: int) -> None:
    """Keep CauseMos away until so many reports wait, about runs that Dagster only notes down."""
    from datacube_assets.storage.reports import Outbox, Report

    _patiently(lambda: system.causemos.switch(error_next=10**9, error_status=503))
    outbox, now = Outbox(system.lake), time.time_ns() // 1_000_000
    for number in range(reports):
        name = f"outage-{number:05}"
        body = {"run_id": name, "data_id": "m", "doc_ids": [name], "is_indicator": False, "flow_id": name}
        outbox.post(Report(name, "processing-failed", f"m:{name}", body, None, now))
    waits = time.monotonic() + 30
    while time.monotonic() < waits:
        time.sleep(1)
    watched.faults.append((time.time(), f"outage with {reports} reports"))
    _patiently(lambda: system.causemos.switch(error_next=0))


def _faults(
    system: System, cluster: Cluster, clock: Clock, dice: random.Random
) -> Mapping[str, Callable[[], bool]]:
    """What can break, by name; each says whether there was anything to break."""
    from datacube_assets.orchestration.run_launcher import process_of

    def kill(pid: int | None) -> bool:
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def run() -> bool:
        pids = [process_of(run.run_id) for run in system.runs()[-20:] if not run.is_finished]
        there = [pid for pid in pids if pid is not None]
        return kill(dice.choice(there)) if there else False

    def daemon() -> bool:
        system.kill_daemon()
        system.start_daemon()
        return True

    def code_server() -> bool:
        return kill(next(iter(_code_servers(system)), None))

    def worker() -> bool:
        workers = sorted(cluster.workers())
        return kill(dice.choice(workers)) if workers else False

    def misbehaves(who: Any, **switches: Any) -> Callable[[], bool]:
        def switch() -> bool:
            who.switch(**switches)
            return True

        return switch

    return {
        "run killed": run,
        "run killed again": run,
        "daemon killed": daemon,
        "code server killed": code_server,
        "Dask worker killed": worker,
        "Dojo answers 503": misbehaves(system.dojo, error_next=30, error_status=503),
        "Dojo answers 500": misbehaves(system.dojo, error_next=20, error_status=500),
        "Dojo breaks off": misbehaves(system.dojo, truncate_next=10),
        "CauseMos answers 503": misbehaves(system.causemos, error_next=5, error_status=503),
        "CauseMos breaks off": misbehaves(system.causemos, truncate_next=3),
        "Dojo dribbles": misbehaves(system.dojo, dribble_next=3),
        "CauseMos dribbles": misbehaves(system.causemos, dribble_next=2),
        "Dojo lists documents twice": misbehaves(system.dojo, repeat_next=5),
        "clock ahead": lambda: clock.jump(120),
        "clock right again": lambda: clock.jump(0),
        "clock set back": lambda: clock.jump(-300),
        "clock right once more": lambda: clock.jump(0),
    }


def _patiently(do: Callable[[], object]) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            do()
            return
        time.sleep(0.2)


def _code_servers(system: System) -> list[int]:
    """Processes of Dagster's code server, children of the daemon."""
    daemon = system.daemon.process
    return [] if daemon is None else [pid for pid in _children(daemon.pid) if b"grpc" in _command(pid)]


def _children(pid: int) -> list[int]:
    # Linux lists them by the thread that started them.
    with contextlib.suppress(OSError):
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        return [int(one) for children in lists for one in children.split()]
    return []


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _sample(system: System, cluster: Cluster, watched: Watched, over: threading.Event) -> None:
    start = time.monotonic()
    while not over.wait(SAMPLE_SECONDS):
        now = time.monotonic() - start
        for name, program in (("daemon", system.daemon), ("webserver", system.webserver)):
            if program.process is not None:
                _note(watched, name, program.process.pid, now)
        for pid in _code_servers(system):
            _note(watched, "code server", pid, now)
        _note(watched, "Dask scheduler", cluster.process.pid, now)
        for pid in _children(cluster.process.pid):
            if _command(pid).startswith(b"dask worker"):
                _note(watched, "Dask worker", pid, now)
        _note_states(system, watched)


def _note_states(system: System, watched: Watched) -> None:
    for run in system.instance.get_runs(limit=RECENT):
        name = run.tags.get("dagster/partition", "").rpartition(":")[2]
        watched.states.setdefault((name, run.run_id, run.status.value), time.time())


def _note(watched: Watched, name: str, pid: int, now: float) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        watched.memory[name, pid].append((now, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))


# --- what came of it -------------------------------------------------------------------------------


def _newest(watched: Watched) -> dict[str, int]:
    """The last execution of every run."""
    newest: dict[str, int] = {}
    for name, execution in watched.finished:
        newest[name] = max(execution, newest.get(name, 0))
    return newest


def _settle(system: System, watched: Watched, patience: float) -> bool:
    """Wait until everything has come to rest; says whether it did."""
    from datacube_assets.storage.reports import Outbox

    for _, process in watched.rivals:
        process.wait(patience)
    still = {"error_next": 0, "truncate_next": 0, "dribble_next": 0, "repeat_next": 0}
    _patiently(lambda: system.dojo.switch(**still))
    _patiently(lambda: system.causemos.switch(**still))
    end, told = time.monotonic() + patience, -1
    while time.monotonic() < end:
        ready = _told_since(system, watched)
        if (
            ready >= _newest(watched).keys()
            and system.settled()
            and not Outbox(system.lake).slips()
            and not [name for name in _newest(watched) if _is_behind(system, watched, name)]
        ):
            return True
        if len(ready) != told:
            told = len(ready)
            print(f"\r{told} of {len(_newest(watched))} ready   ", end="", file=sys.stderr, flush=True)
        time.sleep(1)
    return False


def _told_since(system: System, watched: Watched) -> set[str]:
    """Runs that CauseMos was told of after their last execution."""
    newest = _newest(watched)
    return {
        name
        for one in system.causemos.reports()
        if one["call"] == "processing-succeeded"
        and one["status"] == 200
        and (name := one["body"]["run_id"]) in newest
        and one["received_at"] / 1000 >= watched.finished[name, newest[name]]
    }


def _is_behind(system: System, watched: Watched, name: str) -> bool:
    """Whether what is published of a run is not of its last execution."""
    from datacube_assets.dojo.model_run import ModelRun
    from datacube_assets.storage.publishing import RESULTS_ASSET, manifest
    from datacube_assets.storage.run_info import request_key
    from datacube_assets_tests.integration.system import MODEL

    run = ModelRun(MODEL, name)
    request = system.lake.read_document(request_key(run))
    part = f"{name}_{MODEL}.{watched.parts[name, _newest(watched)[name]]}.parquet.gzip"
    return (
        request is None
        or not request["data_paths"][0].endswith(part)
        or manifest(system.lake, run, RESULTS_ASSET) is None
    )


def _report(system: System, watched: Watched, *, settled: bool) -> dict[str, Any]:
    from datacube_assets.operations.garbage_collection import collect
    from datacube_assets.storage.opening import open_store

    newest = _newest(watched)
    reports = system.causemos.reports()
    taken = [one for one in reports if one["call"] == "processing-succeeded" and one["status"] == 200]
    told: dict[str, list[int]] = defaultdict(list)
    for one in taken:
        told[one["body"]["run_id"]].append(one["received_at"])
    flows = Counter((one["body"]["run_id"], one["body"]["flow_id"]) for one in taken)
    # Whose answer was lost has to be told again: CauseMos cannot be asked what it heard.
    unheard = Counter((one["body"]["run_id"], one["body"]["flow_id"]) for one in taken if one["is_cut"])
    behind = {name for name in newest if _is_behind(system, watched, name)}
    delays = {
        name: min(
            (at / 1000 - finished for at in told.get(name, ()) if at / 1000 >= finished), default=float("inf")
        )
        for (name, execution), finished in watched.finished.items()
        if execution == newest[name]
    }
    bucket = open_store(system.settings.models_bucket, system.settings.s3_endpoint)
    parts = {name: watched.parts[name, state] for name, state in newest.items()}
    wrong = _wrong(bucket, parts)
    os.environ["DAGSTER_HOME"] = str(system.settings.home / "dagster")
    found = collect(system.settings, 0, delete=True)
    left = collect(system.settings, 0, delete=False)
    storage = sum(
        path.stat().st_size for path in (system.settings.home / "dagster").rglob("*") if path.is_file()
    )
    runs = system.runs()
    return {
        "settled": settled,
        "runs ready": len(newest),
        "executions": len(watched.finished),
        "published": len(newest) - len(behind),
        "reported": len(set(told) & set(newest)),
        "lost": len(behind | (set(newest) - set(told))),
        "duplicated": sum(max(0, number - 1 - unheard[flow]) for flow, number in flows.items()),
        "told again, unheard": unheard.total(),
        "wrong": len(wrong),
        "wrong after collecting": len(_wrong(bucket, parts)),
        "states that came back": sum(part != state for (_, state), part in watched.parts.items()),
        "published by another home": sum(process.returncode == 0 for _, process in watched.rivals),
        "refused to another home": [
            (system.settings.home.parent / "another home" / f"{number}.log").read_text()[-300:]
            for number, (_, process) in enumerate(watched.rivals)
            if process.returncode != 0
        ],
        "failures told": sum(one["call"] == "processing-failed" for one in reports),
        "runs of Dagster": len(runs),
        "repeated": sum(run.parent_run_id is not None for run in runs),
        "longest delay (s)": round(max(delays.values(), default=0.0), 1),
        "median delay (s)": round(float(np.median([*delays.values()])), 1) if delays else 0.0,
        "slowest": {
            f"{name}, {delays[name]:.0f} s": _course(watched, name, delays[name])
            for name in sorted(delays, key=lambda name: -delays[name])[:SLOWEST]
        },
        "faults": dict(sorted(Counter(what for _, what in watched.faults).items())),
        "memory": _memory(watched),
        "storage of Dagster (MB)": round(storage / 1e6, 1),
        "storage of Dagster per run (kB)": round(storage / 1e3 / max(len(runs), 1), 1),
        "orphans collected": found.by_kind(),
        "orphans left": len(left.found) + len(left.unfinished),
    }


def _course(watched: Watched, name: str, delay: float) -> list[str]:
    """What happened between the last execution of a run in Dojo and its report, with seconds since then."""
    start = watched.finished[name, _newest(watched)[name]]
    runs = [(at, f"run {run[:8]} {state}") for (of, run, state), at in watched.states.items() if of == name]
    events = sorted([*watched.faults, *runs])
    return [f"+{at - start:.0f} s: {what}" for at, what in events if start <= at <= start + delay]


def _wrong(bucket: Store, newest: Mapping[str, int]) -> list[str]:
    """Runs whose objects are not those of a run that nothing disturbed."""
    from datacube_assets_tests.integration.system import MODEL

    def is_wrong(name: str) -> bool:
        prefix = f"{MODEL}/{name}/"
        keys = [key for key, _ in bucket.list(prefix)]
        return {key.removeprefix(prefix): bucket.get(key) for key in keys} != _undisturbed(newest[name])

    for execution in set(newest.values()):
        _undisturbed(execution)
    with ThreadPoolExecutor(8) as threads:
        return [name for name, wrong in zip(newest, threads.map(is_wrong, newest), strict=True) if wrong]


@cache
def _undisturbed(execution: int) -> Mapping[str, bytes]:
    """The objects of an execution, published in this process."""
    from datacube_assets_tests.integration.support import open_house, rows

    with tempfile.TemporaryDirectory() as folder, open_house(Path(folder)) as house:
        house.publish(rows(value=[float(execution), 2.0, 3.0, 4.0]), qualifier_map={"rain": ()})
        return house.datacube().objects


def _memory(watched: Watched) -> dict[str, dict[str, float]]:
    """Of each kind of process: the largest, and the steepest growth of those that lived long enough."""
    kinds: dict[str, dict[str, float]] = {}
    for (name, _), samples in watched.memory.items():
        one = kinds.setdefault(name, {"largest MB": 0.0, "MB/min": 0.0, "seconds": 0.0})
        one["largest MB"] = round(max(one["largest MB"], *(size for _, size in samples)), 1)
        warm = [(at, size) for at, size in samples if at >= samples[0][0] + WARM_SECONDS]
        if len(warm) > 1 and warm[-1][0] - warm[0][0] >= WARM_SECONDS:
            slope = float(np.polyfit([at / 60 for at, _ in warm], [size for _, size in warm], 1)[0])
            if one["seconds"] == 0 or slope > one["MB/min"]:
                one["MB/min"], one["seconds"] = round(slope, 2), round(warm[-1][0] - warm[0][0])
    return kinds


def _tell(report: Mapping[str, Any]) -> None:
    print("\r", end="", file=sys.stderr)
    for name, value in report.items():
        if isinstance(value, Mapping):
            print(name)
            for inner, figure in value.items():
                lines = figure if isinstance(figure, list) else [json.dumps(figure)]
                print(f"  {inner:<38}" + f"\n{'':40}".join(lines))
        else:
            print(f"{name:<40}{value}")


if __name__ == "__main__":
    main(sys.argv[1:])

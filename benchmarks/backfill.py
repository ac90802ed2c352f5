"""A backfill over many small runs: how many get done in a minute, and what becomes of the time.

    python -m benchmarks backfill
    python -m benchmarks backfill --runs 20 --max-runs 4

Everything is as in production: Dojo's simulator, the webserver and the daemon are processes of their own,
in a home as the command makes it, and the backfill is launched over GraphQL as the UI does. Nothing is left
in the lake beforehand: each run derives its request from Dojo and fetches its part. The sensors are off, or
they would ask for the same runs.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.error import URLError
from urllib.request import Request, urlopen

from datacube_assets.development.ports import free_ports

if TYPE_CHECKING:
    from dagster import DagsterInstance

Json: TypeAlias = dict[str, Any]

_PROJECT: Final = Path(__file__).resolve().parents[1]
_MODEL: Final = "synthetic"
_DEFINITIONS: Final = "datacube_assets.definitions"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PHASES: Final = (
    "in the queue",
    "start of the process, imports",
    "definitions, plan",
    "to the first asset",
    "assets",
    "end of the run",
)
"""What lies between the moments of a run (`_moments`)."""
_SENSORS: Final = """query {
  sensorsOrError(repositorySelector: {
    repositoryName: "__repository__", repositoryLocationName: "datacube_assets.definitions"
  }) { ... on Sensors { results { id } } }
}"""
_STOP: Final = """mutation($id: String!) { stopSensor(id: $id) { __typename } }"""
_LAUNCH: Final = """mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""


@dataclass(frozen=True)
class System:
    """The processes, and how they are asked."""

    daemon: subprocess.Popen[bytes]
    graphql_url: str

    def graphql(self, query: str, **variables: Any) -> Json:
        """The data of an answer. Raises SystemExit when there is none."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(self.graphql_url, body, headers)) as answer:
            told: Json = json.load(answer)
        if "errors" in told:
            raise SystemExit(f"GraphQL: {told['errors']}")
        data: Json = told["data"]
        return data


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="datacube-backfill-", dir=options.folder) as name:
        folder = Path(name)
        _write_dojo(folder / "dojo", options.runs, options.rows)
        with _system(folder, options.max_runs) as (system, instance):
            _measure(system, instance, options)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks backfill", description="Time a backfill over many small runs."
    )
    parser.add_argument("--runs", type=int, default=100, help="how many runs")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each")
    parser.add_argument("--max-runs", type=int, default=2, help="how many at the same time")
    parser.add_argument("--folder", type=Path, help="where to work, for instance a memory-backed folder")
    return parser.parse_args(arguments)


def _write_dojo(folder: Path, count: int, rows: int) -> None:
    """Finished runs of one model as Dojo stores them, each with a part of its own."""
    for name in ("runs", "models", "files"):
        (folder / name).mkdir(parents=True)
    part = folder / "part.parquet.gzip"
    command = [sys.executable, "-m", "benchmarks.synthetic", "--rows", str(rows), str(part)]
    subprocess.run(command, cwd=_PROJECT, check=True, stdout=subprocess.DEVNULL)
    features = [f"feature {number}" for number in (1, 2)]
    qualifiers = [{"name": name, "related_features": features} for name in ("crop", "market")]
    model = {
        "id": _MODEL,
        "name": _MODEL,
        "outputs": [{"name": name, "type": "float"} for name in features],
        "qualifier_outputs": qualifiers,
    }
    (folder / "models" / "one.json").write_text(json.dumps(model))
    for run_id in _run_ids(count):
        os.link(part, folder / "files" / f"{run_id}.parquet.gzip")
    (folder / "runs" / "all.json").write_text(json.dumps([_run(run_id) for run_id in _run_ids(count)]))


def _run_ids(count: int) -> list[str]:
    return [f"run-{number:05}" for number in range(count)]


def _run(run_id: str) -> Json:
    return {
        "id": run_id,
        "model_id": _MODEL,
        "model_name": _MODEL,
        "created_at": 1_672_531_200_000,
        "data_paths": [f"{{files}}/{run_id}.parquet.gzip"],
        "parameters": [],
        "tags": [],
        "attributes": {"status": "success", "executed_at": "2023-01-01 00:12:09"},
    }


@contextlib.contextmanager
def _system(folder: Path, max_runs: int) -> Iterator[tuple[System, "DagsterInstance"]]:
    """Dojo, webserver and daemon, and Dagster's storage."""
    ports = free_ports(2)
    os.environ |= {
        "DATACUBE_HOME": str(folder / "home"),
        "DATACUBE_MAX_RUNS": str(max_runs),
        "DOJO_URL": f"http://127.0.0.1:{ports[0]}",
        "PYTHONSAFEPATH": "1",
    }
    for name in ("DAGSTER_HOME", "CAUSEMOS_URL"):
        os.environ.pop(name, None)
    from datacube_assets.orchestration.home import open_instance
    from datacube_assets.settings import Settings

    with contextlib.ExitStack() as stack:
        instance = stack.enter_context(open_instance(Settings.from_environment()))
        instance.add_dynamic_partitions("model_runs", _partitions(folder))
        simulator = ["datacube_assets.cli", "dojo-simulator", str(folder / "dojo"), "--port", str(ports[0])]
        stack.enter_context(_program(folder, "dojo", simulator))
        server = ["dagster_webserver", "-m", _DEFINITIONS, "-h", "127.0.0.1", "-p", str(ports[1])]
        webserver = stack.enter_context(_program(folder, "webserver", server))
        _wait(f"http://127.0.0.1:{ports[1]}/server_info", webserver)
        stack.callback(_end_runs, folder)
        daemon = stack.enter_context(
            _program(folder, "daemon", ["dagster._daemon", "run", "-m", _DEFINITIONS])
        )
        yield System(daemon, f"http://127.0.0.1:{ports[1]}/graphql"), instance


def _partitions(folder: Path) -> list[str]:
    return [
        f"{_MODEL}:{run['id']}" for run in json.loads((folder / "dojo" / "runs" / "all.json").read_text())
    ]


@contextlib.contextmanager
def _program(folder: Path, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _end_runs(folder: Path) -> None:
    """End the processes of runs that a benchmark broken off has left."""
    from datacube_assets.orchestration.run_worker import EXECUTING

    mark = f"DATACUBE_HOME={folder / 'home'}".encode()
    for pid in _processes():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            is_run = b"orchestration.run_worker" in command or command.startswith(EXECUTING.encode())
            if is_run and mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(pid, 15)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(URLError), urlopen(url):
            return
        time.sleep(0.2)
    raise SystemExit(f"{process.args!r} ended with status {process.returncode}")


def _measure(system: System, instance: "DagsterInstance", options: argparse.Namespace) -> None:
    from dagster import DagsterRunStatus, RunsFilter

    from datacube_assets.orchestration.jobs import ASSET_KEYS

    for sensor in system.graphql(_SENSORS)["sensorsOrError"]["results"]:
        system.graphql(_STOP, id=sensor["id"])
    partitions = instance.get_dynamic_partitions("model_runs")
    before = _processor_seconds(system.daemon.pid)
    launched = time.time()
    params = {
        "partitionNames": partitions,
        "assetSelection": [{"path": list(key.path)} for key in sorted(ASSET_KEYS)],
    }
    answer = system.graphql(_LAUNCH, params=params)["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise SystemExit(f"the backfill was not launched: {answer}")
    over = RunsFilter(
        statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
    )
    while (done := instance.get_runs_count(over)) < len(partitions):
        if system.daemon.poll() is not None:
            raise SystemExit(f"the daemon ended with status {system.daemon.returncode}")
        print(f"\r{done} of {len(partitions)}", end="", file=sys.stderr, flush=True)
        time.sleep(1)
    used = {name: seconds - before[name] for name, seconds in _processor_seconds(system.daemon.pid).items()}
    print("\r", end="", file=sys.stderr)
    _report(instance, launched, used, options)


def _report(
    instance: "DagsterInstance", launched: float, used: Mapping[str, float], options: argparse.Namespace
) -> None:
    records = instance.get_run_records()
    failed = sum(record.dagster_run.is_failure for record in records)
    ends = [record.end_time or 0.0 for record in records]
    starts = [record.start_time or 0.0 for record in records]
    moments = [_moments(instance, record.dagster_run.run_id) for record in records]
    span = max(ends) - min(starts)
    print(
        f"{len(records)} runs of {options.rows:,} rows, {options.max_runs} at the same time, "
        f"{os.cpu_count()} cores: {failed} failed\n"
    )
    print(f"{'runs per minute':<40}{60 * len(records) / span:>10,.1f}")
    print(f"{'launch of the backfill to first run (s)':<40}{min(starts) - launched:>10,.1f}")
    print(f"{'run (s)':<40}{median(end - start for start, end in zip(starts, ends, strict=True)):>10,.1f}")
    print(f"\n{'medians of a run':<40}{'seconds':>10}")
    for number, name in enumerate(_PHASES):
        spans = [times[number + 1] - times[number] for times in moments]
        print(f"  {name:<38}{median(spans):>10,.2f}")
    print(f"\n{'processor time per run':<40}{'seconds':>10}")
    for name, seconds in used.items():
        print(f"  {name:<38}{seconds / len(records):>10,.2f}")


def _moments(instance: "DagsterInstance", run_id: str) -> list[float]:
    """When a run was queued, was taken on, had its process, started, began and ended its assets, ended."""
    from dagster import DagsterEventType

    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for entry in instance.all_logs(run_id):
        if entry.dagster_event is not None:
            kind = entry.dagster_event.event_type
            name = str(kind.value)
            if kind == DagsterEventType.ENGINE_EVENT and "process for run" in (
                entry.dagster_event.message or ""
            ):
                name = "process"
            first.setdefault(name, entry.timestamp)
            last[name] = entry.timestamp
    moments = [
        first["PIPELINE_ENQUEUED"],
        first["PIPELINE_STARTING"],
        first["process"],
        first["PIPELINE_START"],
        first["STEP_START"],
        last["STEP_SUCCESS"],
        (last.get("PIPELINE_SUCCESS") or last["PIPELINE_FAILURE"]),
    ]
    assert all(before <= after for before, after in pairwise(moments))
    return moments


def _processor_seconds(daemon: int) -> dict[str, float]:
    """What the daemon, its code server and the processes of runs have used so far."""
    spent = {"daemon": _spent(daemon)[0], "code server": 0.0, "runs": _spent(daemon)[1]}
    for pid in _processes():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if parent == daemon:
                is_server = b"grpc" in Path(f"/proc/{pid}/cmdline").read_bytes()
                spent["code server" if is_server else "runs"] += _spent(pid)[0]
    return spent


def _spent(pid: int) -> tuple[float, float]:
    """Processor seconds of a process itself, and of its children that are gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, children = (int(fields[at]) + int(fields[at + 1]) for at in (11, 13))
    return own / _TICKS, children / _TICKS


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


if __name__ == "__main__":
    main(sys.argv[1:])

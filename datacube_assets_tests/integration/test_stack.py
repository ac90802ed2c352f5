"""The production stack as real processes (`make stack`), driven over HTTP as CauseMos drives it.

`infra/stack.py` starts the commands of `infra/compose/compose.yaml` with Postgres, an S3 server, a Dask
scheduler and two workers. A request goes in at the gateway; what counts is what CauseMos is told and what
lies in the bucket in the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from datacube_assets.development.s3_server import ACCESS_KEY, REGION, SECRET_KEY
from datacube_assets.orchestration.run_worker import EXECUTING, WAIT
from datacube_assets_tests.integration.commands import fenced_commands
from datacube_assets_tests.integration.support import open_house, rows
from datacube_assets_tests.integration.system import wait_for

ROOT = Path(__file__).parents[2]
MODEL = "toy"
PATIENCE = 300.0
"""Seconds that what takes some may take on a machine that does much else."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        reason="there is no Postgres here: run `make postgres`",
    ),
]


@dataclass
class Stack:
    """What runs, seen from outside."""

    folder: Path

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return told

    @cached_property
    def addresses(self) -> dict[str, str]:
        addresses: dict[str, str] = self.told["addresses"]
        return addresses

    def pid(self, name: str) -> int:
        pid: int = self.told["processes"][name]
        return pid

    def kill(self, *names: str) -> None:
        """SIGKILL processes of services; whatever they started lives on."""
        before = self.told["starts"]
        for name in names:
            # What serves S3 is a child of the command that looks after it.
            for pid in children(self.pid(name)) if name == "s3" else [self.pid(name)]:
                os.kill(pid, signal.SIGKILL)
        for name in names:
            wait_for(partial(self.is_anew, name, before[name]), f"{name} to be started again", PATIENCE)

    def is_anew(self, name: str, starts: int) -> bool:
        """Whether a service was started more often than that."""
        return bool(self.told["starts"][name] > starts)

    def kill_a_run(self) -> None:
        """SIGKILL a process that executes a run."""

        def there() -> int | None:
            mark = f"DAGSTER_HOME={self.folder / 'dagster'}".encode()
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        command = (entry / "cmdline").read_bytes()
                        alone = b"orchestration.run_worker" in command and WAIT.encode() not in command
                        if (alone or command.startswith(EXECUTING.encode())) and mark in (
                            entry / "environ"
                        ).read_bytes().split(b"\0"):
                            return int(entry.name)
            return None

        with contextlib.suppress(ProcessLookupError):
            os.kill(wait_for(there, "a run at work", PATIENCE), signal.SIGKILL)

    def add_part(self, run_id: str, value: float) -> str:
        """A part of four rows in the simulator of Dojo; returns its address."""
        files = self.folder / "home" / "dojo" / "files"
        files.mkdir(parents=True, exist_ok=True)
        name = f"{run_id}_{MODEL}.parquet.gzip"
        pq.write_table(rows(value=[value, 2.0, 3.0, 4.0]), files / name, compression="gzip")
        return f"{self.addresses['dojo']}/files/{name}"

    def enqueue(self, run_id: str, value: float = 1.0) -> None:
        """Ask for a run as CauseMos does, again and again until it is accepted."""
        body = {
            "model_id": MODEL,
            "run_id": run_id,
            "doc_ids": [run_id],
            "data_paths": [self.add_part(run_id, value)],
            "qualifier_map": {"rain": []},
            "is_indicator": False,
        }
        address = f"{self.addresses['gateway']}/data-pipeline/enqueue"

        def accepted() -> bool:
            answer = httpx.put(address, json=body, timeout=60)
            # 4xx is a verdict on the request, and does not pass.
            assert answer.status_code < 400 or answer.status_code >= 500, answer.text
            return answer.status_code == 200

        wait_for(accepted, f"{run_id} to be accepted", PATIENCE)

    def status(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.addresses['gateway']}/data-pipeline/status", timeout=60)
        return answer.json() if answer.is_success else {}

    def reports(self) -> list[dict[str, Any]]:
        """Reports of success that CauseMos believed."""
        reports = httpx.get(f"{self.addresses['causemos']}/simulator/reports", timeout=60).json()
        return [
            one["body"] for one in reports if one["call"] == "processing-succeeded" and one["status"] == 200
        ]

    def ready(self) -> set[str]:
        return {str(one["run_id"]) for one in self.reports()}

    def objects(self, run_id: str) -> dict[str, bytes]:
        """What is published of a run, by a client that is not ours."""
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=self.addresses["s3"],
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
        )
        prefix = f"{MODEL}/{run_id}/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="models", Prefix=prefix)
        keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {
            key.removeprefix(prefix): client.get_object(Bucket="models", Key=key)["Body"].read()
            for key in keys
        }

    def has_published(self, wanted: Mapping[str, float]) -> None:
        """Wait until CauseMos was told of these runs, each once, and hold what is published to the truth."""
        end = time.monotonic() + 2 * PATIENCE
        while missing := wanted.keys() - self.ready():
            assert time.monotonic() < end, f"never told of {sorted(missing)}: {self.status()}"
            time.sleep(1)
        for run_id, value in wanted.items():
            assert self.objects(run_id) == undisturbed(value), run_id
        told = Counter(str(one["run_id"]) for one in self.reports())
        assert {run_id: told[run_id] for run_id in wanted} == dict.fromkeys(wanted, 1)


def children(pid: int) -> list[int]:
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(one) for listed in lists for one in listed.split()]


def undisturbed(value: float) -> dict[str, bytes]:
    """The objects of a run that nothing disturbed, published in this process."""
    with tempfile.TemporaryDirectory() as folder, open_house(Path(folder)) as house:
        house.publish(rows(value=[value, 2.0, 3.0, 4.0]), qualifier_map={"rain": ()})
        return dict(house.datacube().objects)


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with stack_folder(request) as folder, running(folder) as stack:
        yield stack


@contextlib.contextmanager
def stack_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for a stack, kept where a test failed."""
    # Not below pytest's folder, which only its owner may enter: Postgres does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="datacube-stack-"))
    folder.chmod(0o755)
    failed_before = request.session.testsfailed
    try:
        yield folder
    finally:
        if request.session.testsfailed == failed_before:
            shutil.rmtree(folder)
        else:
            print(f"logs and storage are kept in {folder}")


@contextlib.contextmanager
def running(folder: Path, *only: str) -> Iterator[Stack]:
    """The stack of a folder, or some services of it, until the block ends."""
    environment = (ROOT / "infra" / "compose" / "env.example").read_text()
    environment += "\nDATACUBE_SENSOR_INTERVAL=2\nDATACUBE_MAX_RUNS=2\n"
    (folder / "env").write_text(environment)
    (folder / "stack.json").unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "infra" / "stack.py"), "--folder", str(folder)]
    command += ["--env-file", str(folder / "env"), "--free-ports"]
    command += ["--only", *only] if only else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        started = Stack(folder)

        def up() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            return (folder / "stack.json").exists() and started.told["up"]

        wait_for(up, "the stack", PATIENCE)
        yield started
        assert process.poll() is None, (folder / "log").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
    left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_of(pid, folder)]
    assert left == [], "Ctrl-C stops everything"


def _is_of(pid: int, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def test_a_request_over_http_ends_as_a_datacube_that_causemos_is_told_of(stack: Stack) -> None:
    stack.enqueue("quiet", 5.0)
    wait_for(lambda: "quiet" in stack.ready(), "the report", PATIENCE)
    assert stack.objects("quiet") == undisturbed(5.0)
    assert Counter(one["run_id"] for one in stack.reports())["quiet"] == 1
    wait_for(lambda: stack.status().get("count") == 0, "an empty queue", PATIENCE)
    # What the page about it says that one should try.
    said = [one for one in fenced_commands("infra/README.md") if one.startswith((*BY_HAND, "curl"))]
    enqueue = next(one for one in said if "http://127.0.0.1:4040/data-pipeline/enqueue" in one)
    source, status, listing = (one for one in said if one.startswith(BY_HAND))
    for port, name in (("4040", "gateway"), ("3001", "dojo")):
        enqueue = enqueue.replace(f"http://127.0.0.1:{port}", stack.addresses[name])
    shell(enqueue)
    wait_for(lambda: "rainfall-low" in stack.ready(), "the report about the sample", PATIENCE)
    source = source.replace("datacube-home/stack", str(stack.folder))
    told = shell(f"{source}\n{status}\n{listing}".replace(".venv/bin/", f"{Path(sys.executable).parent}/"))
    assert not [line for line in told.splitlines() if line.startswith(("broken", "warning"))]
    assert re.search(r"^READY .* toy-crop-model:rainfall-low$", told, re.MULTILINE)


BY_HAND = ("source datacube-home/stack/", ".venv/bin/datacube status", ".venv/bin/datacube list")


def shell(commands: str) -> str:
    done = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout


SERVICES = (
    *("gateway", "daemon", "code", "webserver", "dask-worker", "dask-worker-2"),
    *("dask-scheduler", "s3", "postgres"),
)
"""What is ours to kill. CauseMos and Dojo are not, and what CauseMos' simulator knows is in its process."""


@pytest.mark.parametrize(
    "names",
    [*((name,) for name in SERVICES), SERVICES],
    ids=lambda names: names[0] if len(names) == 1 else "everything",
)
def test_nothing_is_lost_when_a_service_is_killed(stack: Stack, names: tuple[str, ...]) -> None:
    """While runs are at work and others wait; then all services in the same moment."""
    mark = "everything" if len(names) > 1 else names[0]
    wanted = {f"{mark}-{number}": 10.0 + number for number in range(3)}
    for run_id, value in wanted.items():
        stack.enqueue(run_id, value)
    wait_for(lambda: stack.status().get("running"), "runs at work", PATIENCE)
    stack.kill(*names)
    wanted[f"{mark}-after"] = 20.0
    stack.enqueue(f"{mark}-after", 20.0)
    wait_for(lambda: stack.told["up"], "everything again", PATIENCE)
    stack.has_published(wanted)


def test_nothing_is_lost_when_a_run_is_killed(stack: Stack) -> None:
    wanted = {f"killed-{number}": 10.0 + number for number in range(3)}
    for run_id, value in wanted.items():
        stack.enqueue(run_id, value)
    stack.kill_a_run()
    stack.has_published(wanted)


def test_rolling_the_code_during_a_run_loses_nothing(stack: Stack) -> None:
    """As infra/README.md says: the code server first, then the workers, each ended as `docker stop` does."""
    wanted = {f"rolled-{number}": float(100 + number) for number in range(6)}
    for run_id, value in wanted.items():
        stack.enqueue(run_id, value)
    wait_for(lambda: stack.status().get("running"), "runs at work", PATIENCE)
    for name in ("code", "dask-worker", "dask-worker-2", "daemon", "webserver", "gateway"):
        starts = stack.told["starts"][name]
        os.kill(stack.pid(name), signal.SIGTERM)
        wait_for(partial(stack.is_anew, name, starts), f"{name} anew", PATIENCE)
    stack.has_published(wanted)

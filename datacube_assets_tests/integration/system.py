"""The whole system as processes: Dojo's and CauseMos' simulators, Dagster's daemon and its webserver.

Everything listens on loopback, writes its log into a file, lives in a folder of its own and is gone
afterwards, the processes of runs included. Tests ask for what happened over HTTP, from Dagster's
storage or from the lake, and never look into a log.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import httpx
import pyarrow.parquet as pq
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
    build_sensor_context,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from datacube_assets.definitions import build_definitions
from datacube_assets.development.ports import free_port, free_ports
from datacube_assets.development.simulator_http import in_background
from datacube_assets.dojo.documents import IndicatorDocument, RunDocument
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import INDICATOR_RUN_ID, digest
from datacube_assets.orchestration.home import prepare
from datacube_assets.orchestration.run_launcher import process_of
from datacube_assets.partitions import model_runs
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.support import rows

T = TypeVar("T")
Json = dict[str, Any]

MODEL = "toy"
PATIENCE = 90.0
"""Seconds after which a test gives up waiting for something that takes a few."""


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """What the condition gives, once that is true. Raises AssertionError after the time limit."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = condition()
        except httpx.TransportError:
            found = None
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError(f"after {seconds:.0f} seconds still waiting for {what}")


@contextlib.contextmanager
def gateway_process(home: Path) -> Iterator[str]:
    """The URL of a gateway that answers, in a process of its own, with no variable set but its home."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "datacube_assets.cli", "gateway", "--port", str(port)]
    environment = {**nothing_set(), "DATACUBE_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: httpx.get(f"{url}/healthz", timeout=10).is_success, "the gateway", 120)
            yield url
        finally:
            process.terminate()


def evaluate(
    settings: Settings, instance: DagsterInstance, sensor: str, cursor: str | None = None
) -> SensorExecutionData:
    """One tick of a sensor, as Dagster's code server evaluates it; nothing is done about what it says."""
    repository = build_definitions(settings).get_repository_def()
    definition = repository.get_sensor_def(sensor)
    resources = repository.get_top_level_resources()
    with build_sensor_context(
        instance,
        cursor=cursor,
        repository_def=repository,
        instance_ref=instance.get_ref(),
        resources={name: resources[name] for name in definition.required_resource_keys},
    ) as context:
        return definition.evaluate_tick(context)


@dataclass
class Program:
    """A command that can be started, ended and started again; its output goes to a file."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self.process is None
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process itself, not what it started; nothing happens when it does not run."""
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def check(self) -> None:
        """Raise AssertionError when the process ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            tail = (self.folder / f"{self.name}.log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"{self.name} ended with status {self.process.returncode}:\n{tail}")


@dataclass
class Dojo:
    """The simulator of Dojo, with its documents in files, so that they outlive it."""

    program: Program
    url: str
    folder: Path
    auth: tuple[str, str] | None = None

    def up(self) -> None:
        """Start listening, and wait until it does."""
        self.program.start()
        wait_for(self._answers, "Dojo")

    def _answers(self) -> bool:
        self.program.check()
        return httpx.get(f"{self.url}/simulator/switches", auth=self.auth).is_success

    def down(self) -> None:
        """Stop listening."""
        self.program.stop()

    def put(self, collection: str, *documents: Any) -> None:
        """Add or replace documents, whatever they are."""
        for document in documents:
            name = document.get("id") if isinstance(document, dict) else None
            path = self.folder / collection / f"{digest(name or document)}.json"
            path.write_text(json.dumps(document))
        if self.program.process is not None:
            added = httpx.post(f"{self.url}/simulator/{collection}", json=list(documents), auth=self.auth)
            added.raise_for_status()

    def add_file(self, name: str, *, value: float = 1.0) -> str:
        """Write a part of four rows; returns its address."""
        pq.write_table(rows(value=[value, 2.0, 3.0, 4.0]), self.folder / "files" / name, compression="gzip")
        return f"{{files}}/{name}"

    def switch(self, **switches: Any) -> None:
        """Let it misbehave."""
        httpx.put(f"{self.url}/simulator/switches", json=switches, auth=self.auth).raise_for_status()

    def finish(self, run_id: str, execution: int = 1, *, model_id: str = MODEL) -> str:
        """Let a run succeed with one part of its own; returns the version its document now has."""
        path = self.add_file(f"{run_id}_{model_id}.{execution}.parquet.gzip", value=float(execution))
        document = run_document(run_id, data_paths=[path], attributes=success(execution), model_id=model_id)
        self.put("runs", document)
        return self.version(document)

    def version(self, document: Json) -> str:
        """The version of a document as it is served."""
        served = json.loads(json.dumps(document).replace("{files}", f"{self.url}/files"))
        kind = IndicatorDocument if "published" in document else RunDocument
        return kind.model_validate(served).version


def run_document(run_id: str, *, model_id: str = MODEL, **fields: Any) -> Json:
    """A run in Dojo, running unless the fields say otherwise."""
    return {
        "id": run_id,
        "model_id": model_id,
        "model_name": "Toy",
        "created_at": 1_672_531_200_000,
        "data_paths": [],
        "parameters": [],
        "tags": [],
        "attributes": {"status": "Running"},
        **fields,
    }


def success(execution: int = 1) -> Json:
    """Attributes of a run that succeeded."""
    return {"status": "success", "executed_at": f"2023-01-01 00:00:{execution:02}"}


def model_document(model_id: str = MODEL) -> Json:
    """A model with the one feature of the parts."""
    outputs = [{"name": "rain", "type": "float"}]
    return {"id": model_id, "name": "Toy", "outputs": outputs, "qualifier_outputs": None}


def indicator_document(indicator_id: str, **fields: Any) -> Json:
    """A published dataset without parts, unless the fields say otherwise."""
    return {
        **model_document(indicator_id),
        "created_at": 1_672_531_200_000,
        "data_paths": [],
        "published": True,
        "deprecated": False,
        **fields,
    }


@dataclass
class CauseMos:
    """The simulator of CauseMos; what it holds is in its process."""

    program: Program
    url: str
    auth: tuple[str, str] | None = None

    def up(self) -> None:
        """Start listening, and wait until it does."""
        self.program.start()
        wait_for(self._answers, "CauseMos")

    def _answers(self) -> bool:
        # Another simulator would answer as well, were it on this port.
        self.program.check()
        return httpx.get(f"{self.url}/simulator/switches", auth=self.auth).is_success

    def switch(self, **switches: Any) -> None:
        """Let it misbehave."""
        httpx.put(f"{self.url}/simulator/switches", json=switches, auth=self.auth).raise_for_status()

    def reports(self) -> list[Json]:
        """All reports that reached it, in the order they came."""
        reports: list[Json] = httpx.get(f"{self.url}/simulator/reports", auth=self.auth).json()
        return reports

    def documents(self) -> dict[str, Json]:
        """Its documents of model runs and datasets, by id."""
        indices = httpx.get(f"{self.url}/simulator/documents", auth=self.auth).json()
        return {name: document for index in indices.values() for name, document in index.items()}


@dataclass
class System:
    """Everything of one folder. Dojo and CauseMos run, Dagster's programs are started by the test."""

    folder: Path
    settings: Settings
    environment: Mapping[str, str]
    dojo: Dojo
    causemos: CauseMos
    daemon: Program
    webserver: Program
    webserver_url: str
    instance: DagsterInstance = field(repr=False)
    patience: float = PATIENCE
    """Seconds that Dagster's programs may take to start."""

    @property
    def lake(self) -> Lake:
        return Lake(open_store(self.settings.lake, self.settings.s3_endpoint))

    def start_daemon(self) -> None:
        """Start the daemon, and wait until it looks after runs and sensors."""
        self.daemon.start()
        began = time.time()

        def at_work() -> bool:
            self.daemon.check()
            beats = self.instance.get_daemon_heartbeats()
            wanted = ("SENSOR", "QUEUED_RUN_COORDINATOR")
            return all(name in beats and beats[name].timestamp >= began for name in wanted)

        wait_for(at_work, "the daemon", self.patience)

    def kill_daemon(self) -> None:
        """SIGKILL the daemon; what it started lives on."""
        self.daemon.stop(signal.SIGKILL)

    def start_webserver(self) -> None:
        """Start the webserver, and wait until it answers GraphQL."""
        self.webserver.start()

        def answers() -> bool:
            self.webserver.check()
            return httpx.get(f"{self.webserver_url}/server_info", timeout=30).is_success

        wait_for(answers, "the webserver", self.patience)

    def graphql(self, query: str, **variables: Any) -> Json:
        """The data of a GraphQL answer. Raises AssertionError when the webserver names errors."""
        answer = httpx.post(
            f"{self.webserver_url}/graphql", json={"query": query, "variables": variables}, timeout=60
        ).json()
        assert "errors" not in answer, answer["errors"]
        data: Json = answer["data"]
        return data

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `datacube` command."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "datacube_assets.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def partitions(self) -> set[str]:
        """The partitions that are registered."""
        return set(self.instance.get_dynamic_partitions(str(model_runs.name)))

    def runs(self, partition: str | None = None) -> list[DagsterRun]:
        """Dagster's runs (of a partition), oldest first."""
        tags = {"dagster/partition": partition} if partition else {}
        return list(reversed(self.instance.get_runs(RunsFilter(tags=tags))))

    def why(self, run_id: str) -> list[str]:
        """What Dagster says about the course of a run that failed."""
        kinds = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE, DagsterEventType.ENGINE_EVENT}
        return [
            f"{entry.message or entry.get_dagster_event().message}"
            for entry in self.instance.all_logs(run_id, of_type=kinds)
        ]

    def settled(self) -> bool:
        """Whether every run is finished."""
        return all(run.is_finished for run in self.runs())

    def started(self, partition: str) -> DagsterRun | None:
        """The run of a partition that is executing and whose process is there."""
        found = (run for run in self.runs(partition) if run.status == DagsterRunStatus.STARTED)
        return next((run for run in found if process_of(run.run_id)), None)

    def published(self, partition: str) -> str | None:
        """Version of the complete datacube of a partition, None when there is none."""
        run = ModelRun.from_key(partition)
        bucket = "indicators" if run.run_id == INDICATOR_RUN_ID else "models"
        results = self.settings.home / "buckets" / bucket / run.prefix / "results" / "results.json"
        head = manifest(self.lake, run, RESULTS_ASSET)
        return head["version"] if head and results.is_file() else None

    def busiest(self) -> tuple[int, int]:
        """How many runs executed at the same time at most: of one partition, and altogether."""
        records = self.instance.get_run_records()
        spans = [
            (record.start_time, record.end_time or time.time(), record.dagster_run.tags["dagster/partition"])
            for record in records
            if record.start_time is not None
        ]
        together = [[other for begin, end, other in spans if begin <= moment < end] for moment, _, _ in spans]
        one = max((same.count(name) for same in together for name in same), default=0)
        return one, max(map(len, together), default=0)


@contextlib.contextmanager
def system(folder: Path, *, max_runs: int = 2, **settings: str) -> Iterator[System]:
    """The system in a folder of its own: Dojo and CauseMos run, the rest can be started."""
    environment, settled = _home(folder, max_runs=max_runs, **settings)
    for name in ("runs", "models", "indicators", "files"):
        (folder / "dojo" / name).mkdir(parents=True)
    command = [sys.executable, "-P", "-m", "datacube_assets.cli"]
    ports = free_ports(3)
    dojo_url, causemos_url, webserver_url = (f"http://127.0.0.1:{port}" for port in ports)
    environment |= {"DOJO_URL": dojo_url, "CAUSEMOS_URL": causemos_url}

    def program(name: str, *arguments: str) -> Program:
        return Program(name, list(arguments), environment, folder)

    dojo_command = [*command, "dojo-simulator", str(folder / "dojo"), "--port", str(ports[0])]
    definitions = ["-m", "datacube_assets.definitions"]
    with contextlib.ExitStack() as stack:
        stack.callback(_end_all, folder)
        opened = System(
            folder,
            settled.model_copy(update={"dojo_url": dojo_url, "causemos_url": causemos_url}),
            environment,
            Dojo(program("dojo", *dojo_command), dojo_url, folder / "dojo", _auth("DOJO", settings)),
            CauseMos(
                program("causemos", *command, "causemos-simulator", "--port", str(ports[1])),
                causemos_url,
                _auth("CAUSEMOS", settings),
            ),
            program("daemon", sys.executable, "-P", "-m", "dagster._daemon", "run", *definitions),
            program(
                "webserver",
                *(sys.executable, "-P", "-m", "dagster_webserver", *definitions),
                *("-h", "127.0.0.1", "-p", str(ports[2])),
            ),
            webserver_url,
            stack.enter_context(DagsterInstance.from_config(environment["DAGSTER_HOME"])),
        )
        opened.dojo.put("models", model_document())
        for one in (opened.webserver, opened.daemon, opened.dojo.program, opened.causemos.program):
            stack.callback(one.stop)
        opened.dojo.up()
        opened.causemos.up()
        yield opened


def _auth(name: str, settings: Mapping[str, str]) -> tuple[str, str] | None:
    username = settings.get(f"{name}_USERNAME")
    return (username, settings[f"{name}_PASSWORD"]) if username else None


def _home(folder: Path, *, max_runs: int, **more: str) -> tuple[dict[str, str], Settings]:
    """A home folder as the command makes it, and the environment that leads there."""
    with mock.patch.dict(os.environ, nothing_set(), clear=True):
        ours = {name: value for name, value in more.items() if not name.startswith("AWS_")}
        settings = Settings.from_environment(
            DATACUBE_HOME=str(folder / "home"), DATACUBE_MAX_RUNS=str(max_runs), **ours
        )
        prepare(settings)
        environment = {
            **os.environ,
            "DATACUBE_MAX_RUNS": str(max_runs),
            "DATACUBE_SENSOR_INTERVAL": "1",
            "DATACUBE_DASK_WORKERS": "1",
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
            # What Dagster itself starts shall not find modules in the folder either.
            "PYTHONSAFEPATH": "1",
            **more,
        }
    configuration = Path(environment["DAGSTER_HOME"]) / "dagster.yaml"
    text = configuration.read_text()
    assert "poll_interval_seconds: 10\n" in text
    # Tests have less patience with dead runs than people have.
    configuration.write_text(text.replace("poll_interval_seconds: 10\n", "poll_interval_seconds: 2\n"))
    return environment, settings


def _end_all(folder: Path) -> None:
    """End whatever was started in a home of this folder: processes of runs, code servers."""
    mark = f"DATACUBE_HOME={folder / 'home'}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


class Gate:
    """A file server that answers only while it is open, so that runs can be held where they fetch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file of the folder, as soon as the gate is open."""
        import asyncio

        while not self._open.is_set():
            await asyncio.sleep(0.05)
        await FileResponse(self._folder / scope["path"].lstrip("/"))(scope, receive, send)


@contextlib.contextmanager
def gate(folder: Path) -> Iterator[tuple[Gate, str]]:
    """A closed gate in front of a folder, and its address."""
    closed = Gate(folder)
    with in_background(closed) as url:
        try:
            yield closed, url
        finally:
            closed.open()

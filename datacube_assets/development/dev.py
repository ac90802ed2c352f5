"""What `datacube dev` starts: simulators of Dojo and CauseMos, the map, and Dagster with its sensors on.

Processes and their addresses belong here; the simulators themselves are in `dojo_simulator.py` and
`causemos_simulator.py`. All of them end together: when somebody says so, by Ctrl-C, SIGTERM or SIGHUP, and
when one of them ends by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from datacube_assets.development.sample import SAMPLE_MODEL, SAMPLE_RAINFALL, write_sample
from datacube_assets.orchestration.home import prepare, write_workspace
from datacube_assets.settings import Settings, SettingsError

UNFINISHED: str = list(SAMPLE_RAINFALL)[-1]
"""The run of the sample that has yet to finish in Dojo."""
PORTS = 4
"""Ports that are taken: the UI, the simulators of Dojo and CauseMos, the map."""
_LOOK_SECONDS = 0.3
_GRACE_SECONDS = 20.0
"""What a process gets to end by itself, before it is ended."""


def run_development(settings: Settings, host: str, port: int, say: Callable[[str], None]) -> int:
    """Run everything until told to stop; returns the exit status.

    Raises SettingsError where the same is at work on this home already.
    """
    prepare(settings)
    with _only_one(Path(os.environ["DAGSTER_HOME"]), f"http://{host}:{port}"):
        folder = settings.home / "dojo"
        write_unfinished_sample(folder)
        environment = {
            **os.environ,
            "DATACUBE_LAKE": settings.lake,
            "DATACUBE_MODELS_BUCKET": settings.models_bucket,
            "DATACUBE_INDICATORS_BUCKET": settings.indicators_bucket,
            "DATACUBE_SENSOR_INTERVAL": os.environ.get("DATACUBE_SENSOR_INTERVAL", "10"),
        }
        say(f"Dagster UI              http://{host}:{port}  (in a few seconds)")
        with _Processes(host, environment) as processes:
            if not settings.dojo_url:
                dojo = f"http://{host}:{port + 1}"
                environment["DOJO_URL"] = dojo
                processes.start("the simulator of Dojo", "dojo-simulator", str(folder), port=port + 1)
                say(f"Simulator of Dojo       {dojo}")
                user = f"-u {settings.dojo_username} " if settings.dojo_username else ""
                say(f"  finish a run of it:   curl {user}-X POST {dojo}/simulator/runs/{UNFINISHED}/finish")
            if not settings.causemos_url:
                causemos = f"http://{host}:{port + 2}"
                environment["CAUSEMOS_URL"] = causemos
                processes.start("the simulator of CauseMos", "causemos-simulator", port=port + 2)
                say(f"Simulator of CauseMos   {causemos}  (shows what it was told)")
            if not settings.view_url:
                environment["DATACUBE_VIEW_URL"] = f"http://{host}:{port + 3}"
                processes.start("the map", "view", port=port + 3)
                say(f"Map and documentation   {environment['DATACUBE_VIEW_URL']}")
            say("Stop everything with Ctrl-C.\n")
            sys.stdout.flush()
            workspace = str(write_workspace(settings))
            # It recommends another command line of Dagster's, which this project does not need.
            silent = ["-W", "ignore:Function `dev_command` is superseded"]
            dagster = [sys.executable, *silent, "-P", "-m", "dagster", "dev", "-w", workspace]
            processes.add("Dagster", [*dagster, "-h", host, "-p", str(port)])
            ended = processes.wait()
        if ended is not None:
            say(f"{ended} ended by itself, so everything is stopped. What it printed above says why.")
        return 0 if ended is None else 1


class _Processes:
    """Processes that end together. Each has a session of its own: what it is told, it is told from here."""

    def __init__(self, host: str, environment: Mapping[str, str]) -> None:
        self._host = host
        self._environment = environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()

    def start(self, name: str, command: str, *arguments: str, port: int) -> None:
        """Start a command of `datacube` that serves; it prints nothing but errors."""
        line = [sys.executable, "-P", "-m", "datacube_assets.cli", command, *arguments]
        self.add(name, [*line, "--host", self._host, "--port", str(port)], quiet=True)

    def add(self, name: str, line: list[str], *, quiet: bool = False) -> None:
        self._running[name] = subprocess.Popen(
            line,
            env=self._environment,
            stdout=subprocess.DEVNULL if quiet else None,
            start_new_session=True,
        )

    def __enter__(self) -> _Processes:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Whoever started this with `nohup` wants it to outlive the terminal.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: self._stop.set())
        return self

    def wait(self) -> str | None:
        """Wait until told to stop, or until one has ended; returns the name of that one."""
        while not self._stop.wait(_LOOK_SECONDS):
            for name, process in self._running.items():
                if process.poll() is not None:
                    return name
        return None

    def __exit__(self, *_: object) -> None:
        # The last first: Dagster may still have something to tell to the others.
        for process in reversed(self._running.values()):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_SECONDS)
                    break
            with contextlib.suppress(ProcessLookupError):
                # Whatever it started and left behind.
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _only_one(folder: Path, url: str) -> Iterator[None]:
    """Be the only one on a home: two daemons would start every run twice. Raises SettingsError."""
    path = folder / "dev.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read().strip() or "another process"
            raise SettingsError(
                f"`datacube dev` is at work on {folder.parent} already: {other}. Stop that one, or give "
                "another folder by --home"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}, UI at {url}")
        file.flush()
        yield


def write_unfinished_sample(folder: Path) -> None:
    """The sample, with one run that is still running in Dojo."""
    write_sample(folder)
    for path in sorted((folder / "runs").glob("*.json")):
        run = json.loads(path.read_text())
        if run["id"] == UNFINISHED and run["model_id"] == SAMPLE_MODEL:
            run |= {"data_paths": [], "attributes": {"status": "Running"}}
            path.write_text(json.dumps(run, indent=1))

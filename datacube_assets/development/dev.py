"""What `datacube dev` starts: simulators of Dojo and CauseMos, and Dagster with its sensors on.

Processes and their addresses belong here; the simulators themselves are in `dojo/` and `causemos/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from datacube_assets.development.sample import SAMPLE_MODEL, SAMPLE_RAINFALL, write_sample
from datacube_assets.orchestration.home import prepare, write_workspace
from datacube_assets.settings import Settings

UNFINISHED: str = list(SAMPLE_RAINFALL)[-1]
"""The run of the sample that has yet to finish in Dojo."""


def run_development(settings: Settings, host: str, port: int, say: Callable[[str], None]) -> int:
    """Run everything until interrupted; returns the exit status of Dagster."""
    prepare(settings)
    folder = settings.home / "dojo"
    write_unfinished_sample(folder)
    environment = {
        **os.environ,
        "DATACUBE_LAKE": settings.lake,
        "DATACUBE_MODELS_BUCKET": settings.models_bucket,
        "DATACUBE_INDICATORS_BUCKET": settings.indicators_bucket,
        "DATACUBE_SENSOR_INTERVAL": os.environ.get("DATACUBE_SENSOR_INTERVAL", "10"),
    }
    command = [sys.executable, "-P", "-m", "datacube_assets.cli"]
    say(f"Dagster UI              http://{host}:{port}  (in a few seconds)")
    with contextlib.ExitStack() as processes:
        if not settings.dojo_url:
            dojo = f"http://{host}:{port + 1}"
            _start(
                processes,
                [*command, "dojo-simulator", str(folder), "--port", str(port + 1)],
                host,
                environment,
            )
            environment["DOJO_URL"] = dojo
            say(f"Simulator of Dojo       {dojo}")
            user = f"-u {settings.dojo_username} " if settings.dojo_username else ""
            say(f"  finish a run of it:   curl {user}-X POST {dojo}/simulator/runs/{UNFINISHED}/finish")
        if not settings.causemos_url:
            causemos = f"http://{host}:{port + 2}"
            _start(processes, [*command, "causemos-simulator", "--port", str(port + 2)], host, environment)
            environment["CAUSEMOS_URL"] = causemos
            say(f"Simulator of CauseMos   {causemos}  (shows what it was told)")
        say("Stop everything with Ctrl-C.\n")
        sys.stdout.flush()
        dagster = [sys.executable, "-P", "-m", "dagster", "dev", "-w", str(write_workspace(settings))]
        with subprocess.Popen([*dagster, "-h", host, "-p", str(port)], env=environment) as running:
            while True:
                try:
                    return running.wait()
                except KeyboardInterrupt:
                    continue  # Dagster got the signal too, and takes its time to end its own processes.


def _start(
    processes: contextlib.ExitStack, command: list[str], host: str, environment: dict[str, str]
) -> None:
    process = subprocess.Popen([*command, "--host", host], env=environment, stdout=subprocess.DEVNULL)
    processes.callback(process.wait)
    processes.callback(process.terminate)


def write_unfinished_sample(folder: Path) -> None:
    """The sample, with one run that is still running in Dojo."""
    write_sample(folder)
    for path in sorted((folder / "runs").glob("*.json")):
        run = json.loads(path.read_text())
        if run["id"] == UNFINISHED and run["model_id"] == SAMPLE_MODEL:
            run |= {"data_paths": [], "attributes": {"status": "Running"}}
            path.write_text(json.dumps(run, indent=1))

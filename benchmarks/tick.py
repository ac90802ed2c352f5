"""A look at a Dojo of 20,000 runs: how long a tick of the sensor takes, and what it needs.

    python -m benchmarks tick

Dojo's simulator is a process of its own, as Dojo is, and so is each tick: its peak memory is that of a
process which only evaluates it. Whether ticks ask for the right runs is for the tests to say.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, TypeAlias
from urllib.error import URLError
from urllib.request import Request, urlopen

from datacube_assets.development.ports import free_port

Json: TypeAlias = dict[str, Any]

_PROJECT: Final = Path(__file__).resolve().parents[1]
_SENSOR: Final = "dojo_model_runs"
_TICKS: Final = (
    ("first", "nothing", "none"),
    ("second", "nothing", "first"),
    ("steady state", "everything", "none"),
    ("after a lost cursor", "older", "none"),
)
"""What is ticked, what the lake knows before, and the cursor: none, or the one the first tick left.

A cursor that is lost held the newest requests, so the lake knows all but these.
"""


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    if options.plan:
        _follow(json.loads(options.plan))
        return
    with tempfile.TemporaryDirectory(prefix="datacube-tick-", dir=options.folder) as name:
        folder = Path(name)
        _write_runs(folder / "dojo", options.runs)
        with _dojo(folder) as url:
            _measure(folder, url, options.repeat, options.runs)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tick", description="Time the sensor's look at Dojo's list of runs."
    )
    parser.add_argument("--runs", type=int, default=20_000, help="how many runs Dojo has")
    parser.add_argument("--repeat", type=int, default=3, help="trials of each tick; medians are printed")
    parser.add_argument("--folder", type=Path, help="where to work, for instance a memory-backed folder")
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _measure(folder: Path, url: str, repeat: int, runs: int) -> None:
    _process(folder, url, {"do": "prepare"})
    idle = _process(folder, url, {"do": "nothing"})["peak"]
    print(f"{runs:,} runs in Dojo, {repeat} trial(s) of each tick, {os.cpu_count()} cores\n")
    print(f"{'tick':<24}{'seconds':>10}{'peak MB':>10}{'HTTP requests':>16}{'run requests':>15}")
    for label, known, cursor in _TICKS:
        plan = {"do": "tick", "known": known, "cursor": cursor, "keep": label == "first"}
        trials = [_process(folder, url, plan) for _ in range(repeat)]
        figures = {name: median(trial[name] for trial in trials) for name in trials[0]}
        print(
            f"{label:<24}{figures['seconds']:>10,.2f}{figures['peak']:>10,.0f}"
            f"{figures['http']:>16,.0f}{figures['requested']:>15,.0f}"
        )
    print(f"\nwithout any tick, the evaluating process peaks at {idle:,.0f} MB")


def _write_runs(folder: Path, count: int) -> None:
    """Runs as Dojo stores them, about a kilobyte each; nine of ten are ready."""
    for name in ("runs", "files"):
        (folder / name).mkdir(parents=True)
    (folder / "runs" / "all.json").write_text(json.dumps([_run(number) for number in range(count)]))


def _run(number: int) -> Json:
    run_id = f"{number:08}-6a55-4b7e-9a52-3a5d2b0f7a01"
    model_id = f"{number % 40:08}-1111-4222-8333-444455556666"
    address = f"https://bucket.example/dmc_results/{run_id}/{run_id}_{model_id}"
    ready = number % 10 != 0
    return {
        "id": run_id,
        "model_id": model_id,
        "model_name": f"Model {number % 40}",
        "created_at": 1_600_000_000_000 + number,
        "data_paths": [f"{address}.{part}.parquet.gzip" for part in (1, 2)] if ready else [],
        "pre_gen_output_paths": [{"file": f"{address}.png", "caption": "Map of the results"}],
        "is_default_run": False,
        "parameters": [{"name": f"parameter {name}", "value": str(number * name)} for name in range(5)],
        "tags": [],
        "attributes": {"status": "success", "executed_at": "2023-01-01 00:12:09"} if ready else {},
    }


@contextlib.contextmanager
def _dojo(folder: Path) -> Iterator[str]:
    """Dojo's simulator as a process, and its address."""
    port = free_port()
    program = [sys.executable, "-P", "-m", "datacube_assets.cli"]
    with (folder / "dojo.log").open("wb") as log:
        process = subprocess.Popen(
            [*program, "dojo-simulator", str(folder / "dojo"), "--port", str(port)],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(URLError):
                _asked(url)
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _asked(url: str) -> Json:
    """How often Dojo was asked for what."""
    with urlopen(f"{url}/simulator/requests") as answer:
        counters: Json = json.load(answer)
        return counters


def _process(folder: Path, url: str, plan: Json) -> dict[str, float]:
    """Follow a plan in a process of its own; returns what it measured, its peak (MB) and HTTP requests."""
    urlopen(Request(f"{url}/simulator/requests", method="DELETE")).close()
    log = folder / "tick.log"
    environment = {
        **os.environ,
        "DATACUBE_HOME": str(folder / "home"),
        "DOJO_URL": url,
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "benchmarks.tick", "--plan", json.dumps({**plan, "folder": str(folder)})]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=_PROJECT, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{log.read_text(errors='replace')[-3000:]}\nthe evaluating process failed")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    figures = json.loads((folder / "figures.json").read_text())
    return {**figures, "peak": peak, "http": float(sum(_asked(url).values()))}


def _follow(plan: Json) -> None:
    """In the evaluating process: bring lake and cursor into the state that is asked for, then tick."""
    from dagster import DagsterInstance, build_sensor_context

    from datacube_assets.definitions import build_definitions
    from datacube_assets.settings import Settings

    folder = Path(plan["folder"])
    repository = build_definitions(Settings.from_environment()).get_repository_def()
    sensor, resources = repository.get_sensor_def(_SENSOR), repository.get_top_level_resources()
    figures = {"seconds": 0.0, "requested": 0.0}
    with DagsterInstance.local_temp(str(folder)) as instance:
        if plan["do"] == "prepare":
            _list_everything(folder)
        elif plan["do"] == "tick":
            _remember(folder, plan["known"])
            cursor = (folder / "cursor").read_text() if plan["cursor"] == "first" else None
            with build_sensor_context(
                instance,
                cursor=cursor,
                repository_def=repository,
                instance_ref=instance.get_ref(),
                resources={name: resources[name] for name in sensor.required_resource_keys},
            ) as context:
                start = perf_counter()
                tick = sensor.evaluate_tick(context)
                seconds = perf_counter() - start
            figures = {"seconds": seconds, "requested": float(len(tick.run_requests or ()))}
            if plan["keep"]:
                (folder / "cursor").write_text(tick.cursor or "")
    (folder / "figures.json").write_text(json.dumps(figures))


def _list_everything(folder: Path) -> None:
    """Write down what a sensor knows once it has requested everything, oldest first."""
    from datacube_assets.dojo.client import DojoClient
    from datacube_assets.sensors.dojo import list_runs

    with DojoClient(os.environ["DOJO_URL"]) as client:
        ready = list(list_runs(client).ready)
    ready.sort(key=lambda one: one.since)
    (folder / "everything.json").write_text(json.dumps({one.run.key: one.version for one in ready}))


def _remember(folder: Path, known: str) -> None:
    """Let the lake know nothing, everything, or everything but what a tick requests at once."""
    from datacube_assets.sensors.dojo import Known, State
    from datacube_assets.settings import Settings
    from datacube_assets.storage.lake import Lake
    from datacube_assets.storage.opening import open_store

    settings = Settings.from_environment()
    lake = Lake(open_store(settings.lake))
    lake.store.delete_many([f"sensors/{_SENSOR}/known.json"])
    if known != "nothing":
        everything = json.loads((folder / "everything.json").read_text())
        end = len(everything) - (settings.runs_per_tick if known == "older" else 0)
        Known(lake, _SENSOR).confirm({key: State(version) for key, version in list(everything.items())[:end]})


if __name__ == "__main__":
    main(sys.argv[1:])

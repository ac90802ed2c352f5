"""A machine and a Dagster that somebody else set up: processes that look like ours, settings that lack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dagster import DagsterInstance
from starlette.testclient import TestClient

from datacube_assets.operations.status import status
from datacube_assets.orchestration.home import faults_of_settings
from datacube_assets.orchestration.run_launcher import process_of
from datacube_assets.settings import Settings
from datacube_assets.view.server import application
from datacube_assets_tests.integration.support import open_house, rows
from datacube_assets_tests.integration.system import evaluate

RUN_ID = "0b0e9c5e-1111-4000-8000-000000000000"
WORKER = "datacube_assets.orchestration.run_worker"
ARGUMENTS = json.dumps({"__class__": "ExecuteRunArgs", "pipeline_run_id": RUN_ID})
SLEEP = "import time; time.sleep(60)"


@contextmanager
def process(*arguments: str, executable: str = sys.executable) -> Iterator[int]:
    started = subprocess.Popen([executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        command = Path(f"/proc/{started.pid}/cmdline")
        while arguments[-1].encode() not in command.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield started.pid
    finally:
        started.kill()
        started.wait()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", SLEEP, WORKER, RUN_ID],
        ["-c", SLEEP, "-P", "-m", WORKER, ARGUMENTS],
        ["-c", f"{SLEEP} # -m {WORKER} {ARGUMENTS}"],
        ["-c", SLEEP, f"vim {WORKER} {RUN_ID}"],
    ],
)
def test_a_process_that_only_has_the_words_in_its_command_line_is_no_run(arguments: list[str]) -> None:
    """Somebody's editor kept a dead run alive."""
    with process(*arguments):
        assert process_of(RUN_ID) is None


def test_a_process_that_was_started_as_ours_are_is_found(tmp_path: Path) -> None:
    # What it is told is enough; it would not get far.
    package = tmp_path / "datacube_assets" / "orchestration"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "run_worker.py").write_text(SLEEP)
    other = json.dumps({"pipeline_run_id": f"{RUN_ID}0", "note": RUN_ID})
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, said], env=environment, stderr=subprocess.DEVNULL
        )
        for said in (other, ARGUMENTS)
    ]
    try:
        deadline = time.monotonic() + 20
        while process_of(RUN_ID) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process_of(RUN_ID) == started[1].pid
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_a_dagster_that_watches_no_runs_is_told_of_with_the_lines_to_add(
    quick_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that died there stayed started for ever, without a word."""
    home = quick_folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    settings = Settings.from_environment(DATACUBE_HOME=str(quick_folder / "home"))
    parts = {part.name: part for part in status(settings, 60).parts}
    told = parts["run monitoring"]
    assert told.state == "warning"
    for line in ("run_monitoring:\n  enabled: true", "run_retries:\n  enabled: true"):
        assert line in told.says
    with DagsterInstance.from_config(str(home)) as instance:
        first = evaluate(settings, instance, "requests")
        assert "run_monitoring:\n  enabled: true" in capfd.readouterr().err
        evaluate(settings, instance, "requests", first.cursor)
        assert "run_monitoring" not in capfd.readouterr().err, "once is enough"
    (home / "dagster.yaml").write_text(
        "run_monitoring:\n  enabled: true\nrun_retries:\n  enabled: true\n  max_retries: 3\n"
    )
    with DagsterInstance.from_config(str(home)) as instance:
        assert faults_of_settings(instance) == []


def test_a_name_that_no_file_can_have_is_not_there_and_no_error_of_the_server(quick_folder: Path) -> None:
    """A feature of more than 255 bytes answered 500 in the map page."""
    with open_house(quick_folder) as house:
        house.publish(rows())
        page = TestClient(application(house.settings), base_url="http://localhost")
        for name in ("x" * 256, "ä" * 200, "a/" + "b" * 300, "x" * 5_000):
            asked = {"model_id": "model", "run_id": "run", "feature": name, "resolution": "month"}
            answer = page.get("/api/timeseries", params=asked)
            assert answer.status_code in (400, 404), answer.text
            assert answer.status_code == 404 or len(name) >= 1_000


def test_what_no_page_and_no_table_can_have_is_refused_and_no_error_of_the_server(quick_folder: Path) -> None:
    with open_house(quick_folder) as house:
        house.publish(rows())
        page = TestClient(application(house.settings), base_url="http://localhost")
        assert page.get("/docs/%00").status_code == page.get("/docs/a%00b.png").status_code == 404
        asked = {"key": "model:run", "feature": "rain", "resolution": "month", "value": "maize"}
        for address in ("/download/timeseries.csv", "/download/timeseries.parquet", "/api/timeseries"):
            answer = page.get(address, params=asked)
            assert answer.status_code == 400
            assert "give qualifier as well" in answer.json()["detail"]
        assert page.get("/api/table", params={**asked, "table": "timeseries"}).status_code == 400

"""Warm run workers, under a real daemon: runs start in processes that wait, and keep every promise of a run.

A run is held where it fetches its part, from a file server with a gate, for as long as a test needs it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRun, DagsterRunStatus

from datacube_assets.orchestration.run_launcher import process_of
from datacube_assets.orchestration.run_worker import EXECUTING, WAITING
from datacube_assets.orchestration.run_workers import RunWorkers, fingerprint
from datacube_assets_tests.integration.system import MODEL, gate, system, wait_for
from datacube_assets_tests.integration.test_launcher import Held

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("warm")
    limits = folder / "limits.toml"
    limits.write_text("")
    with (
        gate(folder / "dojo" / "files") as (closed, url),
        system(folder, max_runs=2, DATACUBE_CHECK_LIMITS=str(limits), DATACUBE_SPARE_WORKERS="1") as opened,
    ):
        opened.start_daemon()
        yield Held(opened, closed, url)


def title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def waiting(held: Held) -> list[int]:
    """Processes of the daemon that wait for a run."""
    daemon = held.system.daemon.process
    assert daemon is not None
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and title(int(entry.name)) == WAITING:
            parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) == daemon.pid:
                found.append(int(entry.name))
    return found


def finish(held: Held, run: DagsterRun) -> None:
    held.gate.open()
    wait_for(lambda: held.status(run) == DagsterRunStatus.SUCCESS, "the end of the run")
    held.gate.close()


def test_a_worker_waits_from_the_first_run_on_and_executes_one_after_another(held: Held) -> None:
    finish(held, held.start("cold"))
    (first,) = wait_for(lambda: waiting(held), "a worker that waits")
    run = held.start("one")
    assert held.process(run) == first
    assert title(first) == f"{EXECUTING}{run.run_id}"
    assert os.getsid(first) == first, "what stops the daemon must not stop it"
    (second,) = wait_for(lambda: waiting(held), "another that waits")
    finish(held, run)
    wait_for(lambda: first in waiting(held), "the first to wait again")
    assert process_of(run.run_id) is None
    again = held.start("two")
    assert held.process(again) in (first, second)
    finish(held, again)
    wait_for(lambda: {first, second} <= set(waiting(held)), "both to wait again")
    assert held.system.published(f"{MODEL}:one")
    assert held.system.published(f"{MODEL}:two")


def test_a_worker_that_dies_waiting_or_at_work_loses_no_run(held: Held) -> None:
    for process in wait_for(lambda: waiting(held), "a worker that waits"):
        os.kill(process, signal.SIGKILL)
    run = held.start("after-a-death")
    victim = held.process(run)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: held.status(run) == DagsterRunStatus.FAILURE, "the death to be noticed")
    wait_for(lambda: len(held.system.runs(f"{MODEL}:after-a-death")) == 2, "the retry")
    retry = held.system.runs(f"{MODEL}:after-a-death")[1]
    finish(held, retry)
    assert held.system.published(f"{MODEL}:after-a-death")


def test_a_worker_whose_run_is_terminated_serves_no_other(held: Held) -> None:
    run = held.start("terminated")
    process = held.process(run)
    assert held.system.instance.run_launcher.terminate(run.run_id)
    wait_for(lambda: held.status(run) == DagsterRunStatus.CANCELED, "the end of the run")
    wait_for(lambda: title(process) == "", "the end of the process")


def test_a_worker_of_other_settings_is_given_no_run(held: Held) -> None:
    before = wait_for(lambda: waiting(held), "a worker that waits")
    limits = held.system.folder / "limits.toml"
    limits.write_text("[default]\nmax_dropped_share = 0.2\n")
    run = held.start("new-limits")
    assert held.process(run) not in before
    wait_for(lambda: all(title(one) == "" for one in before), "the end of those with the old limits")
    finish(held, run)


def test_workers_end_with_their_launcher_but_not_before_their_run(held: Held) -> None:
    run = held.start("outlives")
    process = held.process(run)
    spare = wait_for(lambda: waiting(held), "a worker that waits")
    held.system.kill_daemon()
    wait_for(lambda: all(title(one) == "" for one in spare), "the end of those that waited")
    assert title(process) == f"{EXECUTING}{run.run_id}"
    finish(held, run)
    wait_for(lambda: title(process) == "", "the end of the worker after its run")
    assert held.system.published(f"{MODEL}:outlives")
    held.system.start_daemon()


def test_without_spare_workers_none_is_started_and_none_takes_a_run() -> None:
    workers = RunWorkers(0)
    workers.keep()
    assert not workers.hand_over("run", "arguments")


def test_what_a_process_would_load_is_told_apart(tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    environment = {**os.environ, "DATACUBE_CHECK_LIMITS": str(limits)}
    seen = {fingerprint(), fingerprint(environment)}
    limits.write_text("")
    seen.add(fingerprint(environment))
    time.sleep(0.02)
    limits.write_text(" ")
    seen |= {fingerprint(environment), fingerprint({**environment, "DATACUBE_SHARD_ROWS": "5"})}
    assert len(seen) == 5
    assert fingerprint(environment) in seen

"""Warm run workers, under a real daemon: runs start in processes that wait, and keep every promise of a run.

A run is held where it fetches its part, from a file server with a gate, for as long as a test needs it. When
a worker is not used again is tried with a worker whose runs are a few lines (`SERVING`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from dagster import DagsterRun, DagsterRunStatus

from datacube_assets.development.ports import free_port
from datacube_assets.orchestration.loaded_code import LoadedCode
from datacube_assets.orchestration.run_launcher import process_of
from datacube_assets.orchestration.run_worker import EXECUTING, READY, TAKEN, WAITING
from datacube_assets.orchestration.run_workers import RunWorkers
from datacube_assets.partitions import WAITING_TAG
from datacube_assets_tests.integration.system import MODEL, gate, run_document, success, system, wait_for
from datacube_assets_tests.integration.test_run_launcher import Held

pytestmark = pytest.mark.timeout(600)


def title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0").decode()
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


def a_spare(held: Held) -> int:
    return wait_for(lambda: waiting(held), "a worker that waits")[0]


def finish(held: Held, run: DagsterRun) -> None:
    held.gate.open()
    wait_for(lambda: held.status(run) == DagsterRunStatus.SUCCESS, "the end of the run")
    held.gate.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("warm")
    (folder / "limits.toml").write_text("")
    (folder / "modules").mkdir()
    (folder / "modules" / "sitecustomize.py").write_text("")
    limits = str(folder / "limits.toml")
    with (
        gate(folder / "dojo" / "files") as (closed, url),
        system(folder, max_runs=3, DATACUBE_CHECK_LIMITS=limits, DATACUBE_SPARE_WORKERS="1") as whole,
    ):
        whole.daemon.environment = {**whole.environment, "PYTHONPATH": str(folder / "modules")}
        whole.start_daemon()
        yield Held(whole, closed, url)


@pytest.fixture
def held(opened: Held) -> Iterator[Held]:
    """The system with a daemon; what a test leaves running ends after it."""
    opened.gate.close()
    yield opened
    opened.gate.open()
    if opened.system.daemon.process is None:
        opened.system.start_daemon()
    wait_for(opened.system.settled, "the runs to end")


# --- under the daemon ------------------------------------------------------------------------------


def test_a_worker_waits_before_there_is_a_run_and_executes_one_after_another(held: Held) -> None:
    first = a_spare(held)
    run = held.start("one")
    assert held.process(run) == first, "the first run of a daemon does not wait for Python either"
    assert title(first) == f"{EXECUTING}{run.run_id}"
    assert os.getsid(first) == first, "what stops the daemon must not stop it"
    second = a_spare(held)
    finish(held, run)
    wait_for(lambda: first in waiting(held), "the first to wait again")
    assert process_of(run.run_id) is None
    runs = [held.start("two"), held.start("three")]
    assert {held.process(one) for one in runs} == {first, second}, "two runs share no process"
    for one in runs:
        finish(held, one)
    assert all(held.system.published(f"{MODEL}:{name}") for name in ("one", "two", "three"))


@pytest.mark.slow
def test_a_worker_that_dies_waiting_handed_a_run_or_just_finished_loses_none(held: Held) -> None:
    # A worker that stands still takes no run: it is ended, and the run starts elsewhere.
    os.kill(deaf := a_spare(held), signal.SIGSTOP)
    run = held.start("handed-over")
    assert held.process(run) != deaf
    assert title(deaf) == ""
    finish(held, run)
    for _ in range(2):
        os.kill(a_spare(held), signal.SIGKILL)
    run = held.start("after-deaths")
    finish(held, run)
    for process in waiting(held):
        os.kill(process, signal.SIGKILL)
    finish(held, held.start("after-a-death-at-the-end"))
    names = ("handed-over", "after-deaths", "after-a-death-at-the-end")
    assert all(held.system.published(f"{MODEL}:{name}") for name in names)
    assert all(len(held.system.runs(f"{MODEL}:{name}")) == 1 for name in names)


@pytest.mark.slow
def test_the_death_of_a_worker_at_work_is_noticed_and_its_run_repeated(held: Held) -> None:
    a_spare(held)
    run = held.start("killed")
    os.kill(held.process(run), signal.SIGKILL)
    wait_for(lambda: held.status(run) == DagsterRunStatus.FAILURE, "the death to be noticed")
    wait_for(lambda: len(held.system.runs(f"{MODEL}:killed")) == 2, "the retry")
    finish(held, held.system.runs(f"{MODEL}:killed")[1])
    assert held.system.published(f"{MODEL}:killed")


def test_a_worker_whose_run_is_terminated_serves_no_other(held: Held) -> None:
    a_spare(held)
    run = held.start("terminated")
    process = held.process(run)
    assert held.system.instance.run_launcher.terminate(run.run_id)
    wait_for(lambda: held.status(run) == DagsterRunStatus.CANCELED, "the end of the run")
    wait_for(lambda: title(process) == "", "the end of the process")


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["code", "a setting's file", "packages"])
def test_what_a_change_makes_old_is_given_no_run_and_is_replaced(held: Held, changed: str) -> None:
    old, folder = a_spare(held), held.system.folder
    if changed == "a setting's file":
        (folder / "limits.toml").write_text("max_dropped_share = 0.2\n")
    elif changed == "code":
        (folder / "modules" / "sitecustomize.py").write_text("CHANGED = True\n")
    else:
        (folder / "modules" / "another-1.0.dist-info").mkdir()
    run = held.start(f"after-a-change-of-{changed.rsplit(maxsplit=1)[-1]}")
    assert held.process(run) != old
    wait_for(lambda: title(old) == "", "the end of the old one")
    wait_for(lambda: set(waiting(held)) - {old}, "one with what there is now")
    finish(held, run)


@pytest.mark.slow
def test_workers_end_with_their_launcher_but_not_before_their_run(held: Held) -> None:
    a_spare(held)
    run = held.start("outlives")
    process, spare = held.process(run), a_spare(held)
    held.system.kill_daemon()
    wait_for(lambda: title(spare) == "", "the end of the one that waited")
    assert title(process) == f"{EXECUTING}{run.run_id}"
    finish(held, run)
    wait_for(lambda: title(process) == "", "the end of the worker after its run")
    assert held.system.published(f"{MODEL}:outlives")


@pytest.mark.slow
def test_runs_that_wait_for_their_file_servers_hold_no_place(held: Held) -> None:
    """Three servers that are away held all three places, for up to four hours."""
    names = ("no-server", "none-either", "nor-here")
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name in names:
        parts = [f"{nowhere}/{name}.parquet.gzip"]
        held.system.dojo.put("runs", run_document(name, data_paths=parts, attributes=success()))

    def wait() -> bool:
        runs = [run for name in names for run in held.system.runs(f"{MODEL}:{name}")]
        return [run.tags.get(WAITING_TAG) for run in runs] == ["yes"] * 3

    wait_for(wait, "three runs that wait")
    finish(held, held.start("served"))
    assert held.system.published(f"{MODEL}:served")
    for name in names:
        (run,) = held.system.runs(f"{MODEL}:{name}")
        assert held.status(run) == DagsterRunStatus.STARTED
        assert held.system.instance.run_launcher.terminate(run.run_id)


def test_without_spare_workers_none_is_started_and_none_takes_a_run() -> None:
    workers = RunWorkers(0)
    workers.keep()
    assert not workers.hand_over("run", "arguments")


# --- when a worker is used again -------------------------------------------------------------------

SERVING = """
import os, socket, sys, threading, time, types
import click
from datacube_assets.orchestration import run_worker
from datacube_assets.orchestration.loaded_code import LoadedCode

class Watched:
    def is_current(self):
        return not os.path.exists(sys.argv[2])

@click.command()
@click.argument("program")
def execute(program):
    exec(program, {})

def said(text):
    os.write(1, (text + "\\n").encode())

sys.modules[run_worker.DEFINITIONS] = types.ModuleType("definitions")
sys.modules["tell"] = types.ModuleType("tell")
sys.modules["tell"].said = said
run_worker._watch = lambda arguments, told, interrupted: told.get()
run_worker.CODE_SECONDS = 0.05
run_worker.MOST_RUNS, run_worker.LONGEST_LIFE = int(sys.argv[3]), float(sys.argv[4])
run_worker._serve(execute, socket.socket(fileno=int(sys.argv[1])), Watched())
"""
"""A worker whose runs are programs; as old as a file says, with so many runs and seconds to live."""


BECOMES = (
    f"\nimport os, sys\nos.execv(sys.executable, [sys.executable, '-P', '-c', {SERVING!r}, *sys.argv[1:]])"
)
"""Makes a process one that executes `SERVING`."""


@dataclass
class Served:
    """A worker by itself, whose launcher is the test."""

    process: subprocess.Popen[str]
    socket: socket.socket
    is_old: Path

    def run(self, program: str) -> bool:
        """Let it execute a program in a line; whether it took it."""
        self.socket.sendall(f"id {program}\n".encode())
        return self.socket.recv(1) == TAKEN

    def waits(self) -> bool:
        """Whether it waits for a run next; False when it ends."""
        return self.socket.recv(1) == READY

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def serving(tmp_path: Path, *, runs: int = 50, life: float = 60.0, before: str = "") -> Iterator[Served]:
    """A worker; the program `before` is what its process was before."""
    ours, its = socket.socketpair()
    ours.settimeout(30)
    with closing(ours), closing(its):
        arguments = [str(its.fileno()), str(tmp_path / "is-old"), str(runs), str(life)]
        # Its name takes the place of what stands here.
        with subprocess.Popen(
            [sys.executable, "-P", "-c", (before + BECOMES) if before else SERVING, *arguments],
            pass_fds=[its.fileno()],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            its.close()
            try:
                served = Served(process, ours, tmp_path / "is-old")
                assert served.waits()
                yield served
            finally:
                process.kill()


def test_a_run_finds_environment_folder_and_mask_as_if_it_were_the_first(tmp_path: Path) -> None:
    look = "import os, tell; tell.said(f'{sorted(os.environ.items())} {os.getcwd()} {os.umask(0o22)}')"
    change = (
        "import os; os.environ['AWS_SECRET_ACCESS_KEY'] = 'leaks'; os.environ.pop('PATH', None); "
        "os.environ['HOME'] = '/nowhere'; os.chdir('/'); os.umask(0)"
    )
    with serving(tmp_path) as served:
        seen = []
        for program in (look, change, look):
            assert served.run(program)
            seen += [served.said()] if program == look else []
            assert served.waits()
        assert seen[0] == seen[1]
        assert "leaks" not in seen[1]


@pytest.mark.parametrize(
    "program",
    [
        "raise ValueError('a fault')",
        "import sys; sys.exit(1)",
        "import signal; signal.signal(2, signal.default_int_handler); signal.raise_signal(2)",
        "import threading, time; threading.Thread(target=time.sleep, args=(20,), daemon=True).start()",
        "b'x' * (1200 << 20)",
    ],
    ids=["fails", "exits", "is interrupted", "leaves a thread", "needs much memory"],
)
def test_after_a_run_that_may_have_left_something_the_process_ends(tmp_path: Path, program: str) -> None:
    with serving(tmp_path) as served:
        assert served.run(program)
        assert not served.waits()


def test_how_large_the_process_that_started_a_worker_was_does_not_end_it(tmp_path: Path) -> None:
    with serving(tmp_path, before="b'x' * (1200 << 20)") as served:
        assert served.run("pass")
        assert served.waits()


def test_a_worker_ends_after_its_runs_its_age_or_a_change(tmp_path: Path) -> None:
    with serving(tmp_path, runs=2) as served:
        assert [served.run("pass") and served.waits() for _ in range(2)] == [True, False]
    with serving(tmp_path, life=0.5) as served:
        assert not served.waits(), "an old one ends while it waits"
    with serving(tmp_path) as served:
        served.is_old.touch()
        assert not served.waits(), "so does one whose code is old"


def test_a_worker_whose_code_is_old_by_the_time_it_is_handed_a_run_does_not_take_it(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        os.kill(served.process.pid, signal.SIGSTOP)
        served.is_old.touch()
        served.socket.sendall(b"id import tell; tell.said('executed')\n")
        os.kill(served.process.pid, signal.SIGCONT)
        assert served.socket.recv(1) != TAKEN
        assert served.said() == ""


def test_what_a_process_has_loaded_is_old_once_any_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, limits, later = tmp_path / "a_module_of_a_test.py", tmp_path / "limits.toml", tmp_path / "later"
    module.write_text("A = 1\n")
    limits.write_text("")
    old = 1_600_000_000
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DATACUBE_CHECK_LIMITS", str(limits))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(later))

    def loaded() -> LoadedCode:
        code = LoadedCode()
        # What was written by this test is not what changed while the process started.
        code._began = 1 << 62
        __import__(module.stem)
        assert code.is_current()
        assert code.is_current()
        return code

    try:
        for change in (
            lambda: module.write_text("A = 2\n"),
            lambda: os.utime(module, (old, old)),
            lambda: limits.write_text("[models]\n"),
            lambda: later.write_text("a certificate"),
            (tmp_path / "a_package-2.0.dist-info").mkdir,
            lambda: (tmp_path / "of_a_test.pth").write_text("/somewhere\n"),
            limits.unlink,
            module.unlink,
        ):
            code = loaded()
            change()
            assert not code.is_current()
        (tmp_path / "results.csv").write_text("no code at all")
        assert loaded().is_current()
    finally:
        sys.modules.pop(module.stem, None)


def test_what_changed_while_a_process_started_makes_it_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it was loaded before the change or after it."""
    code = LoadedCode()
    module = tmp_path / "a_changing_module_of_a_test.py"
    module.write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        __import__(module.stem)
        assert not code.is_current()
    finally:
        sys.modules.pop(module.stem, None)

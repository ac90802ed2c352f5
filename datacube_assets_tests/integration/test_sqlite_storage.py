"""Dagster's storage with kept connections: the same files as Dagster's own, whoever else has them open.

Processes that write are real ones. What they left is read with Dagster's own classes, which know nothing of
ours.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckResult,
    AssetKey,
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DynamicPartitionsDefinition,
    MaterializeResult,
    asset,
    asset_check,
    materialize,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from watchdog.events import FileModifiedEvent

from datacube_assets.orchestration.home import DAGSTER_YAML, prepare
from datacube_assets.orchestration.sqlite_storage import OPEN_RUNS, KeptEventLogStorage, KeptSqliteStorage
from datacube_assets.settings import Settings

RUN = "5ca3e356-fa9b-4d41-b61f-c53f4280486{}"
WRITER = """
import sys
from dagster import AssetKey, AssetMaterialization, DagsterInstance
home, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with DagsterInstance.from_config(home) as instance:
    for number in range(count):
        instance.report_engine_event(f"{name} {number}", job_name="job", run_id=name)
        instance.report_runless_asset_event(AssetMaterialization(AssetKey([name]), partition=str(number)))
        print(number, flush=True)
    print("written", flush=True)
    sys.stdin.read()
"""
"""Writes events of a run and materializations of an asset, says what it wrote, and stays."""

parted = DynamicPartitionsDefinition(name="parted")


@asset(partitions_def=parted)
def first() -> MaterializeResult[None]:
    return MaterializeResult(tags={"kind": "test"})


@asset_check(asset=first)
def present() -> AssetCheckResult:
    return AssetCheckResult(passed=True)


@asset(partitions_def=parted, deps=[first])
def second() -> MaterializeResult[None]:
    return MaterializeResult(metadata={"rows": 3})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the command makes it, with no run yet."""
    return prepared(tmp_path / "home", monkeypatch)


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATACUBE_HOME", str(folder))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    prepare(Settings.from_environment())
    return Path(os.environ["DAGSTER_HOME"])


@contextmanager
def opened(home: Path) -> Iterator[DagsterInstance]:
    """The storage as configured, which is ours."""
    with DagsterInstance.from_config(str(home)) as instance:
        assert isinstance(instance.event_log_storage, KeptEventLogStorage)
        yield instance


@contextmanager
def plain(home: Path) -> Iterator[DagsterInstance]:
    """The same storage through Dagster's own classes."""
    (home / "plain.yaml").touch()
    with DagsterInstance.from_config(str(home), "plain.yaml") as instance:
        assert type(instance.event_log_storage) is SqliteEventLogStorage
        yield instance


@contextmanager
def writer(home: Path, name: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that writes, and stays until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", WRITER, str(home), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def messages(instance: DagsterInstance, run_id: str) -> list[str]:
    logs = instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
    return [entry.get_dagster_event().message or "" for entry in logs]


def materialized(instance: DagsterInstance, asset: str) -> set[str]:
    return instance.get_materialized_partitions(AssetKey([asset]))


def run_once(instance: DagsterInstance, partition: str = "a") -> str:
    """Materialize a small graph; returns the id of the run."""
    instance.add_dynamic_partitions("parted", [partition])
    result = materialize([first, present, second], instance=instance, partition_key=partition)
    assert result.success
    return result.run_id


def sound(home: Path) -> None:
    """Let SQLite look through every database."""
    for path in [*home.glob("history/**/*.db"), *home.glob("schedules/*.db")]:
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in a database but the times at which rows were made."""
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        found = {}
        for name in names:
            columns = [
                f'"{column}"'
                for _, column, *_ in connection.execute(f"PRAGMA table_info('{name}')")
                if column not in ("create_timestamp", "migration_completed")
            ]
            found[name] = sorted(
                connection.execute(f"SELECT {', '.join(columns)} FROM '{name}'").fetchall(), key=repr
            )
    return found


def test_events_become_the_same_rows_as_in_dagsters_own_storage(home: Path, tmp_path: Path) -> None:
    with opened(home) as instance:
        run_id = run_once(instance)
        events = instance.all_logs(run_id)
    kinds = {entry.get_dagster_event().event_type for entry in events if entry.is_dagster_event}
    assert {
        DagsterEventType.RUN_START,
        DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
        DagsterEventType.ASSET_CHECK_EVALUATION,
    } <= kinds
    folders = []
    for storage in (DagsterSqliteStorage, KeptSqliteStorage):
        folders.append(tmp_path / storage.__name__)
        made = storage(str(folders[-1]))
        for event in events:
            made.event_log_storage.store_event(event)
        made.dispose()
    for name in ("index", run_id):
        theirs, ours = (rows_of(folder / "history" / "runs" / f"{name}.db") for folder in folders)
        assert len(theirs["event_logs"]) > 5
        assert ours == theirs


@pytest.mark.parametrize("homes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_that_open_a_new_home_at_once_make_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, homes: int
) -> None:
    for number in range(homes):
        home = prepared(tmp_path / str(number), monkeypatch)
        with ExitStack() as stack:
            openers = [stack.enter_context(writer(home, RUN.format(one), 1)) for one in range(4)]
            assert [lines(process, 2)[-1] for process in openers] == ["written"] * 4
        for path in [*home.glob("history/**/*.db"), *home.glob("schedules/*.db")]:
            with sqlite3.connect(path) as connection:
                versions = connection.execute("SELECT count(*) FROM alembic_version").fetchall()
                assert versions == [(1,)], path
        with plain(home) as reader:
            for one in range(4):
                assert messages(reader, RUN.format(one)) == [f"{RUN.format(one)} 0"]
        sound(home)


def test_processes_that_write_at_once_lose_nothing(home: Path) -> None:
    count, names = 40, [RUN.format(number) for number in range(4)]
    with ExitStack() as stack:
        # Dagster's own classes may have the files open too: a UI of before, or a look from outside.
        with plain(home) as other:
            writers = [stack.enter_context(writer(home, name, count)) for name in names]
            for process in writers:
                assert lines(process, 1) == ["0"]
            other.report_runless_asset_event(AssetMaterialization("other"))
        for process in writers:
            assert lines(process, count)[-1] == "written"
        with plain(home) as reader:
            for name in names:
                assert messages(reader, name) == [f"{name} {number}" for number in range(count)]
                assert materialized(reader, name) == {str(number) for number in range(count)}
            assert reader.get_latest_materialization_event(AssetKey("other"))
    sound(home)


def test_a_killed_process_loses_nothing_that_it_had_written(home: Path) -> None:
    name = RUN.format(7)
    with opened(home) as instance, writer(home, name, 100_000) as process:
        last = int(lines(process, 60)[-1])
        process.send_signal(signal.SIGKILL)
        process.wait()
        told = last + len([line for line in process.stdout or () if line.endswith("\n")])
        assert len(messages(instance, name)) > told
        after = run_once(instance)
    with plain(home) as reader:
        found = messages(reader, name)
        assert found == [f"{name} {number}" for number in range(len(found))]
        assert len(found) > told
        assert materialized(reader, name) >= {str(number) for number in range(told + 1)}
        run = reader.get_run_by_id(after)
        assert run is not None
        assert run.status == DagsterRunStatus.SUCCESS
    sound(home)


def test_who_watches_a_run_hears_of_events_at_once(home: Path) -> None:
    name, heard, all_heard = RUN.format(8), [], threading.Event()

    def hear(entry: Any, _: str) -> None:
        heard.append(entry.get_dagster_event().message)
        if len(heard) == 5:
            all_heard.set()

    with opened(home) as instance:
        instance.watch_event_logs(name, None, hear)
        with writer(home, name, 5) as process:
            assert lines(process, 6)[-1] == "written"
            # The writer still has everything open, as a run does that is not over.
            assert all_heard.wait(30)
        instance.end_watch_event_logs(name, hear)
    assert heard == [f"{name} {number}" for number in range(5)]


def test_who_watches_a_run_hears_of_an_event_that_could_be_read_only_after_the_notice(home: Path) -> None:
    name, heard = RUN.format(8), threading.Event()

    def hear(*_: Any) -> None:
        heard.set()

    with opened(home) as instance:
        storage: Any = instance.event_log_storage
        instance.watch_event_logs(name, None, hear)
        watchdog, watch = storage._watchers[name][hear]
        # The system gives no further notice.
        storage._obs.remove_handler_for_watch(watchdog, watch)
        watchdog.on_modified(FileModifiedEvent(storage.path_for_shard(name)))
        instance.report_engine_event("late", job_name="job", run_id=name)
        assert heard.wait(30)


QUEUE = """\
run_queue:
  # A look at the queue is cheap; a run that could start but waits for the next look is not.
  dequeue_interval_seconds: 1
"""
"""How the second version spelt it."""
COORDINATOR = """\
run_coordinator:
  # Dagster's own, with a process that waits for runs from the daemon's start on.
  module: datacube_assets.orchestration.run_queue
  class: RunQueue
  config:
    # A look at the queue is cheap; a run that could start but waits for the next look is not.
    dequeue_interval_seconds: 1
"""
"""How the third did."""
PLACES = """\
concurrency:
  runs:
    max_concurrent_runs: 7
    tag_concurrency_limits:
      # One run at a time per model run or dataset: two would write the same objects.
      - key: dagster/partition
        limit: 1
        value:
          applyLimitPerUniqueValue: true
"""


@pytest.mark.parametrize("version", ["the first version", "the second", "the third"])
def test_a_home_of_before_opens_with_all_it_has_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    now = DAGSTER_YAML.format(max_runs=7)
    storage, queue, launcher = (now.index(name) for name in ("storage:", "run_coordinator:", "run_launcher:"))
    before = {
        "the first version": now[:storage] + PLACES + now[launcher:],
        "the second": now[:queue] + QUEUE + PLACES + now[launcher:],
        "the third": now[:queue] + COORDINATOR + PLACES + now[launcher:],
    }[version]
    configuration = tmp_path / "home" / "dagster" / "dagster.yaml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(before)
    with DagsterInstance.from_config(str(configuration.parent)) as instance:
        old = run_once(instance, "old")
        instance.daemon_cursor_storage.set_cursor_values({"cursor": "kept"})

    home = prepared(tmp_path / "home", monkeypatch)
    assert configuration.read_text() == now
    with opened(home) as instance:
        assert [run.run_id for run in instance.get_runs()] == [old]
        assert instance.daemon_cursor_storage.get_cursor_values({"cursor"}) == {"cursor": "kept"}
        assert materialized(instance, "second") == {"old"}
        events = len(instance.all_logs(old))
        new = run_once(instance, "new")
    with plain(home) as reader:
        assert {run.run_id for run in reader.get_runs()} == {old, new}
        assert len(reader.all_logs(old)) == events
        assert materialized(reader, "second") == {"old", "new"}
        records = reader.fetch_materializations(AssetKey("first"), limit=5).records
        assert [record.run_id for record in records] == [new, old]
    sound(home)


def test_a_configuration_that_somebody_changed_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "home" / "dagster" / "dagster.yaml"
    configuration.parent.mkdir(parents=True)
    changed = DAGSTER_YAML.format(max_runs=2).replace("max_retries: 3", "max_retries: 0")
    configuration.write_text(changed)
    prepared(tmp_path / "home", monkeypatch)
    assert configuration.read_text() == changed


def test_a_forked_process_has_connections_of_its_own(home: Path) -> None:
    with opened(home) as instance:
        run_once(instance, "before")
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                instance.report_runless_asset_event(AssetMaterialization("forked"))
                os._exit(0)
            finally:
                os._exit(1)
        run_once(instance, "beside")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert instance.get_latest_materialization_event(AssetKey("forked"))
        assert materialized(instance, "second") == {"before", "beside"}
    sound(home)


def test_files_that_were_removed_or_wiped_are_made_anew(home: Path) -> None:
    runs = home / "history" / "runs"
    with opened(home) as instance:
        run_id = run_once(instance)
        for path in runs.glob(f"{run_id}.db*"):
            path.unlink()
        assert instance.all_logs(run_id) == []
        instance.wipe()
        assert [path.name for path in runs.glob("*.db")] == ["index.db"]
        assert instance.all_logs(run_once(instance))
    sound(home)


def test_only_so_many_databases_of_runs_stay_open(home: Path) -> None:
    names = [f"{RUN.format(9)}-{number}" for number in range(OPEN_RUNS + 3)]
    with opened(home) as instance:
        for name in names * 2:
            instance.report_engine_event("here", job_name="job", run_id=name)
        open_files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
        assert (
            len({path for path in open_files if RUN.format(9) in path and path.endswith(".db")}) <= OPEN_RUNS
        )
        assert all(messages(instance, name) == ["here", "here"] for name in names)
    left = {path.suffix for path in (home / "history").rglob("*") if path.is_file()}
    assert left == {".db", ".sqlite"}, "journals are merged when the last one closes"


def test_the_last_materialization_is_read_once_and_is_always_the_last(home: Path) -> None:
    key = AssetKey(["one"])
    with DagsterInstance.from_config(str(home)) as instance:

        def last() -> Any:
            (found,) = instance.get_asset_records([key])
            return found.asset_entry.last_materialization_record

        for number in range(2):
            instance.report_runless_asset_event(AssetMaterialization(key, metadata={"number": number}))
            first = last()
            assert first.asset_materialization.metadata["number"].value == number
            assert last() is first
        instance.wipe_assets([key])
        assert not instance.get_asset_records([key]) or last() is None
        instance.report_runless_asset_event(AssetMaterialization(key, metadata={"number": 3}))
        assert last().asset_materialization.metadata["number"].value == 3


def test_a_partition_that_was_deleted_is_gone_at_once(home: Path) -> None:
    with opened(home) as instance:
        instance.add_dynamic_partitions("parted", ["a"])
        assert instance.has_dynamic_partition("parted", "a")
        instance.delete_dynamic_partition("parted", "a")
        assert not instance.has_dynamic_partition("parted", "a")

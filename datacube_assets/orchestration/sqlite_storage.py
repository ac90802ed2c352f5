"""Dagster's SQLite storage, with its connections kept open.

Only how the files are opened belongs here: they are the files of Dagster's own classes, at the same places
and with the same contents, so that either can follow the other on the same folder, or work beside it.

Dagster opens a database for every statement, closes it again, and waits for the disk at each of some 600
commits of a run. Here connections stay open, and a commit is in the hands of the operating system when it
returns: no process that dies loses it or can damage the file, while a power cut may take the last ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import threading
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import dagster
import sqlalchemy as db
from dagster import AssetKey, EventLogRecord, Field, StringSource
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
)
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
    SqliteEventLogStorageWatchdog,
)
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    _event_logs_directory,
    _runs_directory,
    _schedule_directory,
)
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.pool import QueuePool
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

if TYPE_CHECKING:
    from dagster import DagsterInstance, EventLogEntry
    from dagster._core.event_api import EventHandlerFn
    from watchdog.events import FileSystemEvent

BUSY_SECONDS = 30
"""How long a writer waits for another one before it gives up."""
OPEN_RUNS = 8
"""Databases of runs that a process keeps open; each run has its own."""
PARTITION_SECONDS = 1.0
"""How long a partition is believed to be there without looking again."""
RECORDS = 100
"""Last materializations that are kept as they were read, by what stands in their rows."""
LOOK_AGAIN_SECONDS = 0.2
"""When to look at a run's events once more after they were seen to grow."""

_INSERT = SqlEventLogStorageTable.insert()
_OF_ROW = '{"__class__": "EventLogRecord"'
"""How a row begins that has the event itself."""
_NO_PARTITION: tuple[tuple[str, str], float] = ("", ""), 0.0


class Database:
    """One SQLite file, whose connections are kept for whoever needs one next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine: Engine | None = None
        self._file: tuple[int, int] | None = None
        _DATABASES.add(self)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in a transaction, committed at the end."""
        with self.engine().connect() as connection, connection.begin():
            yield connection

    def engine(self) -> Engine:
        """Connections to the file that is at the path now."""
        file = _identity(self.path)
        if self._engine is None or file is None or file != self._file:
            # Somebody may have removed the file or put another in its place.
            self.close()
            self._engine = _engine(self.path)
            self._file = file
        return self._engine

    def close(self) -> None:
        """Close all connections that nobody is using; the next user opens another."""
        if self._engine is not None:
            self._engine.dispose()

    def stamped(self) -> bool:
        """Whether Dagster has made its tables here and noted their version."""
        if _identity(self.path) is None:
            return False
        with contextlib.suppress(db.exc.DatabaseError), self.connection() as connection:
            return connection.execute(db.text("SELECT 1 FROM alembic_version LIMIT 1")).first() is not None
        return False

    def has_table(self, name: str) -> bool:
        """Whether there is a table of that name."""
        with self.engine().connect() as connection:
            return bool(self.engine().dialect.has_table(connection, name))


_DATABASES: weakref.WeakSet[Database] = weakref.WeakSet()


def _close_idle() -> None:
    for database in list(_DATABASES):
        database.close()


# A connection must not come along into a forked process: closing it there would confuse the locks.
os.register_at_fork(before=_close_idle)


def _inserted(result: CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None, "it is the one row of the statement"
    return int(key[0])


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path, None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _engine(path: Path) -> Engine:
    engine = db.create_engine(
        db.URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=5,
        max_overflow=-1,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )
    db.event.listen(engine, "connect", _prepare_connection)
    return engine


def _prepare_connection(connection: sqlite3.Connection, _: object) -> None:
    # With any other journal a power cut could damage the file, were there no wait for the disk.
    if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        connection.execute("PRAGMA synchronous=NORMAL")


class _Known:
    """What a database was found to have, such as tables and columns; none of it goes away again."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def has(self, name: str, look: Callable[[], bool]) -> bool:
        """Whether it has that; looks until it does."""
        if name not in self._names and look():
            self._names.add(name)
        return name in self._names


class KeptEventLogStorage(SqliteEventLogStorage):
    """The event log: a database per run, and the index over all runs."""

    def __init__(self, base_dir: str = "", inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._base_dir = base_dir
        if base_dir:
            self._open(base_dir)

    def register_instance(self, instance: DagsterInstance) -> None:
        if not self._base_dir:
            self._open(_event_logs_directory(instance.root_directory))
        super().register_instance(instance)

    def _open(self, base_dir: str) -> None:
        self._index = Database(Path(base_dir, f"{INDEX_SHARD_NAME}.db").absolute())
        self._runs: OrderedDict[str, Database] = OrderedDict()
        self._tables, self._indexes, self._columns = _Known(), _Known(), _Known()
        self._partition = _NO_PARTITION
        self._records: OrderedDict[str, tuple[AssetKey, EventLogRecord]] = OrderedDict()
        with _making(self._index):
            super().__init__(base_dir, self._inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        # Under Dagster's lock, as in its own class: what reads before it writes relies on being alone.
        with self._db_lock, self._database(shard).connection() as connection:
            yield connection

    def _database(self, shard: str) -> Database:
        is_index = shard == INDEX_SHARD_NAME
        if is_index:
            database = self._index
        else:
            if shard not in self._runs:
                self._runs[shard] = Database(Path(self.path_for_shard(shard)))
            database = self._runs[shard]
            self._runs.move_to_end(shard)
            while len(self._runs) > OPEN_RUNS:
                self._runs.popitem(last=False)[1].close()
        if shard not in self._initialized_dbs or not database.path.exists():
            if not is_index:
                self._begin(database.path)
            with _making(database) as is_missing:
                if is_missing:
                    self._initdb(database.engine(), for_index_shard=is_index)
            self._initialized_dbs.add(shard)
        return database

    def _begin(self, path: Path) -> None:
        """Begin the database of a run as a copy of an empty one: making it takes a hundred times as long."""
        if path.exists():
            return
        empty = self.empty_run()
        with _scratch(path) as copy:
            shutil.copyfile(empty, copy)
            with copy.open("rb") as written:
                os.fsync(written.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(copy, path)

    def empty_run(self) -> Path:
        """An empty database of a run as this version of Dagster makes it."""
        empty = Path(self._base_dir).parent / f"empty-run-{dagster.__version__}.sqlite"
        if not empty.exists():
            with _scratch(empty) as made:
                database = Database(made)
                self._initdb(database.engine())
                database.close()
                made.replace(empty)
        return empty

    def store_event(self, event: EventLogEntry) -> None:
        """Write an event into its run's database and, where it says more than that, into the index.

        The same rows as Dagster's own method writes; that makes a statement anew for every event, which
        takes longer than executing it.
        """
        row = self._event_to_row(event)
        with self.run_connection(event.run_id) as connection:
            connection.execute(_INSERT, row)
        kind = event.dagster_event_type if event.is_dagster_event else None
        if kind in ASSET_EVENTS:
            with self.index_connection() as connection:
                number = _inserted(connection.execute(_INSERT, row))
                self._store_asset_event_tags(connection, [event], [number])
                self._store_asset_event(connection, event, number)
        elif kind in ASSET_CHECK_EVENTS:
            with self.index_connection() as connection:
                number = _inserted(connection.execute(_INSERT, row))
            self.store_asset_check_event(event, number)
        elif kind in EVENT_TYPE_TO_PIPELINE_RUN_STATUS:
            with self.index_connection() as connection:
                connection.execute(_INSERT, row)

    def has_dynamic_partition(self, partitions_def_name: str, partition_key: str) -> bool:
        """Whether there is such a partition. A run asks that of its own some 200 times."""
        asked = partitions_def_name, partition_key
        known, since = self._partition
        if known != asked or time.monotonic() - since > PARTITION_SECONDS:
            if not super().has_dynamic_partition(partitions_def_name, partition_key):
                return False
            self._partition = asked, time.monotonic()
        return True

    def delete_dynamic_partition(self, partitions_def_name: str, partition_key: str) -> None:
        super().delete_dynamic_partition(partitions_def_name, partition_key)
        self._partition = _NO_PARTITION

    def _get_latest_materialization_records(
        self, raw_asset_rows: Iterable[Mapping[str, Any]]
    ) -> Mapping[AssetKey, EventLogRecord | None]:
        """The last materialization of each asset, pictures and all.

        Every step asks for those of all that it depends on, so that a run reads each a dozen times.
        """
        found: dict[AssetKey, EventLogRecord | None] = {}
        unknown: list[Mapping[str, Any]] = []
        for row in raw_asset_rows:
            known = None if row["asset_details"] else self._records.get(row["last_materialization"])
            if known is None:
                unknown.append(row)
            else:
                found[known[0]] = known[1]
        found.update(super()._get_latest_materialization_records(unknown))
        for row in unknown:
            key, text = AssetKey.from_db_string(row["asset_key"]), row["last_materialization"]
            record = found.get(key) if key else None
            # What the row itself does not say, or what was wiped, is looked up among the events.
            if key and record and not row["asset_details"] and text.startswith(_OF_ROW):
                self._records[text] = key, record
        while len(self._records) > RECORDS:
            self._records.popitem(last=False)
        return found

    def has_table(self, table_name: str) -> bool:
        return self._tables.has(table_name, lambda: self._index.has_table(table_name))

    def has_secondary_index(self, name: str) -> bool:
        return self._indexes.has(name, lambda: super(KeptEventLogStorage, self).has_secondary_index(name))

    def has_asset_key_col(self, column_name: str) -> bool:
        return self._columns.has(
            column_name, lambda: super(KeptEventLogStorage, self).has_asset_key_col(column_name)
        )

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        return self._columns.has(
            column_name,
            lambda: super(KeptEventLogStorage, self)._has_asset_key_col_on_connection(conn, column_name),
        )

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        observer = self._observer()
        watchdog = _Watchdog(self, run_id, callback, cursor)
        watch = observer.schedule(watchdog, self._base_dir, recursive=True)
        self._watchers[run_id][callback] = (watchdog, watch)

    def _observer(self) -> BaseObserver:
        started: BaseObserver | None = self._obs
        if started is None:
            started = Observer()
            started.start()
            vars(self)["_obs"] = started
        return started

    def wipe(self) -> None:
        self._close_runs()
        super().wipe()

    def dispose(self) -> None:
        super().dispose()
        self._close_runs()
        self._index.close()

    def _close_runs(self) -> None:
        with self._db_lock:
            while self._runs:
                self._runs.popitem()[1].close()


class _Watchdog(SqliteEventLogStorageWatchdog):
    """Tells who watches a run of its events: they are written to the journal, and to the file much later."""

    def __init__(
        self, storage: KeptEventLogStorage, run_id: str, callback: EventHandlerFn, cursor: str | None
    ) -> None:
        super().__init__(storage, run_id, callback, cursor)
        self._patterns = [self._log_path, f"{self._log_path}-wal"]
        self._looking = threading.Lock()
        self._again: threading.Timer | None = None

    def on_modified(self, event: FileSystemEvent) -> None:
        # It must not wait: who looks already may be ending the watch, and that waits for this thread.
        if self._looking.acquire(blocking=False):
            try:
                self._process_log()
            finally:
                self._looking.release()
        # A commit grows the journal first and can be read a moment later, of which nobody is told.
        if self._again is not None:
            self._again.cancel()
        self._again = threading.Timer(LOOK_AGAIN_SECONDS, self._look_again)
        self._again.daemon = True
        self._again.start()

    def _look_again(self) -> None:
        with self._looking:
            if self._cb in self._event_log_storage._watchers[self._run_id]:
                self._process_log()


class _OneDatabase:
    """What the storages of runs and of schedules share: each is one file in a folder of its own.

    Stands before Dagster's class, which makes the tables.
    """

    _name: ClassVar[str]
    _needed: ClassVar[str | None] = None
    """A table without which the file has to be made anew."""
    _theirs: ClassVar[type[SqliteRunStorage | SqliteScheduleStorage]]

    @staticmethod
    def _folder(root: str) -> str:
        """Where the file is, below Dagster's own folder."""
        raise NotImplementedError

    def __init__(self, base_dir: str = "", inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._database: Database | None = None
        if base_dir:
            self._open(base_dir)

    def register_instance(self, instance: DagsterInstance) -> None:
        if self._database is None:
            self._open(self._folder(instance.root_directory))
        super().register_instance(instance)  # type: ignore[misc]

    def _open(self, base_dir: str) -> None:
        self._database = Database(Path(base_dir, f"{self._name}.db").absolute())
        with _making(self._database) as is_missing:
            if is_missing or (self._needed and not self._database.has_table(self._needed)):
                self._theirs.from_local(base_dir)
        super().__init__(create_db_conn_string(base_dir, self._name), self._inst_data)  # type: ignore[call-arg]

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        assert self._database is not None
        with self._database.connection() as connection:
            yield connection

    def dispose(self) -> None:
        super().dispose()  # type: ignore[misc]
        if self._database is not None:
            self._database.close()


class KeptRunStorage(_OneDatabase, SqliteRunStorage):
    """Runs, their tags, backfills, and the heartbeats of daemons."""

    _name, _needed = "runs", "instance_info"
    _theirs = SqliteRunStorage

    @staticmethod
    def _folder(root: str) -> str:
        return _runs_directory(root)


class KeptScheduleStorage(_OneDatabase, SqliteScheduleStorage):
    """What sensors and schedules remember."""

    _name = "schedules"
    _theirs = SqliteScheduleStorage

    @staticmethod
    def _folder(root: str) -> str:
        return _schedule_directory(root)


class KeptSqliteStorage(DagsterSqliteStorage):
    """All of Dagster's storage, in the folder of its `dagster.yaml` unless `base_dir` names another."""

    def __init__(self, base_dir: str = "", inst_data: ConfigurableClassData | None = None) -> None:
        # Past the class in between, which opens the files.
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        self.base_dir = base_dir
        self._inst_data = inst_data
        self._run_storage = KeptRunStorage(_runs_directory(base_dir) if base_dir else "")
        self._event_log_storage = KeptEventLogStorage(_event_logs_directory(base_dir) if base_dir else "")
        self._schedule_storage = KeptScheduleStorage(_schedule_directory(base_dir) if base_dir else "")

    @classmethod
    def config_type(cls) -> dict[str, Field]:
        return {"base_dir": Field(StringSource, default_value="")}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        return cls(inst_data=inst_data, **config_value)


@contextmanager
def _making(database: Database) -> Iterator[bool]:
    """Tells whether a database must be made first, and keeps other processes from making it meanwhile.

    Two that make it at the same time would note its version twice, and Dagster's own classes refuse such a
    file from then on.
    """
    if database.stamped():
        yield False
        return
    database.path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(database.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield not database.stamped()
        # What was opened before the journal was set up knows nothing of it.
        database.close()
    finally:
        os.close(folder)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A name in the folder above for what will be a file at the path; nothing is left there afterwards."""
    scratch = path.parent.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        yield scratch
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{scratch}{suffix}").unlink(missing_ok=True)

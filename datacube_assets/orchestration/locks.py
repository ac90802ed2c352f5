"""Which runs at the command line are alive, and that there are no two for one partition.

Dagster's queue keeps the runs apart that it starts itself. A command that publishes holds a lock, which
the system takes from it when it dies, however that happens. The lock is one of this machine and home. Those
of other machines and homes are kept apart by the lease of the published datacube (`storage/leases.py`).

These are the kernel's locks as they are, not those of the library filelock: there whoever looks has to take
the lock alone, so that two that look at once take each other for a command at work, and where a file system
has no such locks it leaves a marker instead, which outlives a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import DagsterInstance, DagsterRun

from datacube_assets.partitions import AT_COMMAND_LINE, PARTITION_TAG, SOURCE_TAG
from datacube_assets.storage.lake import file_name

_TRIES, _PAUSE = 5, 0.05
"""Whoever looks at a lock holds it for a moment."""


class Locked(RuntimeError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(instance: DagsterInstance, partition: str, run_id: str) -> Iterator[None]:
    """Hold the lock of a partition for a run. Raises Locked."""
    path = _path(instance, partition)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        for tries_left in reversed(range(_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not tries_left:
                    raise Locked(partition) from None
                time.sleep(_PAUSE)
        file.truncate(0)
        file.write(run_id)
        file.flush()
        # The file stays: were it deleted, somebody could hold a lock that others do not see.
        yield


def holds_lock(instance: DagsterInstance, partition: str, run_id: str) -> bool:
    """Whether a process is alive that publishes a partition for this run."""
    try:
        with _path(instance, partition).open() as file:
            if file.read() != run_id:
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def died_at_command_line(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run that Dagster takes for unfinished was executed by a command, which is no more.

    Where a daemon watches runs it is soon told so; a home of commands alone has none.
    """
    by_command = run.tags.get(SOURCE_TAG) == AT_COMMAND_LINE
    return (
        by_command
        and not run.is_finished
        and not holds_lock(instance, run.tags.get(PARTITION_TAG, ""), run.run_id)
    )


def _path(instance: DagsterInstance, partition: str) -> Path:
    return Path(instance.root_directory) / "at-command-line" / f"{file_name(partition)}.lock"

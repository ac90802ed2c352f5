"""Processes that kill themselves at a chosen moment, for tests of what is left and of what comes after.

The product knows nothing of it. Whatever a run changes outside of its process, it changes through a
store, so the stores are watched: every moment before and after a change is a place to die at, and those
that people speak of have names (`POINTS`). How the process is started belongs to the tests.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

# The whole of it: a process that is forked from here has it all at hand.
import datacube_assets.operations.publish  # noqa: F401
from datacube_assets.cli import main
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.s3 import S3
from datacube_assets.storage.stores import Body, Store

POINTS: dict[str, str] = {
    "lease taken": r"after swap .*\.datacube~/.*lease",
    "request resolved": r"after put .*/dojo_request/request\.json",
    "raw part fetched": r"after put_file .*/raw_dojo_output/.*",
    "shard written": r"after put_file .*/normalized_points/.*",
    "table file written": r"after put .*/(temporal_cells|\w+_aggregates|grid_cells)/.*\.parquet",
    "table written": r"after put .*/table\.json",
    "table files dropped": r"after delete_many .*/(\w+_points|temporal_cells|\w+_aggregates|grid_cells)/.*",
    "results forgotten": r"after delete_many .*/manifests/pipeline_results/manifest\.json",
    "results.json withdrawn": r"after delete_many .*/results/results\.json",
    "objects written down": r"after put .*/manifests/(?!pipeline_results).*/\w+-\d{5}\.parquet",
    "object half written": r"half of put_many .*",
    "some objects published": r"after put_many .*",
    "all objects published": r"before put .*/manifests/.*/manifest\.json",
    "stale ones written down": r"after put .*/manifests/.*/stale\.parquet",
    "stale ones deleted": r"after delete_many (?!.*(/results/|/manifests/|runs/|\.datacube~/)).*",
    "manifest written": r"after put .*/manifests/(?!pipeline_results).*/manifest\.json",
    "traces of attempts deleted": r"after delete_many .*/manifests/(?!pipeline_results/manifest).*",
    "tables of a version written down": r"after put .*/history/tables/.*\.json",
    "version written down": r"after put .*/history/\d+\.\d+\.json",
    "results.json about to be written": r"before put_staged .*/results/results\.json",
    "results.json written": r"after put_staged .*/results/results\.json",
    "run finished": r"after put .*/manifests/pipeline_results/manifest\.json",
    "outcome about to be written down": r"before put reports/waiting/.*\.1\.json",
    "outcome written down": r"after put reports/waiting/.*\.1\.json",
    "report sent": r"before put reports/settled/.*\.1\.json",
    "report settled": r"after put reports/settled/.*\.1\.json",
}
"""Moments by the names that people have for them: a moment is `before`, `after` or `half of` a change,
the change is the method of the store and the key, of a deletion the first one."""

SETTINGS = ("DATACUBE_", "DOJO_", "CAUSEMOS_", "DAGSTER_", "AWS_")
"""How variables begin that a process must not have from whoever runs the tests."""

Passed = Callable[[str], None]
"""Told of each moment; if it does not return, the process has died at it."""


def names(moment: str) -> list[str]:
    """The names of a moment; it may have several, or none."""
    return [name for name, pattern in POINTS.items() if re.fullmatch(pattern, moment)]


@contextlib.contextmanager
def watching(passed: Passed, *, one_at_a_time: bool = True) -> Iterator[None]:
    """Tell of every moment around a change to a store that this process makes."""
    lock = threading.RLock()

    def tell(moment: str) -> None:
        with lock if one_at_a_time else contextlib.nullcontext():
            passed(moment)

    with contextlib.ExitStack() as patches:
        for kind in (LocalStore, S3):
            for name, watched in _watched(kind, tell).items():
                patches.enter_context(mock.patch.object(kind, name, watched))
        yield


def _watched(kind: type[Any], tell: Passed) -> dict[str, Callable[..., Any]]:
    """The methods of a store that change something, telling before and after."""
    put_many, delete_many = kind.put_many, kind.delete_many

    def one(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def told(store: Store, key: str, *arguments: Any, **options: Any) -> Any:
            tell(f"before {name} {key}")
            done = method(store, key, *arguments, **options)
            tell(f"after {name} {key}")
            return done

        return told

    def many(
        store: Store, keys: Sequence[str], bodies: Iterable[Body], content_type: str, **options: Any
    ) -> None:
        sent: list[str] = []

        def each() -> Iterator[Body]:
            # A store takes the next one when it has written, or sent, the one before.
            for key, body in zip(keys, bodies, strict=True):
                if sent:
                    tell(f"after put_many {sent[-1]}")
                tell(f"before put_many {key}")
                path = store.local_path(key)
                if path is not None and len(keys) > 1 and not path.exists():
                    # What a folder's store leaves of a new object when it is killed while it writes.
                    # A step beside it may remove the folder while that is empty.
                    with contextlib.suppress(FileNotFoundError):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(body[: len(body) // 2])
                    tell(f"half of put_many {key}")
                    path.unlink(missing_ok=True)
                sent.append(key)
                yield body

        put_many(store, keys, each(), content_type, **options)
        if sent:
            tell(f"after put_many {sent[-1]}")

    def gone(store: Store, keys: Sequence[str], **options: Any) -> None:
        for key in keys[:1]:
            tell(f"before delete_many {key}")
        delete_many(store, keys, **options)
        for key in keys[:1]:
            tell(f"after delete_many {key}")

    single = ("put", "put_file", "put_staged", "swap")
    return {name: one(name, getattr(kind, name)) for name in single} | {
        "put_many": many,
        "delete_many": gone,
    }


# --- dying -----------------------------------------------------------------------------------------


def dying_at(chosen: Callable[[str], bool]) -> Passed:
    """Die at the first moment that is chosen, as in a power failure, or get another signal there."""

    def passed(moment: str) -> None:
        if chosen(moment):
            os.kill(os.getpid(), getattr(chosen, "sent", signal.SIGKILL))

    return passed


@dataclass
class Nth:
    """Chooses the n-th (from 1) moment, of those with a name or of all."""

    n: int
    name: str = ""
    sent: signal.Signals = signal.SIGKILL
    """What happens there: death, or (SIGSTOP) sleep."""

    def __call__(self, moment: str) -> bool:
        self.n -= not self.name or self.name in names(moment)
        return self.n == 0


FORKS = multiprocessing.get_context("forkserver")
"""A process that has imported everything once: its children start in no time, and with no threads."""
_LONGEST = 240.0
"""Seconds after which a command is given up."""
FORKS.set_forkserver_preload(["datacube_assets_tests.integration.crashing"])


def start(
    arguments: Sequence[str], environment: Mapping[str, str], fate: Nth | None = None
) -> ForkServerProcess:
    """Start the `datacube` command in a process of its own."""
    process = FORKS.Process(target=_command, args=(list(arguments), dict(environment), fate))
    process.start()
    return process


def command(arguments: Sequence[str], environment: Mapping[str, str], fate: Nth | None = None) -> bool:
    """Run the `datacube` command in a process of its own; whether that lived to its end.

    Raises AssertionError when it ended by itself with an error.
    """
    process = start(arguments, environment, fate)
    process.join(_LONGEST)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"after {_LONGEST:.0f} seconds still at it: {arguments}")
    assert process.exitcode in (0, -signal.SIGKILL), f"ended with {process.exitcode}: {arguments}"
    return process.exitcode == 0


def _command(arguments: Sequence[str], environment: Mapping[str, str], fate: Nth | None) -> None:
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        del os.environ[name]
    os.environ.update(environment)
    with watching(dying_at(fate)) if fate else contextlib.nullcontext():
        main.main(arguments, prog_name="datacube")


# --- in processes that somebody else starts ----------------------------------------------------------

_VARIABLE = "CRASHING_ARMED"


@dataclass(frozen=True)
class Traps:
    """Traps in a folder, for all processes with the environment: each kills the first that steps in."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Variables with which every Python process watches its stores from the start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sitecustomize.py").write_text(f"import {__name__}\n\n{__name__}.arm()\n")
        return {"PYTHONPATH": str(self.folder), _VARIABLE: str(self.folder)}

    def set(self, name: str, key: str = "") -> None:
        """Kill whoever comes to a point, in what it does to a key that contains `key`."""
        (self.folder / name).write_text(key)

    def waiting(self) -> list[str]:
        """Points at which nobody died yet."""
        return [name for name in POINTS if (self.folder / name).exists()]

    def __call__(self, moment: str) -> bool:
        for name in names(moment):
            with contextlib.suppress(FileNotFoundError):
                if (self.folder / name).read_text() in moment:
                    # Whoever removes it is the one to die.
                    (self.folder / name).unlink()
                    return True
        return False


def arm() -> None:
    """Watch the stores of this process for as long as it lives."""
    _for_life.enter_context(watching(dying_at(Traps(Path(os.environ[_VARIABLE])))))


_for_life = contextlib.ExitStack()

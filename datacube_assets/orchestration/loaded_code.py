"""What this process has loaded, and whether a process that starts now would load the same.

For processes that wait for work while people change code, packages and settings. When one may still be used
is for `run_worker.py` to say. It imports nothing of ours.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator

Stamp = tuple[int, ...] | tuple[str, ...] | None
"""What tells a file from what it was before; None for one that is not there."""
_ABOUT_NOW = 1_000_000_000
"""Nanoseconds that it takes from the first file that is loaded until somebody can look at the clock."""
_DEFAULT_FILES = ("~/.aws/config", "~/.aws/credentials")


class LoadedCode:
    """The files that were loaded so far, and those that variables of the environment name.

    Make one before anything is imported. Files are compared by identity, size and time of change, some
    thousand of them in a few milliseconds.
    """

    def __init__(self) -> None:
        self._began = time.time_ns() - _ABOUT_NOW
        self._seen: dict[str, Stamp] = {}
        self._named = tuple(_named())

    def is_current(self) -> bool:
        """Whether each is as it was when it was loaded, and no package was added or removed."""
        now = time.time_ns()
        for path in self._files():
            stamp, changed = _stamp(path)
            if path not in self._seen:
                # What changed since this process began may have been loaded before that, or after.
                if self._began <= changed <= now:
                    return False
                self._seen[path] = stamp
            elif self._seen[path] != stamp:
                return False
        return True

    def _files(self) -> Iterable[str]:
        modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        return {path for path in (*modules, *self._named, *sys.path) if path}


def _named() -> Iterator[str]:
    """Files with certificates, credentials, limits and the like, those included that are not there yet."""
    for path in (*os.environ.values(), *map(os.path.expanduser, _DEFAULT_FILES)):
        # A list of folders, or a text that is no path at all, may stand in a variable as well.
        if os.path.isfile(path) or (path.startswith("/") and not os.path.exists(path)):
            yield os.path.abspath(path)


def _stamp(path: str) -> tuple[Stamp, int]:
    """What tells a file from another, and when it changed; of a folder, the packages installed in it."""
    try:
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            return (found.st_ino, found.st_size, found.st_mtime_ns), found.st_ctime_ns
        with os.scandir(path) as entries:
            return tuple(sorted(_packages(entries))), 0
    except (OSError, ValueError):
        return None, 0


def _packages(entries: Iterable[os.DirEntry[str]]) -> Iterator[str]:
    for entry in entries:
        if entry.name.endswith((".dist-info", ".egg-info")):
            yield entry.name
        elif entry.name.endswith(".pth"):
            # It may name other folders today.
            yield f"{entry.name} {entry.stat().st_mtime_ns}"

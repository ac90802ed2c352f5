"""Records in a folder: small texts that are changed by compare-and-swap.

A record is the target of a symbolic link that leads nowhere: it is made and replaced in one step, and
whatever walks through the folder for its files passes over it. Locks on folders make comparing and replacing
one step, and keep a record from being taken while its owner changes objects. The system takes a lock from a
process that dies; one that stands still keeps it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from functools import lru_cache

from datacube_assets.storage.stores import WRITING, ChangedRecordError, StoreUnavailable

_PATIENCE, _PAUSE = 20.0, 0.005
"""Seconds that comparing and replacing may take others, and between looks whether they are through."""
_CHANGING = "changing"
_PART = 200
"""Bytes between two slashes of a link: were a part longer than a name can be, asking for the file that it
leads to would be an error."""
_NO_LOCKS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP})
"""What file systems on the network say of locks on folders; those on files they know."""


def read(path: str) -> tuple[bytes, str] | None:
    """A record and what tells its state."""
    try:
        target = os.readlink(path.encode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    step = _PART + 1
    return b"".join(target[i : i + _PART] for i in range(0, len(target), step)), target.decode("latin-1")


def swap(path: str, body: bytes, seen: str | None) -> str:
    """Write a record that is as it was seen. Raises ChangedRecordError."""
    folder = os.path.dirname(path)
    target = b"/".join(body[i : i + _PART] for i in range(0, len(body), _PART))
    end = time.monotonic() + _PATIENCE
    while True:
        # Somebody who deletes the last object may remove the folder, as long as it is empty.
        with contextlib.suppress(FileNotFoundError), _lock(folder, fcntl.LOCK_EX) as mine:
            if mine:
                found = read(path)
                if (found[1] if found else None) != seen:
                    raise ChangedRecordError(path)
                temporary = f"{folder}/{WRITING}record"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)  # of somebody who died here
                os.symlink(target, temporary.encode())
                os.replace(temporary, path)
                return target.decode("latin-1")
        if time.monotonic() > end:
            raise StoreUnavailable(
                f"{path}: whoever changes this record stands still in the middle of it. End that process"
            )
        time.sleep(_PAUSE)


@contextlib.contextmanager
def changing(path: str, *, alone: bool = False) -> Iterator[bool | None]:
    """A time in which objects change; None where it was to be taken alone and others are at it."""
    folder = f"{os.path.dirname(path)}/{_CHANGING}"
    with _lock(folder, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, 0 if alone else _PATIENCE) as mine:
        if not mine and not alone:
            raise StoreUnavailable(f"{path}: whoever takes this record stands still in the middle of it")
        yield True if mine else None


@contextlib.contextmanager
def _lock(folder: str, kind: int, patience: float = 0.0) -> Iterator[bool]:
    """Whether a lock was had within so many seconds."""
    os.makedirs(folder, exist_ok=True)
    descriptor = _open(folder, of_folder=_locks_folders(folder))
    try:
        mine, end = _had(descriptor, kind), time.monotonic() + patience
        while not mine and time.monotonic() < end:
            time.sleep(_PAUSE)
            mine = _had(descriptor, kind)
        yield mine
    finally:
        os.close(descriptor)


def _had(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(folder: str, *, of_folder: bool) -> int:
    if of_folder:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


@lru_cache(maxsize=4096)
def _locks_folders(folder: str) -> bool:
    """Whether folders themselves can be locked here, so that no file is needed for it."""
    descriptor = _open(folder, of_folder=True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    finally:
        os.close(descriptor)
    return True

"""A local folder that stands for a bucket.

What every store does is in `stores.py`. That no key leaves the folder is checked here, by the rules of
`kernels/key_safety.py`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.errors import shown
from datacube_assets.kernels.key_safety import (
    LONGEST_KEY,
    LONGEST_PART,
    Keys,
    check_keys,
    key_sizes,
    longest_part,
)
from datacube_assets.kernels.keys import go_on_from_objects
from datacube_assets.storage import local_records
from datacube_assets.storage.stores import (
    FULL,
    LISTING,
    OWN,
    WRITING,
    Body,
    Entry,
    Fence,
    MissingObjectError,
    StoreError,
    StoreUnavailable,
)

_NOT_THERE = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG})


@dataclass(frozen=True)
class LocalStore:
    """A folder that stands for a bucket; keys are paths below it.

    The file system must tell apart names that differ by case or by Unicode form only, as those of Linux do.
    """

    url: str

    @cached_property
    def root(self) -> str:
        return unquote(urlsplit(self.url).path).rstrip("/")

    def _path(self, key: str) -> str:
        check_keys([key])
        return f"{self.root}/{key}"

    def local_path(self, key: str) -> Path | None:
        return Path(self._path(key))

    def check(self, setting: str, *, write: bool = True) -> None:
        folder = self._nearest_folder()
        if not folder.is_dir():
            raise StoreError(f"{self.url}: {folder} is no folder. Move it, or correct {setting}")
        if not os.access(folder, os.R_OK | os.X_OK | (os.W_OK if write else 0)):
            raise StoreError(
                f"{self.url}: the folder {folder} may not be {'written' if write else 'read'}. "
                f"Change its permissions, or correct {setting}"
            )

    def open(self, key: str) -> str | BinaryIO:
        path = self._path(key)
        if not os.path.isfile(path):
            raise MissingObjectError(key)
        return path

    def get(self, key: str) -> bytes:
        # Half of what a file object that buffers costs: checks read thousands of small objects.
        with _no_object(key), io.FileIO(self._path(key)) as file:
            return file.readall()

    def tail(self, key: str, size: int) -> bytes:
        with _no_object(key), Path(self._path(key)).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
            return file.read()

    @contextlib.contextmanager
    def _with_room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise StoreUnavailable(
                f"{self.url}: {error.strerror}{self._no_files_left()}{where}. "
                "Make room, or place the store elsewhere"
            ) from error

    def _no_files_left(self) -> str:
        """A word on a disk that has bytes left, but no more files."""
        with contextlib.suppress(OSError):
            room = os.statvfs(self.root)
            if room.f_files and not room.f_favail:
                return ": it has as many files as it can hold"
        return ""

    def put(self, key: str, body: Body, *, durably: bool = False) -> None:
        with self._with_room():
            self._put(key, body, durably=durably)

    def _put(self, key: str, body: Body, *, durably: bool = False) -> None:
        path = self._path(key)
        with self._no_file_is_a_folder():
            self._write_whole(path, body, durably)

    def _write_whole(self, path: str, body: Body, durably: bool) -> None:
        folder = os.path.dirname(path)
        while True:
            if durably:
                _make_folder_durably(folder)
            else:
                _make_folders(folder)
            # Somebody who deleted its last file may have removed the folder since.
            with contextlib.suppress(FileNotFoundError):
                descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=WRITING)
                break
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                if durably:
                    file.flush()
                    os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            try:
                os.replace(temporary, path)
            except FileNotFoundError:
                # Taken for the leftover of somebody who died.
                return self._write_whole(path, body, durably)
            if durably:
                _sync_folder(folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        folder = os.path.dirname(target)
        # From another file system it is copied, and must not be seen before it is whole.
        with self._with_room(), _temporary_in(folder) as temporary:
            os.replace(shutil.move(path, temporary), target)

    def storable(self, keys: Keys) -> npt.NDArray[np.bool_]:
        sizes = key_sizes(keys)
        short = sizes <= self._longest_name
        for i in np.flatnonzero(~short & (sizes <= LONGEST_KEY)).tolist():
            # A key may be longer than a name as long as no part of it is.
            short[i] = longest_part(str(keys[i])) <= self._longest_name
        return short & ~go_on_from_objects(keys)

    def _nearest_folder(self) -> Path:
        # The folder may have yet to be made; what counts is the part of its path that is there.
        folder = Path(self.root or "/")
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder

    @cached_property
    def _longest_name(self) -> int:
        """Bytes of a file name that the file system takes, 255 mostly, fewer on one that encrypts names."""
        folder = self._nearest_folder()
        with contextlib.suppress(OSError):
            return min(os.pathconf(folder, "PC_NAME_MAX"), LONGEST_PART)
        return LONGEST_PART

    def put_many(
        self, keys: Sequence[str], bodies: Iterable[Body], content_type: str, *, fence: Fence | None = None
    ) -> None:
        fence = fence or _always
        if len(keys) == 1:
            # Nothing is gained by haste, and results.json is alone in its batch.
            body = next(iter(bodies))
            fence()
            self.put(keys[0], body)
            return
        check_keys(keys)
        with self._with_room(), self._no_file_is_a_folder():
            self._put_many(keys, bodies, fence)

    def put_staged(self, key: str, staged: str, body: Body, content_type: str, fence: Fence) -> None:
        # Whoever would delete what is staged waits for `changing`, so nothing has to be staged.
        fence()
        self.put_many([key], [body], content_type)

    @contextlib.contextmanager
    def _no_file_is_a_folder(self) -> Iterator[None]:
        """Say what is wrong when one key goes on where another ends: `a.csv` and `a.csv/b`."""
        try:
            yield
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise StoreError(
                f"{shown(str(error.filename))} would have to be a file and a folder: names in the data make "
                "keys of which one goes on where another ends. Rename them, or write to S3, which takes both"
            ) from error

    def _put_many(self, keys: Sequence[str], bodies: Iterable[Body], fence: Fence) -> None:
        made: set[str] = set()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for key, body in zip(keys, bodies, strict=True):
            fence()
            path = f"{self.root}/{key}"
            folder = path[: path.rindex("/")]
            if folder not in made:
                _make_folder(folder)
                made.add(folder)
            # Plain descriptors cost a third less than file objects, of which there would be 300,000.
            try:
                descriptor = os.open(path, flags, 0o644)
            except (FileExistsError, FileNotFoundError):
                # A reader may be at it: what is published again from the same input stays complete. Or
                # somebody who deleted the last file of the folder has removed it since.
                self._put(key, body)
                continue
            try:
                written = os.write(descriptor, body)
                while written < len(body):
                    written += os.write(descriptor, memoryview(body)[written:])
            finally:
                os.close(descriptor)

    def sweep(self, keys: Sequence[str], before: float) -> None:
        check_keys(keys)
        for folder in {os.path.dirname(f"{self.root}/{key}") for key in keys}:
            leftovers: list[os.DirEntry[str]] = []
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
                leftovers = [entry for entry in entries if entry.name.startswith(WRITING)]
            for entry in leftovers:
                # Whoever is at work there yet ends it, or has ended it by now.
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime >= before:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)
            self._remove_empty(folder)

    def delete_many(self, keys: Sequence[str], *, fence: Fence | None = None) -> None:
        check_keys(keys)
        fence = fence or _always
        folders = set()
        for key in keys:
            fence()
            path = f"{self.root}/{key}"
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
            folders.add(os.path.dirname(path))
        for folder in sorted(folders, key=len, reverse=True):
            self._remove_empty(folder)

    def record(self, key: str) -> tuple[bytes, str] | None:
        return local_records.read(self._path(key))

    def swap(self, key: str, body: bytes, seen: str | None, *, contested: bool = False) -> str:
        with self._with_room():
            return local_records.swap(self._path(key), body, seen)

    def changing(self, key: str, *, alone: bool = False) -> contextlib.AbstractContextManager[bool | None]:
        return local_records.changing(self._path(key), alone=alone)

    def swaps_for_sure(self) -> bool:
        return True

    def _remove_empty(self, folder: str) -> None:
        # A bucket has no empty folders, so neither has the folder in its place.
        while len(folder) > len(self.root):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError:
                return
            folder = os.path.dirname(folder)

    def _is_own(self, folder: str, name: str) -> bool:
        """Whether a folder is what the store keeps for itself."""
        return name == OWN and folder.rstrip("/") == self.root

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        start = self._path(prefix.rstrip("/")) if prefix else self.root
        for folder, folders, names in os.walk(start):
            folders[:] = [
                name for name in folders if not self._is_own(folder, name) and not name.startswith(WRITING)
            ]
            for name in names:
                if name.startswith(WRITING):
                    continue
                path = os.path.join(folder, name)
                try:
                    size = os.path.getsize(path)
                except FileNotFoundError:  # deleted by somebody beside us
                    continue
                yield path[len(self.root) + 1 :], size

    def entries(self, prefix: str) -> Iterator[Entry]:
        start = self._path(prefix.rstrip("/")) if prefix else self.root
        for folder, folders, names in os.walk(start):
            folders[:] = [name for name in folders if not self._is_own(folder, name)]
            for name in names:
                path = os.path.join(folder, name)
                # A run beside us may have deleted it by now.
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(path)
                    tag = f"{found.st_ino}-{found.st_mtime_ns}"
                    yield Entry(path[len(self.root) + 1 :], found.st_size, found.st_mtime, tag)

    def folders(self, prefix: str) -> Sequence[str]:
        start = self._path(prefix.rstrip("/")) if prefix else self.root
        try:
            with os.scandir(start) as entries:
                return sorted(
                    entry.name for entry in entries if entry.is_dir() and not self._is_own(start, entry.name)
                )
        except (FileNotFoundError, NotADirectoryError):
            return []

    def listing(self, prefix: str) -> pa.Table:
        # Asking for the size of every file takes four times as long as naming them.
        keys, folders = [], [prefix.rstrip("/")]
        while folders:
            folder, names = folders.pop(), list[str]()
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(self._path(folder)) as found,
            ):
                for entry in found:
                    if entry.is_dir():
                        folders.append(f"{folder}/{entry.name}")
                    else:
                        names.append(entry.name)
            files = pa.array(names, pa.string())
            if WRITING in "".join(names):
                files = files.filter(pc.invert(pc.starts_with(files, WRITING)))
            keys.append(pc.binary_join_element_wise(folder, files, "/"))
        key = pa.chunked_array(keys, pa.string())
        unknown = [pa.nulls(len(key), LISTING.field(name).type) for name in ("size", "checksum")]
        return pa.table([key, *unknown], schema=LISTING)


def _always() -> None:
    """A fence that nobody stands behind."""


@contextlib.contextmanager
def _no_object(key: str) -> Iterator[None]:
    """Tell that there is no object of a key. Raises MissingObjectError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise MissingObjectError(key) from None


def _make_folder(folder: str) -> None:
    # Mostly its parent is there, and it is not: then asking first costs as much as making it.
    try:
        os.mkdir(folder)
    except (FileNotFoundError, FileExistsError):
        _make_folders(folder)


_TRIES = 100
"""At a folder that others remove: each time somebody has just deleted its last file."""


def _make_folders(folder: str) -> None:
    """Make a folder and those above it, which others may be removing because they are empty."""
    for tried in range(_TRIES):
        try:
            return os.makedirs(folder, exist_ok=True)
        except FileNotFoundError:
            pass
        except FileExistsError as error:
            if os.path.lexists(error.filename) and not os.path.isdir(error.filename):
                raise
        # Not always at the same moment as whoever removes it.
        time.sleep(tried * random.random() * 1e-3)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)


def _temporary_in(folder: str) -> tempfile.TemporaryDirectory[str]:
    for _ in range(_TRIES):
        _make_folders(folder)
        with contextlib.suppress(FileNotFoundError):
            return tempfile.TemporaryDirectory(dir=folder, prefix=WRITING)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)


def _make_folder_durably(folder: str) -> None:
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        _make_folder_durably(parent)
        with contextlib.suppress(FileNotFoundError):  # of a parent that was removed since: tried again
            _make_folders(folder)
            _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    """Have the names in a folder written to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

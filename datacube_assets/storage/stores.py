"""What every store of objects by key does, whether it is a folder or a bucket.

The protocol, its errors and its listings belong here. Folders are in `local.py`, buckets on S3 in `s3.py`;
`opening.py` chooses. What is stored, and in which order, is the business of `lake.py` and `publishing.py`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.key_safety import Keys
from datacube_assets.kernels.keys import RESERVED

Body = bytes | memoryview


WRITING = ".writing-"
"""How the names of files in the making begin."""
OWN = RESERVED
"""Folder at the root of what a store keeps for itself: its records. It is in no listing. No folder of the
lake is called so, and no model may be."""
Fence = Callable[[], None]
"""Called right before each change of a batch; raises where the change may not be made."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says where there is no room left."""
LISTING = pa.schema([("key", pa.string()), ("size", pa.int64()), ("checksum", pa.binary(16))])
"""A listing: size in bytes and MD5 are null where only reading the object would tell."""


class MissingObjectError(KeyError):
    """There is no object of this key."""


class ChangedRecordError(RuntimeError):
    """A record is not, or no longer, as it was seen."""


class StoreError(RuntimeError):
    """A store that cannot be used as things are; the message says what is wrong and what to change."""


class StoreUnavailable(StoreError):
    """A store that does not answer, or not in earnest; later it may."""


@dataclass(frozen=True)
class Entry:
    """One object, or what a write of one left behind."""

    key: str
    bytes: int
    modified: float
    """Seconds UTC of the last change."""
    tag: str = ""
    """What else tells it from what is written under its key later."""


def is_leftover(key: str) -> bool:
    """Whether a key is what a write that broke off has left: the part of a file that was to be moved."""
    return f"/{WRITING}" in f"/{key}"


def is_own(key: str) -> bool:
    """Whether a key is of what the store keeps for itself."""
    return key.startswith(f"{OWN}/")


class Store(Protocol):
    """What both kinds of store do. Instances can be sent to workers."""

    @property
    def url(self) -> str:
        """Address of the store."""

    def check(self, setting: str, *, write: bool = True) -> None:
        """Try whether the store can be used, by a few quick requests.

        Raises StoreError, naming the setting (or whatever) that the address comes from.
        """

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises MissingObjectError."""

    def open(self, key: str) -> str | BinaryIO:
        """The object for a reader that wants parts of it: its path, or a file. Raises MissingObjectError."""

    def tail(self, key: str, size: int) -> bytes:
        """The last bytes of an object, all of a smaller one. Raises MissingObjectError."""

    def put(self, key: str, body: Body, *, durably: bool = False) -> None:
        """Write one object; it appears whole or not at all. Written durably, it outlives a power cut."""

    def put_many(
        self, keys: Sequence[str], bodies: Iterable[Body], content_type: str, *, fence: Fence | None = None
    ) -> None:
        """Write many objects; a crash may leave some unwritten, and of those that are new one in part."""

    def put_staged(self, key: str, staged: str, body: Body, content_type: str, fence: Fence) -> None:
        """Write one object that whoever deletes `staged` in time keeps from appearing.

        The fence is called when all is ready. Raises MissingObjectError where `staged` was deleted.
        """

    def put_file(self, key: str, path: Path) -> None:
        """Write one object from a local file, which may be moved away."""

    def storable(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which keys the store takes: short enough, and not below an object where objects are files."""

    def delete_many(self, keys: Sequence[str], *, fence: Fence | None = None) -> None:
        """Delete objects; those that are not there are passed over."""

    def record(self, key: str) -> tuple[bytes, str] | None:
        """A small record and what tells its state from others, None when there is none."""

    def swap(self, key: str, body: bytes, seen: str | None, *, contested: bool = False) -> str:
        """Write a record that is as it was seen (None: not there); what tells the new state is returned.

        Of several who have seen the same, one succeeds; `contested` says that there may be several. Bodies
        must never be the same twice, and have 1,000 bytes at most. Raises ChangedRecordError.
        """

    def changing(self, key: str, *, alone: bool = False) -> AbstractContextManager[bool | None]:
        """A time in which the owner of a record changes objects; one that is taken `alone` overlaps no other.

        Gives True where the store sees to that, None where it does and others are at it, False where it
        cannot.
        """

    def swaps_for_sure(self) -> bool:
        """Whether the store itself compares before it writes a record; else swapping takes time."""

    def sweep(self, keys: Sequence[str], before: float) -> None:
        """Remove what writes that broke off left beside these keys, begun before a time (seconds UTC)."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of every object whose key starts with the prefix (a folder with final `/`)."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Like `list`, in order of folders, with what writes that broke off left behind."""

    def folders(self, prefix: str) -> Sequence[str]:
        """Names of the folders directly below a folder (with final `/`; an empty one is the root), sorted."""

    def listing(self, prefix: str) -> pa.Table:
        """What listing alone tells of every object below a folder (`LISTING`), quickly."""

    def local_path(self, key: str) -> Path | None:
        """The object as a local file, where the store is one."""

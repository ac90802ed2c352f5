"""What every store of objects by key does, whether it is a folder or a bucket.

The protocol, its errors and its listings belong here. Folders are in `local.py`, buckets on S3 in `s3.py`;
`opening.py` chooses. What is stored, and in which order, is the business of `lake.py` and `publishing.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.key_safety import Keys

Body = bytes | memoryview


WRITING = ".writing-"
"""How the names of files in the making begin."""
LISTING = pa.schema([("key", pa.string()), ("size", pa.int64()), ("checksum", pa.binary(16))])
"""A listing: size in bytes and MD5 are null where only reading the object would tell."""


class MissingObjectError(KeyError):
    """There is no object of this key."""


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


def is_leftover(key: str) -> bool:
    """Whether a key is what a write that broke off has left: the part of a file that was to be moved."""
    return f"/{WRITING}" in f"/{key}"


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

    def put_many(self, keys: Sequence[str], bodies: Iterable[Body], content_type: str) -> None:
        """Write many objects; a crash may leave some unwritten, and of those that are new one in part."""

    def put_file(self, key: str, path: Path) -> None:
        """Write one object from a local file, which may be moved away."""

    def storable(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which keys are short enough for the store."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are passed over."""

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

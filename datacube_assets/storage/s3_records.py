"""Records in a bucket: small objects that are changed by compare-and-swap.

Where the server honours conditional writes (`If-None-Match: *`, `If-Match: tag`), it compares. Where it does
not, which is tried once per bucket and process, a record is written, and after a while read back: the last
who wrote it has it. Requests of the other kinds are in `s3.py`.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from datacube_assets.storage.s3_errors import Addressed, explained
from datacube_assets.storage.s3_retries import again
from datacube_assets.storage.stores import (
    OWN,
    ChangedRecordError,
    MissingObjectError,
    StoreError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from obstore.store import S3Store

SETTLING = 3.0
"""Seconds until a record that was written without a condition is read back: in that time, whoever saw the
same state has written too."""
_NEVER = f'"{"0" * 32}"'
"""The tag of no object."""


def read(store: Addressed, client: S3Store, key: str) -> tuple[bytes, str] | None:
    """A record and its tag."""
    import obstore

    def get() -> tuple[bytes, str] | None:
        try:
            with explained(store, "read", key):
                found = obstore.get(client, key)
                return bytes(found.bytes()), found.meta["e_tag"] or ""
        except MissingObjectError:
            return None

    return again(get)


def swap(
    store: Addressed, client: S3Store, key: str, body: bytes, seen: str | None, *, contested: bool
) -> str:
    """Write a record that is as it was seen; bodies must never be the same twice.

    Raises ChangedRecordError.
    """
    if not conditional(store, client):
        return _swap_and_see(store, client, key, body, seen, contested=contested)
    with explained(store, "write", key):
        tag = _put_if(client, key, body, seen)
    if tag is None:
        # It may be our own, of which the answer was lost and the client asked again.
        found = read(store, client, key)
        if found is None or found[0] != body:
            raise ChangedRecordError(key)
        tag = found[1]
    return tag


def _swap_and_see(
    store: Addressed, client: S3Store, key: str, body: bytes, seen: str | None, *, contested: bool
) -> str:
    import obstore

    before = read(store, client, key)
    if (before[1] if before else None) != seen:
        raise ChangedRecordError(key)
    with explained(store, "write", key):
        obstore.put(client, key, body)
    if contested:
        time.sleep(SETTLING)
    found = read(store, client, key)
    if found is None or found[0] != body:
        raise ChangedRecordError(key)
    return found[1]


def _put_if(client: S3Store, key: str, body: bytes, seen: str | None) -> str | None:
    """The tag of what was written, None when something else was there than was seen."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    try:
        if seen is None:
            return obstore.put(client, key, body, mode="create")["e_tag"] or ""
        return obstore.put(client, key, body, mode={"e_tag": seen})["e_tag"] or ""
    except (AlreadyExistsError, PreconditionError, FileNotFoundError):
        return None


def conditional(store: Addressed, client: S3Store) -> bool:
    """Whether the server honours conditions of writes. Raises StoreError."""
    # Asked with a client that is shared by all who use the bucket with the same account.
    return _conditional(_Asked(store, client))


class _Asked:
    """A bucket that is asked once: equal to others of the same server and bucket."""

    def __init__(self, store: Addressed, client: S3Store) -> None:
        self.store, self.client = store, client
        self._name = (store.endpoint, store.bucket)

    def __hash__(self) -> int:
        return hash(self._name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and other._name == self._name


@lru_cache(maxsize=256)
def _conditional(asked: _Asked) -> bool:
    import obstore

    store, client = asked.store, asked.client
    key = f"{OWN}/probe-{uuid.uuid4().hex}"
    try:
        # What is there in the end tells, not the answers: those may have been lost, and asked for again.
        try:
            with explained(store, "write", key):
                for body, seen in ((b"1", None), (b"2", None), (b"3", _NEVER)):
                    _put_if(client, key, body, seen)
            found = read(store, client, key)
            if found is None or found[0] != b"1":
                return False
            with explained(store, "write", key):
                # Tags that were changed on the way hold for no condition.
                _put_if(client, key, b"4", found[1])
        except StoreUnavailable:
            raise
        except StoreError:
            # Servers refuse conditions in ways of their own; who may not write at all is told so here.
            with explained(store, "write", key):
                obstore.put(client, key, b"5")
            return False
        found = read(store, client, key)
        return found is not None and found[0] == b"4"
    finally:
        with suppress(MissingObjectError), explained(store, "delete", key):
            obstore.delete(client, [key])

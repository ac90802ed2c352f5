"""A bucket on AWS or any S3-compatible server, as a store.

Which requests make what a store does belongs here. The client and its credentials are in `s3_client.py`, what
is said when a server refuses in `s3_errors.py`, when something is tried again in `s3_retries.py`; what both
kinds of store have in common is in `stores.py`.
"""

from __future__ import annotations

import io
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.key_safety import (
    LONGEST_KEY,
    LONGEST_PART,
    Keys,
    check_keys,
    has_control,
    key_sizes,
    longest_part,
)
from datacube_assets.kernels.keys import go_on_from_objects
from datacube_assets.settings import aws_environment
from datacube_assets.storage import s3_records
from datacube_assets.storage.s3_client import s3_client
from datacube_assets.storage.s3_control import ControlKeys, Listed
from datacube_assets.storage.s3_errors import BrokenAnswer, ForeignAnswer, RefusedFormError, explained
from datacube_assets.storage.s3_retries import MAX_CONCURRENCY, again, throttle
from datacube_assets.storage.stores import (
    LISTING,
    OWN,
    Body,
    Entry,
    Fence,
    MissingObjectError,
    StoreError,
    StoreUnavailable,
    is_own,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer
    from obstore import ObjectMeta
    from obstore.store import S3Store

T = TypeVar("T")

PROBE_KEY = f"{OWN}/probe"
"""Written and deleted by `check`; it is where leases are, which accounts have to be allowed to write."""

_READ_WHOLE, _READ_AHEAD = 16_000_000, 4_000_000
"""Bytes up to which an object is read at once, and how many of a larger one."""
_DELETED_AT_ONCE = 1000
_LISTED_AT_ONCE = 1000
_PAGES_ARE_OF = 100
"""The number of keys on a page is a multiple of this, on every server that is known."""
_NOT_IN_XML = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")
"""Keys with these cannot be deleted with others, as XML has no way to write them."""
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_UNLISTED = ("invalid path", "Got invalid list response")
"""What the client says of a listing in which a key has control characters."""
_REPLACED = "\ufffd"
"""What some servers write in a listing for a character that XML does not have."""
_PARENT_IS_OBJECT = ("XMinioParentIsObject", "ObjectExistsAsPrefix")
_TOO_LONG = ("KeyTooLong", "InvalidObjectName", "File name too long", "name too long")


@dataclass(frozen=True)
class S3:
    """A bucket, or a prefix of it. Requests are path-style; see `docs/s3.md` for credentials."""

    url: str
    endpoint: str = ""
    """Address of the server; empty for AWS."""

    @property
    def bucket(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        return urlsplit(self.url).path.strip("/")

    def _open(self, kind: str = "single") -> S3Store:
        return s3_client(self.bucket, self.prefix, self.endpoint, kind, aws_environment())

    @property
    def _control(self) -> ControlKeys:
        return ControlKeys(self.bucket, self.prefix, self.endpoint)

    def local_path(self, key: str) -> Path | None:
        return None

    def check(self, setting: str, *, write: bool = True) -> None:
        import obstore

        probe = self._open("probe")

        def ask(doing: str, do: Callable[[], object]) -> None:
            def asked() -> None:
                with explained(self, doing, setting=setting):
                    do()

            try:
                again(asked)
            except BrokenAnswer as error:
                # Here it is rather no server of S3 at all, which does not pass.
                raise StoreError(str(error)) from error

        ask("list", lambda: next(iter(obstore.list(probe, prefix=f"{PROBE_KEY}/")), None))
        if write:
            ask("write", lambda: obstore.put(probe, PROBE_KEY, b""))
        with suppress(MissingObjectError):  # another run may have deleted it meanwhile
            ask("read", lambda: obstore.get(probe, PROBE_KEY))
        if write:
            ask("delete", lambda: obstore.delete(probe, [PROBE_KEY]))

    def get(self, key: str) -> bytes:
        import obstore

        def get() -> bytes:
            with explained(self, "read", key):
                if has_control(key):
                    return self._control.get(key)
                return bytes(obstore.get(self._open(), key).bytes())

        return again(get)

    def open(self, key: str) -> str | BinaryIO:
        import obstore

        if has_control(key):
            return io.BytesIO(self.get(key))

        def opened() -> BinaryIO:
            try:
                with explained(self, "read", key):
                    size = obstore.head(self._open(), key)["size"]
            except StoreError as error:
                if isinstance(error, StoreUnavailable) and not isinstance(error, ForeignAnswer):
                    raise
                # Answers to HEAD have no text. Another one says why, and whether S3 has answered at all.
                self._range(key, 0, 1)
                raise
            if size <= _READ_WHOLE:
                return io.BytesIO(self._whole(key, self.get(key), size))
            return cast(BinaryIO, io.BufferedReader(_Ranges(self, key, size), _READ_AHEAD))

        return again(opened)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Some bytes of an object, which has so many. Raises MissingObjectError."""
        return again(partial(self._range, key, start, end))

    def _range(self, key: str, start: int, end: int) -> bytes:
        import obstore

        with explained(self, "read", key):
            found = bytes(obstore.get_range(self._open(), key, start=start, end=end))
        return self._whole(key, found, end - start)

    def _whole(self, key: str, found: bytes, size: int) -> bytes:
        if len(found) != size:
            raise BrokenAnswer(f"{self.url}, {key}: {len(found):,} bytes came of {size:,}. Try later")
        return found

    def tail(self, key: str, size: int) -> bytes:
        import obstore

        if has_control(key):
            return self.get(key)[-size:]

        def tail() -> bytes:
            with explained(self, "read", key):
                return bytes(obstore.get(self._open(), key, options={"range": {"suffix": size}}).bytes())

        try:
            return again(tail)
        except StoreError as error:
            if isinstance(error, StoreUnavailable) and not isinstance(error, BrokenAnswer):
                raise
            # Not every server, nor what stands before it, knows ranges that are counted from the end.
            return self.get(key)[-size:]

    def put(self, key: str, body: Body, *, durably: bool = False) -> None:
        import obstore

        check_keys([key])
        with explained(self, "write", key):
            if has_control(key):
                return self._control.put(key, bytes(body), _content_type(key))
            obstore.put(self._open(), key, _plain(body), attributes={"Content-Type": _content_type(key)})

    def put_file(self, key: str, path: Path) -> None:
        import obstore

        check_keys([key])
        with explained(self, "write", key):
            if has_control(key):
                return self._control.put(key, path.read_bytes(), _content_type(key))
            obstore.put(self._open(), key, path, attributes={"Content-Type": _content_type(key)})

    def storable(self, keys: Keys) -> npt.NDArray[np.bool_]:
        sizes = key_sizes(keys)
        short = sizes + len(self.prefix.encode()) + 1 <= LONGEST_KEY
        for i in np.flatnonzero(short & (sizes > LONGEST_PART)).tolist():
            if longest_part(str(keys[i])) > LONGEST_PART:
                short[i] = _takes_long_parts(self)
        below_an_object = go_on_from_objects(keys)
        if (short & below_an_object).any() and not _takes_keys_below_objects(self):
            return short & ~below_an_object
        return short

    def put_many(
        self, keys: Sequence[str], bodies: Iterable[Body], content_type: str, *, fence: Fence | None = None
    ) -> None:
        import obstore

        check_keys(keys)
        store, attributes = self._open("batch"), {"Content-Type": content_type}

        def put(item: tuple[str, Body]) -> None:
            if fence is not None:
                fence()
            with explained(self, "write", item[0]):
                if has_control(item[0]):
                    return self._control.put(item[0], bytes(item[1]), content_type)
                obstore.put(store, item[0], _plain(item[1]), attributes=attributes)

        items, held = zip(keys, bodies, strict=True), list[tuple[str, Body]]()
        below_an_object = go_on_from_objects(keys).tolist()

        def others() -> Iterator[tuple[str, Body]]:
            for item, is_below in zip(items, below_an_object, strict=True):
                if is_below:
                    held.append(item)
                else:
                    yield item

        self._each(others(), put, len(keys))
        # Of `a.csv` and `a.csv/b`, a server that keeps objects as files loses one that come at the same time.
        self._each(iter(held), put, len(held))

    def put_staged(self, key: str, staged: str, body: Body, content_type: str, fence: Fence) -> None:
        import obstore

        self.put_many([staged], [body], content_type, fence=fence)
        fence()
        # The server copies only what is staged yet, however late it hears of this.
        with explained(self, "write", key):
            obstore.copy(self._open(), staged, key)
        self.delete_many([staged])

    def record(self, key: str) -> tuple[bytes, str] | None:
        return s3_records.read(self, self._open(), key)

    def swap(self, key: str, body: bytes, seen: str | None, *, contested: bool = False) -> str:
        return s3_records.swap(self, self._open(), key, body, seen, contested=contested)

    def changing(self, key: str, *, alone: bool = False) -> AbstractContextManager[bool | None]:
        # Nothing keeps a server from doing what it was asked before.
        return nullcontext(False)

    def swaps_for_sure(self) -> bool:
        return s3_records.conditional(self, self._open())

    def sweep(self, keys: Sequence[str], before: float) -> None:
        """Nothing: an object is there whole or not at all."""

    def delete_many(self, keys: Sequence[str], *, fence: Fence | None = None) -> None:
        check_keys(keys)
        refusals = _refusals(self.endpoint, self.bucket)
        alone = [key for key in keys if _NOT_IN_XML.search(key)]
        plain = [key for key in keys if not _NOT_IN_XML.search(key)] if alone else keys
        if not refusals.batches:
            try:
                self._delete_batches(plain, fence)
                plain = []
            except _NoBatchesError:
                refusals.batches = True
        one_by_one = [*plain, *alone]
        self._each(iter(one_by_one), partial(self._delete_one, fence=fence), len(one_by_one))

    def _delete_batches(self, keys: Sequence[str], fence: Fence | None) -> None:
        import obstore

        store = self._open("batch")

        def delete(some: tuple[str, ...]) -> None:
            if fence is not None:
                fence()
            try:
                with explained(self, "delete", some[0]):
                    obstore.delete(store, list(some))
            except RefusedFormError as error:
                raise _NoBatchesError(str(error)) from None
            except MissingObjectError:
                # S3 itself passes over what is not there; a server that does not tells nothing of the others.
                for key in some:
                    self._delete_one(key, fence=fence)

        batches = list(_batched(keys, _DELETED_AT_ONCE))
        self._each(iter(batches), delete, len(batches))

    def _delete_one(self, key: str, *, fence: Fence | None) -> None:
        import obstore

        if fence is not None:
            fence()
        with suppress(MissingObjectError), explained(self, "delete", key):
            if has_control(key):
                return self._control.delete(key)
            obstore.delete(self._open("one by one"), [key])

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for item in self._listed(prefix):
            yield item["path"], item["size"]

    def folders(self, prefix: str) -> Sequence[str]:
        import obstore

        def found() -> Sequence[str]:
            with explained(self, "list"):
                with _listable():
                    page = obstore.list_with_delimiter(self._open(), prefix or None)
                    paths = page["common_prefixes"]
                    if not _may_go_on(len(paths) + len(page["objects"])):
                        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]
                return list(self._control.folders(prefix))

        return sorted(name for name in again(found) if not is_own(f"{prefix}{name}/"))

    def listing(self, prefix: str) -> pa.Table:
        items = self._listed(prefix)
        keys, sizes = ([item[name] for item in items] for name in ("path", "size"))
        return pa.table([keys, sizes, [_md5(item["e_tag"]) for item in items]], schema=LISTING)

    def entries(self, prefix: str) -> Iterator[Entry]:
        # Not every server lists in order.
        for item in sorted(self._listed(prefix), key=lambda item: item["path"].split("/")):
            modified = item["last_modified"].timestamp()
            yield Entry(item["path"], item["size"], modified, item["e_tag"] or "")

    def _listed(self, prefix: str) -> Sequence[ObjectMeta | Listed]:
        def listed() -> Sequence[ObjectMeta | Listed]:
            with explained(self, "list"):
                with _listable():
                    found = self._listed_quickly(prefix)
                    if found is not None:
                        return found
                return [item for item in self._control.list(prefix) if not is_own(item["path"])]

        return again(listed)

    def _listed_quickly(self, prefix: str) -> Sequence[ObjectMeta] | None:
        """A listing by the quick client, None where it would not be as the objects are."""
        import obstore

        found: list[ObjectMeta] = []
        first: Set[str] = set()
        last: Set[str] = set()
        count = 0
        for page in obstore.list(self._open(), prefix=prefix or None, chunk_size=_LISTED_AT_ONCE):
            # An empty object may be the marker of a folder, whose final `/` the client leaves out.
            if any(_REPLACED in item["path"] or not item["size"] for item in page):
                return None
            known = last | first
            new = {item["path"]: item for item in page if item["path"] not in known}
            if not new:
                raise BrokenAnswer(
                    f"{self.url}: {self.endpoint or 'AWS'} lists the same keys again and again. Try later"
                )
            last = {item["path"] for item in page}
            first = first or last
            count += len(page)
            found += [item for path, item in new.items() if not is_own(path)]
            end = page[-1]["path"]
        if _may_go_on(count) and self._goes_on(prefix, end):
            return None
        return found

    def _goes_on(self, prefix: str, end: str) -> bool:
        """Whether there are keys behind the last one that was listed.

        Servers that only know the older way to list say that there is more in a way that the quick client
        does not understand; asked what comes behind a key, they begin anew.
        """
        import obstore

        more = obstore.list(self._open(), prefix=prefix or None, offset=end, chunk_size=1)
        return next(iter(more), None) is not None

    def _each(self, items: Iterator[T], do: Callable[[T], None], count: int) -> None:
        """Do something with every item, as many at once as the server takes; ends at the first failure."""
        limit, turn, stop = throttle(self.endpoint), threading.Lock(), threading.Event()

        def work() -> None:
            while not stop.is_set():
                with turn:
                    item = next(items, None)
                if item is None:
                    return
                limit.patiently(do, item, stop)

        # Threads cost a third less of the processor than coroutines, which all wake one event loop.
        with ThreadPoolExecutor(max(1, min(MAX_CONCURRENCY, count)), "s3") as threads:
            workers = [threads.submit(work) for _ in range(min(MAX_CONCURRENCY, count))]
            try:
                for done in wait(workers, return_when=FIRST_EXCEPTION).done:
                    done.result()
            finally:
                stop.set()


class _NoBatchesError(Exception):
    """The server does not delete many objects at once."""


@dataclass
class _Refusals:
    """What a server has turned out not to do."""

    batches: bool = False
    """It deletes one object at a time."""


@lru_cache(maxsize=256)
def _refusals(endpoint: str, bucket: str) -> _Refusals:
    return _Refusals()


@contextmanager
def _listable() -> Iterator[None]:
    """Passes over that a listing has keys which the quick client does not understand."""
    import obstore  # noqa: F401
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        if not any(words in str(error) for words in _UNLISTED):
            raise


def _may_go_on(count: int) -> bool:
    """Whether so many keys may be the first of more, rather than all that there are: pages are round."""
    return count > 0 and count % _PAGES_ARE_OF == 0


@lru_cache(maxsize=32)
def _takes_long_parts(store: S3) -> bool:
    """Whether the server takes keys with a part longer than the name of a file.

    AWS does; servers that keep objects as files mostly do not, and nothing but trying tells. Some say so, one
    calls it an error of its own, and one said it had taken the object and had not.
    """
    import obstore
    from obstore.exceptions import BaseError

    # A name of its own: somebody else who tries would delete it in between.
    name = uuid.uuid4().hex.ljust(LONGEST_PART + 1, "n")
    probe, key = store._open("probe"), f"{PROBE_KEY}/{name}"
    with explained(store, "write", PROBE_KEY):
        try:
            obstore.put(probe, key, b"")
            obstore.head(probe, key)
        except FileNotFoundError:
            return False
        except BaseError as error:
            if any(words in str(error) for words in _TOO_LONG):
                return False
            raise
        obstore.delete(probe, [key])
    return True


@lru_cache(maxsize=32)
def _takes_keys_below_objects(store: S3) -> bool:
    """Whether the server keeps `a` and `a/b`, and lists both.

    AWS does. Of servers that keep objects as files some refuse the second, some take it and do not list it.
    """
    import obstore
    from obstore.exceptions import BaseError

    probe, above = store._open("probe"), f"{PROBE_KEY}/{uuid.uuid4().hex}"
    below = f"{above}/below"
    with explained(store, "write", PROBE_KEY):
        obstore.put(probe, above, b"")
        try:
            obstore.put(probe, below, b"")
            obstore.head(probe, below)
            listed = {item["path"] for some in obstore.list(probe, prefix=PROBE_KEY) for item in some}
            return {above, below} <= listed
        except FileNotFoundError:
            return False
        except BaseError as error:
            if any(words in str(error) for words in _PARENT_IS_OBJECT):
                return False
            raise
        finally:
            obstore.delete(probe, [below, above])


class _Ranges(io.RawIOBase):
    """An object as a file that is read in ranges."""

    def __init__(self, store: S3, key: str, size: int) -> None:
        self._store, self._key, self._size = store, key, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        into = memoryview(buffer).cast("B")
        end = min(self._at + len(into), self._size)
        if end <= self._at:
            return 0
        found = self._store.get_range(self._key, self._at, end)
        into[: len(found)] = found
        self._at += len(found)
        return len(found)


def _md5(tag: str | None) -> bytes | None:
    """The MD5 that S3 gives an object for a tag, None for other tags: those of several parts have a dash."""
    text = (tag or "").strip('"')
    return bytes.fromhex(text) if _MD5.fullmatch(text) else None


def _plain(body: Body) -> Body:
    """The same bytes; the client takes a view of signed ones, such as Arrow's, for a list of numbers."""
    return body if isinstance(body, bytes) else body.cast("B")


def _content_type(key: str) -> str:
    """Of what the lake holds."""
    if key.endswith(".json"):
        return "application/json"
    return "application/vnd.apache.parquet" if key.endswith(".parquet") else "application/octet-stream"


def _batched(keys: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(keys), size):
        yield tuple(keys[start : start + size])

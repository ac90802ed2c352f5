"""A bucket on AWS or any S3-compatible server, as a store.

Requests, their retries and time-outs, credentials, and what is said when a server refuses belong here
(for people: `docs/s3.md`). What both kinds of store have in common is in `stores.py`.
"""

from __future__ import annotations

import io
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.http_client import UNTRUSTED, failure
from datacube_assets.kernels.key_safety import (
    LONGEST_KEY,
    LONGEST_PART,
    Keys,
    check_keys,
    key_sizes,
    longest_part,
)
from datacube_assets.settings import aws_environment
from datacube_assets.storage.s3_control import ControlKeys, Listed, RefusedError, has_control
from datacube_assets.storage.stores import (
    LISTING,
    Body,
    Entry,
    MissingObjectError,
    StoreError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer
    from botocore.credentials import Credentials
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Credential, S3Store

T = TypeVar("T")

MAX_CONCURRENCY = 64
"""Requests in flight for batches of objects, in one process and to one server."""
CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=5),
}
"""Limits of one request: to be connected, without any progress, altogether."""
RETRIES: RetryConfig = {
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
    "max_retries": 10,
    "retry_timeout": timedelta(minutes=3),
}
"""Of single requests: what the lake reads and writes, and listings."""
BATCH_RETRIES: RetryConfig = {
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
    "max_retries": 3,
    "retry_timeout": timedelta(minutes=1),
}
"""Of objects in batches, before fewer of them are sent at once and `PATIENCE` begins."""
PATIENCE = 600.0
"""Seconds that one object of a batch is tried for, at most."""
FIRST_PAUSE, LAST_PAUSE = 0.5, 15.0
"""Seconds between its tries: doubled from the first to the last, less a random part."""
ASKED_AGAIN = (0.2, 1.0, 3.0)
"""Pauses in seconds after answers that break off or make no sense, which the client does not repeat."""
PROBE_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=15),
}
PROBE_RETRIES: RetryConfig = {
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=1), "base": 2},
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
}
"""Of `check`, which somebody waits for."""
PROBE_KEY = ".datacube-probe"
"""Written and deleted by `check`; no model has an id that begins with a dot and lacks a run."""
CREDENTIALS_LAST = timedelta(minutes=10)
"""What botocore hands out is good for ten minutes at least; it renews credentials that end sooner."""

_READ_WHOLE, _READ_AHEAD = 16_000_000, 4_000_000
"""Bytes up to which an object is read at once, and how many of a larger one."""
_DELETED_AT_ONCE = 1000
_SETTINGS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_PASSING = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottlingException",
    }
)
"""Codes of errors that go away, which a deletion of many objects tells without a status of its own."""
_BROKEN = ("response body error", "Got invalid ")
"""What the client says of answers that break off, or that nobody can have sent so."""
_UNLISTED = ("invalid path", "Got invalid list response")
"""What the client says of a listing in which a key has control characters."""
_REPLACED = "\ufffd"
"""What some servers write in a listing for a character that XML does not have."""
_TOO_LONG = ("KeyTooLong", "InvalidObjectName", "File name too long", "name too long")
_ELSEWHERE = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
)
_PERMISSIONS = {
    "list": "s3:ListBucket",
    "read": "s3:GetObject",
    "write": "s3:PutObject",
    "delete": "s3:DeleteObject",
}


class BrokenAnswer(StoreUnavailable):
    """The server did what it was asked, or not: its answer broke off or cannot be understood."""


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
        return _s3_store(self.bucket, self.prefix, self.endpoint, kind, aws_environment())

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
                with self._explained(doing, setting=setting):
                    do()

            try:
                _again(asked)
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
            with self._explained("read", key):
                if has_control(key):
                    return self._control.get(key)
                return bytes(obstore.get(self._open(), key).bytes())

        return _again(get)

    def open(self, key: str) -> str | BinaryIO:
        import obstore

        if has_control(key):
            return io.BytesIO(self.get(key))

        def opened() -> BinaryIO:
            with self._explained("read", key):
                size = obstore.head(self._open(), key)["size"]
            if size <= _READ_WHOLE:
                return io.BytesIO(self._whole(key, self.get(key), size))
            return cast(BinaryIO, io.BufferedReader(_Ranges(self, key, size), _READ_AHEAD))

        return _again(opened)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Some bytes of an object, which has so many. Raises MissingObjectError."""
        import obstore

        def get_range() -> bytes:
            with self._explained("read", key):
                found = bytes(obstore.get_range(self._open(), key, start=start, end=end))
            return self._whole(key, found, end - start)

        return _again(get_range)

    def _whole(self, key: str, found: bytes, size: int) -> bytes:
        if len(found) != size:
            raise BrokenAnswer(f"{self.url}, {key}: {len(found):,} bytes came of {size:,}. Try later")
        return found

    def tail(self, key: str, size: int) -> bytes:
        import obstore

        if has_control(key):
            return self.get(key)[-size:]

        def tail() -> bytes:
            with self._explained("read", key):
                return bytes(obstore.get(self._open(), key, options={"range": {"suffix": size}}).bytes())

        return _again(tail)

    def put(self, key: str, body: Body, *, durably: bool = False) -> None:
        import obstore

        check_keys([key])
        with self._explained("write", key):
            if has_control(key):
                return self._control.put(key, bytes(body), _content_type(key))
            obstore.put(self._open(), key, _plain(body), attributes={"Content-Type": _content_type(key)})

    def put_file(self, key: str, path: Path) -> None:
        import obstore

        check_keys([key])
        with self._explained("write", key):
            if has_control(key):
                return self._control.put(key, path.read_bytes(), _content_type(key))
            obstore.put(self._open(), key, path, attributes={"Content-Type": _content_type(key)})

    def storable(self, keys: Keys) -> npt.NDArray[np.bool_]:
        sizes = key_sizes(keys)
        short = sizes + len(self.prefix.encode()) + 1 <= LONGEST_KEY
        for i in np.flatnonzero(short & (sizes > LONGEST_PART)).tolist():
            if longest_part(str(keys[i])) > LONGEST_PART:
                short[i] = _takes_long_parts(self)
        return short

    def put_many(self, keys: Sequence[str], bodies: Iterable[Body], content_type: str) -> None:
        import obstore

        check_keys(keys)
        store, attributes = self._open("batch"), {"Content-Type": content_type}

        def put(item: tuple[str, Body]) -> None:
            with self._explained("write", item[0]):
                if has_control(item[0]):
                    return self._control.put(item[0], bytes(item[1]), content_type)
                obstore.put(store, item[0], _plain(item[1]), attributes=attributes)

        self._each(zip(keys, bodies, strict=True), put, len(keys))

    def sweep(self, keys: Sequence[str], before: float) -> None:
        """Nothing: an object is there whole or not at all."""

    def delete_many(self, keys: Sequence[str]) -> None:
        import obstore

        check_keys(keys)
        store = self._open("batch")

        def delete(some: tuple[str, ...]) -> None:
            try:
                with self._explained("delete", some[0]):
                    if has_control(some[0]):
                        return self._control.delete(some[0])
                    obstore.delete(store, list(some))
            except MissingObjectError:
                pass  # S3 itself passes over what is not there; a server may not.

        alone = [(key,) for key in keys if has_control(key)]
        plain = [key for key in keys if not has_control(key)] if alone else keys
        batches = [*_batched(plain, _DELETED_AT_ONCE), *alone]
        self._each(iter(batches), delete, len(batches))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for item in self._listed(prefix):
            yield item["path"], item["size"]

    def folders(self, prefix: str) -> Sequence[str]:
        import obstore

        def found() -> Sequence[str]:
            with self._explained("list"):
                return obstore.list_with_delimiter(self._open(), prefix or None)["common_prefixes"]

        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in _again(found))

    def listing(self, prefix: str) -> pa.Table:
        items = self._listed(prefix)
        keys, sizes = ([item[name] for item in items] for name in ("path", "size"))
        return pa.table([keys, sizes, [_md5(item["e_tag"]) for item in items]], schema=LISTING)

    def entries(self, prefix: str) -> Iterator[Entry]:
        for item in self._listed(prefix):
            yield Entry(item["path"], item["size"], item["last_modified"].timestamp())

    def _listed(self, prefix: str) -> Sequence[ObjectMeta | Listed]:
        import obstore
        from obstore.exceptions import BaseError

        def listed() -> Sequence[ObjectMeta | Listed]:
            with self._explained("list"):
                try:
                    pages = obstore.list(self._open(), prefix=prefix or None, chunk_size=1000)
                    found: list[ObjectMeta | Listed] = [item for page in pages for item in page]
                    if not any(_REPLACED in item["path"] for item in found):
                        return found
                except BaseError as error:
                    if not any(words in str(error) for words in _UNLISTED):
                        raise
                return list(self._control.list(prefix))

        return _again(listed)

    def _each(self, items: Iterator[T], do: Callable[[T], None], count: int) -> None:
        """Do something with every item, as many at once as the server takes; ends at the first failure."""
        throttle, turn, stop = _throttle(self.endpoint), threading.Lock(), threading.Event()

        def work() -> None:
            while not stop.is_set():
                with turn:
                    item = next(items, None)
                if item is None:
                    return
                throttle.patiently(do, item, stop)

        # Threads cost a third less of the processor than coroutines, which all wake one event loop.
        with ThreadPoolExecutor(max(1, min(MAX_CONCURRENCY, count)), "s3") as threads:
            workers = [threads.submit(work) for _ in range(min(MAX_CONCURRENCY, count))]
            try:
                for done in wait(workers, return_when=FIRST_EXCEPTION).done:
                    done.result()
            finally:
                stop.set()

    @contextmanager
    def _explained(self, doing: str, key: str = "", *, setting: str = "") -> Iterator[None]:
        """Turn what a server refuses into an error for people. Raises MissingObjectError, StoreError."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError, RefusedError) as error:
            # The original goes on for pages, with a server's whole answer in it.
            raise self._failure(error, doing, key, setting) from None

    def _failure(self, error: Exception, doing: str, key: str, setting: str) -> Exception:
        said = str(error)
        code = next((one or other for one, other in _CODE.findall(said)), "")
        status = next((int(number) for number in _STATUS.findall(said)), 0)
        where = self.endpoint or "AWS"
        checking, setting = bool(setting), setting or "the store's address"
        what = self.url + (f", {key}" if key else "")
        if code == "NoSuchBucket":
            return StoreError(
                f"{what}: there is no bucket {self.bucket!r} at {where}. Create it, or correct {setting}"
            )
        if isinstance(error, FileNotFoundError):
            return MissingObjectError(key)
        if code in _REFUSED:
            return StoreError(f"{what}: {where} refuses the credentials ({code}). Correct {_SETTINGS}")
        if code in _ELSEWHERE or "redirect" in said:
            return StoreError(f"{what}: the bucket is in another region. Correct AWS_REGION")
        if code == "RequestTimeTooSkewed":
            return StoreError(f"{what}: the clock of this machine is wrong, says {where}. Set it right")
        if code == "AccessDenied" or status in (401, 403):
            return StoreError(
                f"{what}: the account may not {doing} here ({code or status}). Give it "
                f"{_PERMISSIONS[doing]} for it, correct {setting}, or use another account: {_SETTINGS}"
            )
        if status >= 500 or status in (408, 429) or code in _PASSING:
            answer = f"{status or ''} {code}".strip()
            return StoreUnavailable(f"{what}: {where} answers {answer} again and again. Try later")
        if code == "InvalidRange":
            # The client goes on behind the last byte of an object that was announced as longer.
            return BrokenAnswer(f"{what}: {where} announces more bytes than there are. Try later")
        if status:
            answer = f"{status} {code}".strip()
            # Without a code of S3 it may be any web server.
            other = "" if code else " or DATACUBE_S3_ENDPOINT"
            return StoreError(
                f"{what}: {where} answers {answer} when asked to {doing}. Correct {setting}{other}"
            )
        if "credential" in said.lower():
            return StoreError(
                f"{what}: no credentials can be had: {said.splitlines()[0]}. Correct {_SETTINGS}"
            )
        if any(words in said for words in _BROKEN):
            other = "Correct DATACUBE_S3_ENDPOINT, if that is no server of S3; else try again later"
            return BrokenAnswer(
                f"{what}: the answers of {where} break off or make no sense. "
                + (other if checking and self.endpoint else "Try later")
            )
        if "HTTP error" not in said:
            return StoreError(f"{what}: {where} cannot be understood: {said.splitlines()[0][:500]}")
        if failure(error) == UNTRUSTED:
            return StoreUnavailable(f"{what}: {where} cannot be reached: {UNTRUSTED}")
        correct = "DATACUBE_S3_ENDPOINT" if self.endpoint else "AWS_REGION"
        return StoreUnavailable(
            f"{what}: {where} cannot be reached. Correct {correct}, or see whether the server works"
        )


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


class _Throttle:
    """How many requests a server gets at once: half as many after each failure, then slowly more again."""

    def __init__(self) -> None:
        self.limit = float(MAX_CONCURRENCY)
        self._busy = 0
        self._room = threading.Condition()
        self._slowed = 0.0

    def patiently(self, do: Callable[[T], None], item: T, stop: threading.Event) -> None:
        """Do something with an item as often as it takes, until `PATIENCE` ends. Raises StoreError."""
        end, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        while not stop.is_set():
            try:
                with self._admitted():
                    do(item)
                return
            except StoreUnavailable:
                if time.monotonic() + pause > end:
                    raise
            stop.wait(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LAST_PAUSE)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        with self._room:
            while self._busy >= max(1, int(self.limit)):
                self._room.wait()
            self._busy += 1
        try:
            yield
        except StoreUnavailable:
            self._slow_down()
            raise
        else:
            # One more for every full round of successes.
            self.limit = min(self.limit + 1 / self.limit, float(MAX_CONCURRENCY))
        finally:
            with self._room:
                self._busy -= 1
                self._room.notify()

    def _slow_down(self) -> None:
        with self._room:
            # Requests that were under way together fail together; that is one reason, not many.
            if time.monotonic() - self._slowed > 1:
                self._slowed = time.monotonic()
                self.limit = max(1.0, self.limit / 2)


@lru_cache(maxsize=32)
def _takes_long_parts(store: S3) -> bool:
    """Whether the server takes keys with a part longer than the name of a file.

    AWS does; servers that keep objects as files mostly do not, and nothing but trying tells. Some say so, one
    calls it an error of its own, and one said it had taken the object and had not.
    """
    import obstore
    from obstore.exceptions import BaseError

    probe, key = store._open("probe"), f"{PROBE_KEY}/{'n' * (LONGEST_PART + 1)}"
    with store._explained("write", PROBE_KEY):
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
def _throttle(endpoint: str) -> _Throttle:
    return _Throttle()


class _Botocore:
    """Credentials that botocore finds, renewed when they are used up."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def __call__(self) -> S3Credential:
        # Read before they are renewed: too early an end does no harm.
        end = datetime.now(UTC) + CREDENTIALS_LAST
        now = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": end,
        }


@lru_cache(maxsize=64)
def _s3_store(
    bucket: str, prefix: str, endpoint: str, kind: str, environment: tuple[tuple[str, str], ...]
) -> S3Store:
    """The client of a bucket, shared by all that use it: its connections stay open.

    Raises StoreError when there are no credentials.
    """
    from obstore.store import S3Store

    client, retries = {
        "single": (CLIENT, RETRIES),
        "batch": (CLIENT, BATCH_RETRIES),
        "probe": (PROBE_CLIENT, PROBE_RETRIES),
    }[kind]
    variables = dict(environment)
    # The most specific name for it, or a variable of that name would go before.
    options: dict[str, object] = {"aws_endpoint_url_s3": endpoint} if endpoint else {}
    if not variables.get("AWS_ACCESS_KEY_ID"):
        provider, region = _found_by_botocore(environment)
        options["credential_provider"] = provider
        if region and not variables.get("AWS_REGION"):
            options["region"] = region
    return S3Store(
        bucket,
        prefix=prefix or None,
        virtual_hosted_style_request=False,
        client_options={**client, "allow_http": endpoint.startswith("http://")},
        retry_config=retries,
        **options,  # type: ignore[arg-type]
    )


@lru_cache(maxsize=8)
def _found_by_botocore(environment: tuple[tuple[str, str], ...]) -> tuple[_Botocore, str]:
    """Credentials and region of a profile, a role or the machine (`environment` makes them its own)."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        region = session.get_config_variable("region") or ""
        credentials = session.get_credentials()
    except BotoCoreError as error:
        raise StoreError(f"no credentials for S3 can be had: {error}. Correct {_SETTINGS}") from None
    if credentials is None:
        raise StoreError(f"there are no credentials for S3. Set {_SETTINGS}, or see docs/s3.md")
    return _Botocore(credentials), region


def _md5(tag: str | None) -> bytes | None:
    """The MD5 that S3 gives an object for a tag, None for other tags: those of several parts have a dash."""
    text = (tag or "").strip('"')
    return bytes.fromhex(text) if _MD5.fullmatch(text) else None


def _again(do: Callable[[], T]) -> T:
    """What a single request gives, repeated a few times while its answer is broken. Raises StoreError."""
    for pause in ASKED_AGAIN:
        try:
            return do()
        except BrokenAnswer:
            time.sleep(pause * random.uniform(0.5, 1))
    return do()


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

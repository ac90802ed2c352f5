"""Fetching the Parquet parts of a run from wherever Dojo left them.

Where that may be: docs/specification/dojo-files.md#addresses.

Bytes only: a part is copied to a local file, its size and checksum taken on the way. Here is also
decided which addresses may be asked at all. Which parts to fetch is said by the request; what is in
them is checked by `kernels/parts.py`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import getproxies

import httpx

from datacube_assets.dojo.address_encryption import Seal
from datacube_assets.http_client import (
    UNTRUSTED,
    Overdue,
    RetryPolicy,
    Unavailable,
    failure,
    is_passing,
    open_client,
    overseen,
    retry_after,
)
from datacube_assets.kernels.errors import InputError, shorten
from datacube_assets.kernels.key_safety import UnsafeKeyError, check_keys, has_control
from datacube_assets.redaction import public, redacted, secrets_of

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEMES = frozenset({"https", "http", "s3", "file"})
"""Kinds of addresses that can be read; a plain path counts as `file`."""

_CHUNK = 1 << 20
_GRACE = 2.0
"""Time-outs that an answer may take to begin, and its bytes to gather speed."""
_HOPS = 10
_FOREVER = timedelta(days=30)
_FINAL = "Give the address where the file is in the end"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MISTYPED = re.compile(r"\W*(?!file:)[A-Za-z][A-Za-z0-9+.-]{1,30}:[/\\]", re.DOTALL)
_S3_ADDRESS = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]+)/(.+)", re.IGNORECASE)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
_ISATAP = 0x00005EFE
"""What stands before an address of IPv4 in one of IPv6 that is made of it; a bit tells kinds apart."""
_V4_INSIDE = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "100.64.0.0/10",  # behind a provider's translation; Alibaba's metadata
            "168.63.129.16/32",  # Azure's own services
            "169.254.0.0/16",  # metadata of most clouds
            "192.0.0.0/24",  # protocols; Oracle's metadata
            "192.88.99.0/24",  # relays into IPv6
            "198.18.0.0/15",  # measurements inside
        ),
    )
)
_V6_INSIDE = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocols, Teredo's tunnels among them
            "2001:db8::/32",
            "3fff::/20",  # documentation, as the one above
        ),
    )
)
"""What Python's list of networks, in one version or another, takes for the internet."""
_S3_STATUS = re.compile(r"status code: (\d{3})")
_S3_CODE = re.compile(r"<Code>(\w+)</Code>")
_S3_ARCHIVED = frozenset({"InvalidObjectState"})
_S3_PASSING = frozenset({"OperationAborted", "RequestTimeout"})
"""Codes that come with a status which does not say that it may pass."""
_S3_REFUSED = frozenset({"InvalidAccessKeyId", "RequestTimeTooSkewed", "SignatureDoesNotMatch"})
"""Codes with the status of what may not be read, about the account or the machine and not about the file."""
_S3_ELSEWHERE = "redirect without LOCATION"

Pieces = Generator[bytes, None, None]


class FetchError(RuntimeError):
    """A part that could not be had just now, also after the retries; nothing is wrong with the input."""


@dataclass(frozen=True)
class Source:
    """From where parts may be fetched, and how patiently."""

    s3_endpoint: str = ""
    """Address of an S3-compatible server; empty for AWS. Credentials come from the usual `AWS_*`."""
    allowed_schemes: frozenset[str] = SCHEMES
    """Kinds of addresses that may be read, some of `SCHEMES`; redirects included."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts (of `s3://` addresses: buckets) that may be read; `*.suffix` is all below. Empty: any."""
    guarded: bool = False
    """Whether addresses come from people whom this machine need not trust: then internal addresses, and
    buckets, are read only where `allowed_hosts` names them."""
    seal: Seal = field(default_factory=Seal)
    """Opens what is sealed in addresses."""
    timeout: float = 60.0
    """Seconds without any progress."""
    slowest: float = 20_000.0
    """Bytes a second that have to come on average, but for the first while."""
    max_bytes: int | None = None
    """Size beyond which a part is refused."""
    retries: RetryPolicy = field(default_factory=RetryPolicy)

    def names(self, host: str) -> bool:
        """Whether the list of hosts has this one itself, and not only a domain it is in."""
        return any(_is_at(host, entry) for entry in self.allowed_hosts if not entry.startswith("*"))


ANYWHERE = Source()


@dataclass(frozen=True)
class FetchedPart:
    """A part as it came."""

    address: str
    """Without credentials: it may be shown."""
    size: int
    sha256: str


def fetch(address: str, target: Path, source: Source = ANYWHERE) -> FetchedPart:
    """Copy a part to a local file; every attempt starts from its first byte, a failed one leaves no file.

    Raises InputError when there is no such part or it may not be read, FetchError when retries did not help.
    """
    retrying = source.retries.retrying()
    address = source.seal.open(address)
    try:
        return retrying(_fetch_once, address, target, source)
    except Unavailable as error:
        tries = retrying.statistics["attempt_number"]
        raise FetchError(
            f"{error}, tried {'once' if tries == 1 else f'{tries} times'}. "
            "Materialize it again later; if it stays so, see whether the server works"
        ) from error


def check_address(address: str, source: Source = ANYWHERE) -> None:
    """Refuse an address that `fetch` would refuse without asking anybody. Raises InputError."""
    address = source.seal.open(address)
    scheme = _scheme(address)
    if scheme == "s3":
        host, _ = _bucket_and_key(address)
    elif scheme == "file":
        _local_path(address)
        host = ""
    else:
        host = _web_url(address).raw_host.decode()
    _admit(public(address), scheme, host, source)


def _scheme(address: str) -> str:
    url = _SCHEME.match(address)
    if url is None and _MISTYPED.match(address):
        raise InputError(
            "it is no address: something stands before it, or its slashes are not two",
            file=public(address),
            remedy="Give it as https://host/path, with nothing before it",
        )
    scheme = url[1].lower() if url else "file"
    if scheme not in SCHEMES:
        raise InputError(
            f"addresses of the kind {scheme}:// cannot be read",
            file=public(address),
            remedy="Give an address of the kind https://, s3:// or file://, or a path",
        )
    return scheme


def _fetch_once(address: str, target: Path, source: Source) -> FetchedPart:
    checksum, size = hashlib.sha256(), 0
    with target.open("wb") as sink, closing(_pieces(address, source)) as pieces:
        try:
            for piece in pieces:
                checksum.update(piece)
                size += sink.write(piece)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return FetchedPart(public(address), size, checksum.hexdigest())


def _pieces(address: str, source: Source) -> Pieces:
    """The bytes behind an address, once. Raises InputError, and Unavailable when it may help to try again."""
    read = {"s3": _from_s3, "file": _from_disk}.get(_scheme(address), _from_web)
    yield from read(address, source)


def _from_web(address: str, source: Source) -> Pieces:
    # The bytes are wanted as they are stored. Objects named .gzip are at times served with a
    # Content-Encoding that is not true: neither is an encoding asked for, nor is one undone.
    headers = {"Accept-Encoding": "identity"}
    shown = public(address)
    url = _web_url(address)
    try:
        timeout = httpx.Timeout(source.timeout, connect=_patience(source))
        until = time.monotonic() + _GRACE * source.timeout
        with open_client(timeout=timeout) as http:
            guard = _Guard(source)
            hop = http.build_request("GET", url, headers=headers, extensions={"trace": guard})
            for _ in range(_HOPS):
                host = hop.url.raw_host.decode()
                _admit(shown, hop.url.scheme, host, source)
                with overseen(until - time.monotonic()) as oversight:
                    guard.expect(shown, host, oversight)
                    begun = http.send(hop, stream=True)
                with closing(begun) as answer:
                    if answer.next_request is None:
                        _check_status(shown, answer)
                        length = answer.headers.get("Content-Length")
                        yield from _measured(shown, answer.iter_raw(), length and int(length), source)
                        return
                    hop = answer.next_request
                    shown = f"{public(address)}, redirected to {public(str(hop.url))}"
    except Overdue as error:
        # Asked again at once it would be no quicker: the step is repeated later.
        raise Unavailable(f"file {shown}: {error}", retry_after=math.inf) from None
    except httpx.UnsupportedProtocol:
        raise InputError("it does not lead to http:// or https://", file=shown, remedy=_FINAL) from None
    except httpx.RequestError as error:
        # Not as its cause, which repeats what the server sent.
        raise Unavailable(f"file {shown}: {_of_address(failure(error), address)}") from None
    raise InputError(f"it redirects more than {_HOPS} times", file=public(address), remedy=_FINAL)


class _Guard:
    """Refuses internal addresses when they are connected to, before anything is sent.

    However the number of a host is written and wherever its name leads by now: what counts is where the
    connection goes. A proxy that the environment names is not ours to judge, nor where it goes from there.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._oversight: Callable[[str, Mapping[str, Any]], None] = lambda *_: None
        self._shown = self._host = ""
        self._direct = True

    def expect(self, shown: str, host: str, oversight: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Say which host is asked next, how its address is shown, and who else has to know of connections."""
        self._shown, self._host, self._oversight = shown, host, oversight

    def __call__(self, event: str, info: dict[str, Any]) -> None:
        """What httpcore calls as it goes along. Raises InputError."""
        self._oversight(event, info)
        if event == "connection.connect_tcp.started":
            self._direct = info["host"] == self._host or not getproxies()
        elif event == "connection.connect_tcp.complete" and self._source.guarded and self._direct:
            peer = info["return_value"].get_extra_info("server_addr")[0]
            if not is_public(peer) and not self._source.names(self._host):
                info["return_value"].close()
                raise InputError(
                    f"the host {self._host} leads to the internal address {peer}",
                    file=self._shown,
                    remedy="Move the file, or name the host in DATACUBE_SOURCE_HOSTS",
                )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, and not of a machine, a network or a cloud's inside."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv4Address):
        return _is_public_v4(number)
    if number.ipv4_mapped:
        return _is_public_v4(number.ipv4_mapped)
    low = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    if number in _NAT64:
        return _is_public_v4(low)
    # Nothing else is routed in the internet: neither what is local, in whichever way, nor old forms of IPv4.
    if number not in _UNICAST or not number.is_global or any(number in network for network in _V6_INSIDE):
        return False
    within = [number.sixtofour] if number.sixtofour else []
    if (int(number) >> 32) & 0xFDFFFFFF == _ISATAP:
        within.append(low)
    return all(map(_is_public_v4, within))


def _is_public_v4(number: ipaddress.IPv4Address) -> bool:
    return (
        number.is_global
        and not number.is_multicast
        and not number.is_reserved
        and not any(number in network for network in _V4_INSIDE)
    )


def _of_address(said: str, address: str) -> str:
    """What was said, without the secrets of the address that was asked."""
    return redacted(said, *secrets_of(address))


def _web_url(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:  # its text may hold a part of the password
        url = httpx.URL("")
    if not url.host:
        raise InputError("it is no address", file=public(address), remedy="Give it as https://host/path")
    return url


def _check_status(shown: str, answer: httpx.Response) -> None:
    status = answer.status_code
    if is_passing(status):
        raise Unavailable(f"file {shown}: the server answered {status}", retry_after(answer))
    if status in (404, 410):
        raise _gone(shown)
    if status in (401, 403):
        raise _forbidden(shown)
    if status != 200:
        raise InputError(f"the server answered {status}", file=shown, remedy="Check the address")


def _from_s3(address: str, source: Source) -> Pieces:
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    shown = public(address)
    bucket, key = _bucket_and_key(address)
    _admit(shown, "s3", bucket, source)
    try:
        answer = obstore.get(_s3_store(bucket, source), key)
        # As they come: what is gathered first could come for ever.
        pieces = map(bytes, answer.stream(min_chunk_size=1))
        yield from _measured(shown, pieces, answer.meta["size"], source)
    except (BaseError, FileNotFoundError) as error:
        # Its text goes on for pages, with what the server was sent in it, the token of a session included.
        said = str(error).partition("\n")[0].partition("<")[0]
        status, named = _S3_STATUS.search(said), _S3_CODE.search(str(error))
        code = named[1] if named else ""
        if isinstance(error, FileNotFoundError) and not code:
            # Of a proxy whose server is away just now, say.
            raise Unavailable(f"file {shown}: 404 was answered, and not by a server of S3") from None
        if code == "NoSuchBucket":
            raise InputError(
                f"there is no bucket {bucket}",
                file=shown,
                remedy="Correct data_paths or DATACUBE_S3_ENDPOINT",
            ) from None
        if isinstance(error, FileNotFoundError):
            raise _gone(shown) from None
        if code in _S3_ARCHIVED:
            raise InputError(
                f"the file is archived, as in Glacier, and cannot be read ({code})",
                file=shown,
                remedy="Restore it, and let the run be processed again",
            ) from None
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) and code not in _S3_REFUSED:
            raise _forbidden(shown) from None
        if _S3_ELSEWHERE in said or (status and not is_passing(int(status[1])) and code not in _S3_PASSING):
            why = f"{code}: {said}" if code else said
            raise InputError(
                f"S3 refused it: {shorten(why, 300)}",
                file=shown,
                remedy="Check the address and the settings AWS_* and DATACUBE_S3_ENDPOINT",
            ) from None
        told = UNTRUSTED if failure(error) == UNTRUSTED else shorten(said, 300)
        raise Unavailable(f"file {shown}: {told}") from None


def _bucket_and_key(address: str) -> tuple[str, str]:
    parts = _S3_ADDRESS.fullmatch(address)
    try:
        if parts:
            check_keys([parts[2]])
            if has_control(parts[2]):
                raise UnsafeKeyError(parts[2])
            return parts[1], parts[2]
    except UnsafeKeyError:
        pass
    raise InputError(
        "it is no address of an S3 object",
        file=public(address),
        remedy="Give it as s3://bucket/key; credentials belong into the settings AWS_*",
    )


def _s3_store(bucket: str, source: Source) -> S3Store:
    from obstore.store import S3Store

    # The most specific name for it, or a variable of that name would go before.
    options: dict[str, object] = {"aws_endpoint_url_s3": source.s3_endpoint} if source.s3_endpoint else {}
    return S3Store(
        bucket,
        virtual_hosted_style_request=False,
        # The client's own limit is on the whole transfer, its own retries resume in the middle.
        client_options={
            "allow_http": source.s3_endpoint.lower().startswith("http://"),
            "connect_timeout": timedelta(seconds=_patience(source)),
            "read_timeout": timedelta(seconds=source.timeout),
            "timeout": _FOREVER,
        },
        retry_config={"max_retries": 0},
        **options,  # type: ignore[arg-type]
    )


def _from_disk(address: str, source: Source) -> Pieces:
    shown = public(address)
    _admit(shown, "file", "", source)
    path = _local_path(address)
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
        file = path.open("rb") if is_file else None
    except (OSError, ValueError) as error:
        raise InputError(
            f"the file cannot be opened: {getattr(error, 'strerror', None) or error}",
            file=shown,
            remedy="Check the path and who may read it",
        ) from error
    if file is None:
        raise InputError("it is a folder or a device", file=shown, remedy="Give the path of a file")
    with file:
        try:
            size = os.fstat(file.fileno()).st_size
            yield from _measured(shown, iter(partial(file.read, _CHUNK), b""), size, source)
        except OSError as error:
            raise Unavailable(f"file {shown}: {error.strerror}") from error


def _local_path(address: str) -> Path:
    if not _SCHEME.match(address):
        return Path(address)
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise InputError(
            "files of other machines cannot be read",
            file=public(address),
            remedy="Give it as file:///folder/file, with three slashes",
        )
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


def _admit(shown: str, scheme: str, host: str, source: Source) -> None:
    """Refuse what is not on the allow-lists. Raises InputError."""
    if scheme not in source.allowed_schemes:
        what = "local files" if scheme == "file" else f"addresses of the kind {scheme}://"
        raise InputError(
            f"{what} may not be read here",
            file=shown,
            remedy="Move the file, or allow them in DATACUBE_SOURCE_SCHEMES"
            + (" (local files: in development only)" if scheme == "file" else ""),
        )
    if host and source.allowed_hosts and not any(_is_at(host, entry) for entry in source.allowed_hosts):
        raise InputError(
            f"the host {host} is not one of those that may be read",
            file=shown,
            remedy="Move the file, or allow the host in DATACUBE_SOURCE_HOSTS",
        )
    if scheme == "s3" and source.guarded and not source.names(host):
        # They are read by our account, which may read more than whoever wrote the address.
        raise InputError(
            f"the bucket {host} is not one of those that may be read",
            file=shown,
            remedy="Move the file, or name the bucket in DATACUBE_SOURCE_HOSTS",
        )


def _is_at(host: str, entry: str) -> bool:
    host, entry = host.lower().rstrip("."), entry.lower().strip("[]")
    return host.endswith(entry[1:]) if entry.startswith("*.") else host == entry


def _patience(source: Source) -> float:
    """Seconds for a connection to be made: a server that is there accepts it at once."""
    return min(source.timeout, 10.0)


def _measured(shown: str, pieces: Iterable[bytes], expected: int | None, source: Source) -> Pieces:
    """The same pieces, refused when they are too many altogether or not as many bytes as announced, and
    given up when they come so slowly that the run had better make place for another."""
    limit, size, start = source.max_bytes, 0, time.monotonic()
    for piece in pieces:
        size += len(piece)
        if limit is not None and max(size, expected or 0) > limit:
            raise InputError(
                f"the file is larger than {limit:,} bytes",
                file=shown,
                remedy="Divide it into several parts, or raise DATACUBE_MAX_PART_BYTES",
            )
        late = time.monotonic() - start - _GRACE * source.timeout
        if late > 0 and size < late * source.slowest:
            raise Unavailable(
                f"file {shown}: only {size:,} bytes came in {late + _GRACE * source.timeout:,.0f} s",
                # Asked again at once it would be no quicker: the step is repeated later.
                retry_after=math.inf,
            )
        yield piece
    if expected is not None and size != expected:
        raise Unavailable(f"file {shown}: {size:,} bytes came of {expected:,} announced")


def _gone(shown: str) -> InputError:
    return InputError(
        "the file is not there (404)",
        file=shown,
        remedy="Let Dojo run the model again, or correct data_paths",
    )


def _forbidden(shown: str) -> InputError:
    return InputError(
        "the file may not be read (403)",
        file=shown,
        remedy="Make it readable, for S3 by the account of the settings AWS_*; "
        "a signed address may have expired, and S3 can mean that the file is not there",
    )

"""What the clients of HTTP services share: connections, what may be shown, and when to ask again.

What is asked for, and what follows from an answer, is the clients' own business: `dojo/client.py`,
`dojo/fetch.py`, `causemos/client.py`. What the simulators of these services share is
`development/simulator_http.py`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from datacube_assets.redaction import beginning, keep_secret, redacted, secrets_of

_log = logging.getLogger(__name__)
# At its finest it repeats whatever bytes came, of which nobody knows what they are.
logging.getLogger("httpcore").setLevel(logging.INFO)

UNTRUSTED = "its certificate is not trusted. Name its authority in SSL_CERT_FILE"

_LONGEST_SAID = 300
"""Characters of an answer that are repeated in a message of ours."""


class Unavailable(Exception):
    """No answer that counts, though asking again may bring one: a lost connection, a time-out, 429, 5xx."""

    def __init__(self, problem: str, retry_after: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after = retry_after
        """Seconds the service asked us to wait; None when it did not say."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently to ask again: waits double from the first to the longest, plus jitter."""

    attempts: int = 4
    """The first try included."""
    first_wait: float = 0.5
    """Seconds; also the most that jitter adds."""
    longest_wait: float = 8.0
    """Seconds; a Retry-After beyond it ends the retries at once, as asking earlier would be rude."""

    def retrying(self) -> Retrying:
        """The policy as a caller of functions that may raise `Unavailable`."""
        return Retrying(
            stop=stop_after_attempt(self.attempts),
            retry=retry_if_exception(self._is_worth_a_retry),
            wait=self._wait,
            before_sleep=before_sleep_log(_log, logging.INFO),
            reraise=True,
        )

    def _is_worth_a_retry(self, error: BaseException) -> bool:
        return isinstance(error, Unavailable) and (error.retry_after or 0) <= self.longest_wait

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_for = error.retry_after if isinstance(error, Unavailable) else None
        backoff = wait_exponential(multiplier=self.first_wait, max=self.longest_wait)
        return max(asked_for or 0.0, backoff(state)) + wait_random(0, self.first_wait)(state)


class ServiceClient:
    """A service at a base URL, and its connections. May be shared between threads."""

    def __init__(
        self,
        base_url: str,
        username: str,
        password: str,
        *,
        timeout: float,
        total: float,
        seconds: float = math.inf,
        follow_redirects: bool = False,
    ) -> None:
        """`timeout`: seconds without any progress; `total`: of one call; `seconds`: of all calls together.

        Raises ValueError when the base URL is none, or carries credentials.
        """
        self._base_url = plain_url(base_url)
        keep_secret(pairs=[(username, password)])
        self._total = total
        self._until = time.monotonic() + seconds
        self._http = open_client(
            auth=(username, password) if username else None,
            timeout=timeout,
            follow_redirects=follow_redirects,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def _call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request and its whole answer. Raises httpx.RequestError, after the time for it as well."""
        left = self._until - time.monotonic()
        with overseen(min(self._total, left)) as oversight:
            return self._http.request(
                method, f"{self._base_url}/{path}", extensions={"trace": oversight}, **more
            )

    @property
    def _time_is_over(self) -> bool:
        """Whether no further call can be made."""
        return time.monotonic() >= self._until

    def _shown(self, said: str) -> str:
        """The beginning of what the service said, without secrets."""
        return beginning(said, _LONGEST_SAID)


class Overdue(httpx.TimeoutException):
    """The time for a call was over before its answer was whole, however busily it came in small pieces."""


class _Oversight:
    """Knows the connections that a call makes, and cuts them off when its time is over.

    Time-outs of HTTP clients begin anew with each byte. A call is given a connection of its own, as what
    happens on one that was there before is told to nobody.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpcore calls as it goes along."""
        if event == "connection.connect_tcp.complete":
            # A second handle: the first is handed on to TLS, which has yet to begin.
            own = info["return_value"].get_extra_info("socket").dup()
            with self._lock:
                self._sockets.append(own)
            if self.is_over:
                self.end()

    def end(self) -> None:
        with self._lock:
            self.is_over = True
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            for one in self._sockets:
                one.close()
            self._sockets.clear()


@contextlib.contextmanager
def overseen(seconds: float) -> Iterator[_Oversight]:
    """Give a call so many seconds altogether; what comes is to be its `trace`. Raises Overdue."""
    oversight = _Oversight()
    late = Overdue(f"no whole answer within {max(seconds, 0):.3g} s")
    if seconds <= 0:
        raise late
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), oversight.end)
    timer.daemon = True
    timer.start()
    try:
        yield oversight
    except httpx.RequestError:
        if oversight.is_over:
            raise late from None
        raise
    finally:
        timer.cancel()
        oversight.close()
    # What ends with the connection seems whole.
    if oversight.is_over:
        raise late


@cache
def tls() -> ssl.SSLContext:
    """Certificates and all; read once, as that takes longer than fetching a small part."""
    return httpx.create_ssl_context()


def open_client(**options: Any) -> httpx.Client:
    """A client as the environment wants it (proxies, certificates), without connections that are kept."""
    return httpx.Client(
        verify=tls(),
        mounts=_proxies(),
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),
        **options,
    )


def _proxies() -> dict[str, httpx.BaseTransport | None]:
    """The proxies that the environment names, and the hosts that are asked directly.

    httpx reads the same variables, and fails for spellings that other programs take, such as `[::1]`.
    """
    named = getproxies()
    ways: dict[str, httpx.BaseTransport | None] = {}
    for scheme in ("http", "https", "all"):
        if address := named.get(scheme):
            keep_secret(*secrets_of(address))
            proxy = address if "://" in address else f"http://{address}"
            ways[f"{scheme}://"] = httpx.HTTPTransport(proxy=proxy, verify=tls())
    if not ways:
        return {}
    for host in (one.strip() for one in named.get("no", "").split(",")):
        if host == "*":
            return {}
        if host:
            ways[_direct(host)] = None
    return ways


def _direct(host: str) -> str:
    """The pattern of a host of NO_PROXY, with all hosts below it."""
    plain = host.partition("://")[2] or host
    bracketed = re.fullmatch(r"\[([^\]]*)\](:\d+)?", plain)
    address = bracketed[1] if bracketed else plain.partition("/")[0]
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        name = plain.lstrip("*")
        return f"all://{name}" if name.lower() == "localhost" else f"all://*{name}"
    port = bracketed[2] or "" if bracketed else ""
    return f"all://[{number}]{port}" if number.version == 6 else f"all://{number}"


def is_passing(status: int) -> bool:
    """Whether a refusal with this HTTP status may be over when asked again."""
    return status == 429 or status >= 500


def retry_after(response: httpx.Response) -> float | None:
    """Seconds until the service wants to be asked again; the header holds a number of them or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def failure(error: Exception) -> str:
    """What went wrong with a connection, in one line."""
    said = str(error)
    # As OpenSSL says it, and as rustls does, somewhere in pages of text.
    if "CERTIFICATE_VERIFY_FAILED" in said or "InvalidCertificate(" in said:
        return UNTRUSTED
    if isinstance(error, httpx.ProtocolError | httpx.DecodingError):
        # They repeat what came, or what was to be sent.
        return f"{type(error).__name__}: what came is no HTTP"
    return f"{type(error).__name__}: {redacted(said)}"


def plain_url(url: str) -> str:
    """A base URL without slash at the end, safe to be shown.

    Raises ValueError when it is no HTTP address or carries credentials, which would end up in logs.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError("The base URL is no HTTP address: give it as https://host/prefix.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("The base URL is no HTTP address: give it as https://host/prefix.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError(
            "The base URL must hold no more than host and path; user name and password are given separately."
        )
    return url.rstrip("/")

"""What the clients of HTTP services share: connections, what may be shown, and when to ask again.

What is asked for, and what follows from an answer, is the clients' own business: `dojo/client.py`,
`dojo/fetch.py`, `causemos/client.py`. What the simulators of these services share is
`development/simulator_http.py`.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

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

_log = logging.getLogger(__name__)

UNTRUSTED = "its certificate is not trusted. Name its authority in SSL_CERT_FILE"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]*")
_HOST = re.compile(r"([\w.-]*|\[[0-9A-Fa-f:.]+\])(:\d*)?")
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
        self, base_url: str, username: str, password: str, *, timeout: float, follow_redirects: bool = False
    ) -> None:
        """Raises ValueError when the base URL is none, or carries credentials."""
        self._base_url = plain_url(base_url)
        self._credentials = username, password
        self._http = httpx.Client(
            auth=self._credentials if username else None, timeout=timeout, follow_redirects=follow_redirects
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

    def _shown(self, said: str) -> str:
        """The beginning of what the service said, without secrets."""
        return scrubbed(said, *self._credentials)[:_LONGEST_SAID]


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
    return f"{type(error).__name__} {said}"


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


def public(address: str) -> str:
    """An address as it may be shown: user name, password, query and fragment left out; a path as it is."""
    url = _URL.match(address)
    if not url:
        return address
    scheme, authority, path = url.groups()
    host = authority.rpartition("@")[2]
    # A password with an unescaped `/` or `?` ends the authority early: what then stands there is no host.
    return f"{scheme}://{host}{path}" if _HOST.fullmatch(host) else f"{scheme}://..."


def scrubbed(text: str, username: str, password: str) -> str:
    """What a service said, as it may be shown: without our credentials, and its addresses as `public`."""
    for secret in (password, base64.b64encode(f"{username}:{password}".encode()).decode()):
        if password:
            text = text.replace(secret, "...")
    return _ADDRESS.sub(lambda match: public(match[0]), text)


def _without_secrets(record: logging.LogRecord) -> bool:
    """Keep signatures and passwords out of the log, where httpx writes each address it asks for."""
    if isinstance(record.args, tuple):
        record.args = tuple(public(str(arg)) if isinstance(arg, httpx.URL) else arg for arg in record.args)
    return True


logging.getLogger("httpx").addFilter(_without_secrets)

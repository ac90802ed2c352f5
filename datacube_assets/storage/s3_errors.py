"""What a server of S3 refuses, and what is said of it.

Codes and words of servers belong here, and the errors for people that they become. Which of them are worth
another try is decided in `s3_retries.py` and by the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from datacube_assets.http_client import UNTRUSTED, failure
from datacube_assets.storage.s3_control import RefusedError
from datacube_assets.storage.stores import MissingObjectError, StoreError, StoreUnavailable

CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")
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


class Addressed(Protocol):
    """What of a store is named in errors."""

    @property
    def url(self) -> str: ...

    @property
    def bucket(self) -> str: ...

    @property
    def endpoint(self) -> str: ...


@contextmanager
def explained(store: Addressed, doing: str, key: str = "", *, setting: str = "") -> Iterator[None]:
    """Turn what a server refuses into an error for people. Raises MissingObjectError, StoreError."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, RefusedError) as error:
        # The original goes on for pages, with a server's whole answer in it.
        raise _failure(store, error, doing, key, setting) from None


def _failure(store: Addressed, error: Exception, doing: str, key: str, setting: str) -> Exception:
    said = str(error)
    code = next((one or other for one, other in _CODE.findall(said)), "")
    status = next((int(number) for number in _STATUS.findall(said)), 0)
    where = store.endpoint or "AWS"
    checking, setting = bool(setting), setting or "the store's address"
    what = store.url + (f", {key}" if key else "")
    if code == "NoSuchBucket":
        return StoreError(
            f"{what}: there is no bucket {store.bucket!r} at {where}. Create it, or correct {setting}"
        )
    if isinstance(error, FileNotFoundError):
        return MissingObjectError(key)
    if code in _REFUSED:
        return StoreError(f"{what}: {where} refuses the credentials ({code}). Correct {CREDENTIALS}")
    if code in _ELSEWHERE or "redirect" in said:
        return StoreError(f"{what}: the bucket is in another region. Correct AWS_REGION")
    if code == "RequestTimeTooSkewed":
        return StoreError(f"{what}: the clock of this machine is wrong, says {where}. Set it right")
    if code == "AccessDenied" or status in (401, 403):
        return StoreError(
            f"{what}: the account may not {doing} here ({code or status}). Give it "
            f"{_PERMISSIONS[doing]} for it, correct {setting}, or use another account: {CREDENTIALS}"
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
        return StoreError(f"{what}: {where} answers {answer} when asked to {doing}. Correct {setting}{other}")
    if "credential" in said.lower():
        return StoreError(f"{what}: no credentials can be had: {said.splitlines()[0]}. Correct {CREDENTIALS}")
    if any(words in said for words in _BROKEN):
        other = "Correct DATACUBE_S3_ENDPOINT, if that is no server of S3; else try again later"
        return BrokenAnswer(
            f"{what}: the answers of {where} break off or make no sense. "
            + (other if checking and store.endpoint else "Try later")
        )
    if "HTTP error" not in said:
        return StoreError(f"{what}: {where} cannot be understood: {said.splitlines()[0][:500]}")
    if failure(error) == UNTRUSTED:
        return StoreUnavailable(f"{what}: {where} cannot be reached: {UNTRUSTED}")
    correct = "DATACUBE_S3_ENDPOINT" if store.endpoint else "AWS_REGION"
    return StoreUnavailable(
        f"{what}: {where} cannot be reached. Correct {correct}, or see whether the server works"
    )

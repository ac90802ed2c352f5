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
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottlingException",
    }
)
"""Codes of errors that go away, which a deletion of many objects tells without a status of its own. An upload
in parts that is not there any more was cleared away by somebody: the object is sent again."""
_FULL = frozenset(
    {"QuotaExceeded", "StorageFull", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"},
)
_UNKNOWN = frozenset({"MethodNotAllowed", "NotImplemented"})
_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")
"""What AWS says is missing, which need not be of S3: a key of KMS, for instance."""
_WANTS_CHECKSUM = "x-amz-checksum-"
_NO_PLACE = "redirect without LOCATION"
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


class ForeignAnswer(BrokenAnswer):
    """Something else than S3 says that there is nothing here, or S3 in an answer without a text."""


class RefusedFormError(StoreError):
    """The server does not take what it was asked in this form; in another it may."""


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
    # First: while another thread is importing it, its errors are not to be found.
    import obstore  # noqa: F401
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, RefusedError) as error:
        # The original goes on for pages, with a server's whole answer in it.
        raise _failure(store, error, doing, key, setting) from None
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        # The client gives up where an answer is not about what was asked.
        raise RefusedFormError(
            f"{store.url}: {_place(store)} answers nonsense when asked to {doing}"
        ) from None


def _place(store: Addressed) -> str:
    return store.endpoint or "AWS"


def _failure(store: Addressed, error: Exception, doing: str, key: str, setting: str) -> Exception:
    said = str(error)
    code = next((one or other for one, other in _CODE.findall(said)), "")
    status = next((int(number) for number in _STATUS.findall(said)), 0)
    where = _place(store)
    checking, setting = bool(setting), setting or "the store's address"
    what = store.url + (f", {key}" if key else "")
    if code == "NoSuchBucket":
        return StoreError(
            f"{what}: there is no bucket {store.bucket!r} at {where}. Create it, or correct {setting}"
        )
    if code == "NoSuchKey" or (code and doing == "read" and isinstance(error, FileNotFoundError)):
        return MissingObjectError(key)
    if status == 404 and not code and not checking:
        # Of a proxy whose server is away just now, say; taken for a missing object, it would be lost.
        return ForeignAnswer(
            f"{what}: {where} answers 404, and not as S3 does where something is missing. See what stands "
            "before the server, or try later"
        )
    if code in _REFUSED:
        return StoreError(f"{what}: {where} refuses the credentials ({code}). Correct {CREDENTIALS}")
    if code in _ELSEWHERE or _NO_PLACE in said:
        return StoreError(f"{what}: the bucket is in another region. Correct AWS_REGION")
    if code == "RequestTimeTooSkewed":
        return StoreError(f"{what}: the clock of this machine is wrong, says {where}. Set it right")
    if code == "InvalidObjectState":
        return StoreError(
            f"{what}: it is archived, as in Glacier, and cannot be read ({code}). Restore it, and except it "
            "from the rule of the bucket that archives"
        )
    if code in _FULL:
        return StoreUnavailable(f"{what}: {where} has no room left ({code}). Make room, or raise the quota")
    if code == "AccessDenied" or status in (401, 403):
        return StoreError(f"{what}: {_forbidden(said, doing, code, status, setting)}")
    if status == 413:
        return RefusedFormError(
            f"{what}: {where} answers 413: it, or a proxy before it, takes no request of that size. "
            "Have it take 10 MB (nginx: client_max_body_size)"
        )
    if _WANTS_CHECKSUM in said and status == 400:
        return StoreError(
            f"{what}: {where} wants a checksum with what is written, as for Object Lock ({code}). "
            "Set AWS_CHECKSUM_ALGORITHM=SHA256"
        )
    if status == 501 or code in _UNKNOWN:
        answer = f"{status or ''} {code}".strip()
        return RefusedFormError(f"{what}: {where} answers {answer}: it does not know how to {doing} this")
    if status >= 500 or status in (408, 429) or code in _PASSING:
        answer = f"{status or ''} {code}".strip()
        return StoreUnavailable(f"{what}: {where} answers {answer} again and again. Try later")
    if code == "InvalidRange":
        # The client goes on behind the last byte of an object that was announced as longer.
        return BrokenAnswer(f"{what}: {where} announces more bytes than there are. Try later")
    if status or code:
        answer = f"{status or ''} {code}".strip()
        # Without a code of S3 it may be any web server.
        other = "" if code else " or DATACUBE_S3_ENDPOINT"
        return RefusedFormError(
            f"{what}: {where} answers {answer} when asked to {doing}. Correct {setting}{other}"
        )
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


def _forbidden(said: str, doing: str, code: str, status: int, setting: str) -> str:
    named = _ACTION.search(said)
    permission = named[1] if named else _PERMISSIONS[doing]
    if doing == "read" and not named:
        permission += " and s3:ListBucket (without which S3 also answers so where there is no such object)"
    before = "" if code else ", see whether a proxy before the server refuses it (it is no answer of S3)"
    return (
        f"the account may not {doing} here ({code or status}). Give it {permission} for it, correct "
        f"{setting}{before}, or use another account: {CREDENTIALS}"
    )

"""What may be shown of an address, and of any text: the one gate through which texts leave.

Whatever is logged, kept or answered and was not made of our own words alone goes through `redacted`, and an
address that somebody gave through `public`. Secrets of settings are named once, by `keep_secret`. What is
done with an address that may not be kept as it is belongs to `dojo/address_encryption.py`.

A text is read once from left to right: nothing that others wrote takes longer than its length deserves.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "..."
_SHORTEST = 4
"""Letters of a secret that is looked for: a shorter one is in every other text."""

# What people type, or a program pastes, before an address: spaces, quotes, marks that nobody sees.
_BEFORE = "\"'`<>()[]{}«»“”‘’ \t\r\n\v\f\0\u00a0\u200b\u200c\u200d\u2060\ufeff"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})(:[/\\]+)([^/\\?#]*)([^?#]*)", re.DOTALL)
# Up to the next space: quotes may be in what is secret.
_ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}:[/\\][^\s<>]*")
_ENCODED = re.compile(
    r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,30}%3a%2f%2f(?:(?!%3f|%23|%40)[^\s\"'<>])*)[^\s\"'<>]*"
)
_HOST = re.compile(r"([\w.-]*|\[[0-9A-Fa-f:.]+\])(:\d*)?")
_CUT = re.compile(r"[?#？]|%3[fF]")
"""Where what follows a path begins, however it is written."""
_QUESTION = re.compile(r"[?？]|%3[fF]")
_QUERY = re.compile(r"\?[^\s\"'<>?=]{0,200}=[^\s<>]*")
_HEADER = re.compile(
    r"(?i)(authorization[\"']?\s{0,5}[:=,]\s{0,5}b?[\"']?)(?:[\w-]{1,40}\s{1,5})?[^\s\"'<>,;]+"
)
_TOKEN = re.compile(r"(?i)\b(basic|bearer|negotiate)(\s{1,5})[A-Za-z0-9+/_~.=-]{12,}")
_PARAMETER = re.compile(
    r"(?i)(?<![a-z])(x-(?:amz|goog|ms)-[a-z0-9-]{1,60}[\"']?\s{0,5}(?:=|%3d|[:,]\s{0,5}b?[\"']?)"
    r"|(?:awsaccesskeyid|signature|credential|sig|access_?token|auth_?token|token|passwo?r?d|pwd"
    r"|secret|client_?secret|api_?key)(?:=|%3d))[^\s&\"'<>,;]+"
)

_secrets: dict[str, None] = {}
_lock = threading.Lock()


def keep_secret(*values: str, pairs: Iterable[tuple[str, str]] = ()) -> None:
    """Have these left out of every text from now on; of `pairs`, user and password, what is sent, too."""
    every = [value for value in values if value]
    for username, password in pairs:
        if password:
            every += [password, base64.b64encode(f"{username}:{password}".encode()).decode()]
    forms = {form for value in every for form in (value, quote(value, safe=""), quote_plus(value))}
    with _lock:
        _secrets.update(dict.fromkeys(form for form in forms if len(form) >= _SHORTEST))


def redacted(text: str, *secrets: str) -> str:
    """A text as it may be shown: without these secrets and those that are known, credentials, and what
    follows the path of an address."""
    known = {*_secrets, *(secret for secret in secrets if len(secret) >= _SHORTEST)}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    low = text.lower()
    # Most texts have none of this, and there may be thousands of them.
    if "authorization" in low:
        text = _HEADER.sub(rf"\1{HIDDEN}", text)
    if any(word in low for word in ("basic", "bearer", "negotiate")):
        text = _TOKEN.sub(rf"\1\2{HIDDEN}", text)
    if ":/" in text or ":\\" in text:
        text = _ADDRESS.sub(_in_a_sentence, text)
    if "%3a" in low:
        text = _ENCODED.sub(r"\1", text)
    if "?" in text:
        text = _QUERY.sub("", text)
    if "=" in text or "%3d" in low or "x-" in low:
        text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return text


def _in_a_sentence(found: re.Match[str]) -> str:
    """An address as it may be shown, and what ends the sentence or clause that it stands in."""
    # Three dots stand for what is hidden, and belong to the address.
    address = found[0] if found[0].endswith(HIDDEN) else found[0].rstrip(".,;:")
    return public(address) + found[0][len(address) :]


def beginning(text: str, length: int) -> str:
    """The beginning of a text as it may be shown, of at most so many letters."""
    # Not in the middle of a word: half a secret is not known.
    some = text if len(text) <= 8 * length else text[: 8 * length].rpartition(" ")[0]
    return redacted(some)[:length]


def redacted_all(value: Any) -> Any:
    """The same of every text in a JSON document, names of fields excepted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: redacted_all(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_all(part) for part in value]
    return value


def public(address: str) -> str:
    """An address as it may be shown: user name, password, query and fragment left out; a path as it is.

    It is taken for an address however it was mistyped: with something before it, a single or another slash,
    without scheme. What is plainly a path of files stays as it is.
    """
    url = _URL.match(address.lstrip(_BEFORE))
    if url is None:
        return _without_scheme(address)
    scheme, slashes, authority, path = url.groups()
    if scheme.lower() == "file" and len(slashes) > len("://"):
        return f"{scheme}{slashes}{authority}{_plain(path)}"
    host = authority.rpartition("@")[2]
    # A password with an unescaped `/` or `?` ends the authority early: what then stands there is no host.
    is_host = _HOST.fullmatch(host) and not (":" in authority and "@" not in authority and "@" in path)
    return f"{scheme}{slashes}{host}{_plain(path)}" if is_host else f"{scheme}{slashes}{HIDDEN}"


def _without_scheme(address: str) -> str:
    """An address without scheme at its beginning, or a path."""
    before, question, _ = address.partition("?")
    is_path = address.startswith(("/", ".")) and not address.startswith("//")
    is_name = bool(question) and not any(sign in before for sign in "/\\:@")
    if (is_path or is_name) and not _QUERY.search(address):
        return address
    cut = _QUESTION.split(_ADDRESS.sub(lambda found: public(found[0]), address), maxsplit=1)[0]
    before, at, host = cut.rpartition("@")
    # As in `ann:password@host/path`; an `@` in the path of a bucket's key has no colon before it.
    shown = f"{HIDDEN}@{host}" if at and ":" in before else cut
    return _PARAMETER.sub(rf"\1{HIDDEN}", shown)


def _plain(path: str) -> str:
    return _PARAMETER.sub(rf"\1{HIDDEN}", _CUT.split(path, maxsplit=1)[0])


# --- errors and logs -----------------------------------------------------------------------------------


def secrets_of(address: str) -> tuple[str, ...]:
    """What is secret in an address, piece by piece, so that it can be left out of what others say of it."""
    _, _, rest = address.partition(":")
    userinfo = rest.lstrip("/\\").partition("@")[0] if "@" in rest else ""
    query = "".join(_CUT.split(rest, maxsplit=1)[1:])
    pieces = [*re.split(r"[:/\\?#]", userinfo), *re.split(r"[&=;?#]", query), query]
    return tuple(dict.fromkeys(piece for piece in pieces if len(piece) >= _SHORTEST))


@contextlib.contextmanager
def redacting() -> Iterator[None]:
    """Let errors pass as they may be shown, and whatever they were caused by."""
    try:
        yield
    except Exception as error:
        redact_error(error)
        raise


def redact_error(error: BaseException) -> None:
    """Make an error, and the errors that led to it, say no more than may be shown."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        said = _said(one)
        if said != redacted(said):
            one.args = tuple(redacted(arg) if isinstance(arg, str) else arg for arg in one.args)
            for name, value in vars(one).items():
                if isinstance(value, str):
                    with contextlib.suppress(AttributeError):
                        setattr(one, name, redacted(value))
        for name in ("__cause__", "__context__"):
            other = getattr(one, name)
            if other is None:
                continue
            if _said(other) != redacted(_said(other)):
                redact_error(other)
                if _said(other) != redacted(_said(other)):
                    # It keeps its text elsewhere, out of reach.
                    plain = RuntimeError(f"{type(other).__name__}: {redacted(_said(other))}")
                    setattr(one, name, plain.with_traceback(other.__traceback__))
                    continue
            waiting.append(other)


def _said(error: BaseException) -> str:
    return "\n".join([*traceback.format_exception_only(error), *getattr(error, "__notes__", ())])


def _redacted_record(make: Any) -> Any:
    def factory(*arguments: Any, **named: Any) -> logging.LogRecord:
        record: logging.LogRecord = make(*arguments, **named)
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # the logger tells of it in its own way
            return record
        shown = redacted(said)
        if shown != said:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    return factory


logging.setLogRecordFactory(_redacted_record(logging.getLogRecordFactory()))

"""Reading what Dojo answers as JSON, so that one document which cannot be read spoils no other.

What a document means is `documents.py`, how answers are had `client.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from datacube_assets.dojo.documents import DocumentProblem, document_id

_UNREADABLE = "it is nested too deep, or has a number of thousands of digits"
_DEEPEST = 200
"""Levels of a document. How many Python reads, and what else then fails, differs from version to version."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)|[\[\]{},:]', re.DOTALL)
"""A text, if need be one that never ends, or a sign: each byte is looked at once."""


def readable(answer: bytes) -> Any:
    """A JSON document. Raises ValueError, saying why it cannot be read."""
    try:
        # Python's reader takes half a surrogate pair, so that one such text does not spoil the rest.
        document = json.loads(answer)
    except RecursionError:
        raise ValueError(_UNREADABLE) from None
    except ValueError as error:
        # Its own words on numbers tell how to change Python.
        is_number = not isinstance(error, json.JSONDecodeError | UnicodeError)
        raise ValueError(_UNREADABLE if is_number else "it is no JSON") from None
    if _is_deep(document):
        raise ValueError(_UNREADABLE)
    return document


def _is_deep(document: Any) -> bool:
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(_DEEPEST):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [one for part in inner for one in part if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def page_of(answer: bytes) -> Any:
    """A page of a listing; a `DocumentProblem` stands for each document of it that cannot be read.

    Raises ValueError when it is no JSON.
    """
    try:
        return readable(answer)
    except ValueError as error:
        if str(error) != _UNREADABLE:
            raise
    page = {}
    for name, value in _members(answer):
        if name == "results" and value.startswith(b"["):
            page[name] = [_document(part) for part in _parts(value)]
        else:
            page[name] = readable(value)
    return page


def _document(text: bytes) -> Any:
    try:
        return readable(text)
    except ValueError as error:
        ids = (value for name, value in _members(text) if name == "id")
        name = next((one for value in ids if isinstance(one := _or_none(value), str)), "?")
        return DocumentProblem(name, str(error))


def _or_none(text: bytes) -> Any:
    try:
        return readable(text)
    except ValueError:
        return None


def _members(text: bytes) -> list[tuple[str, bytes]]:
    """Names and values of an object, unread."""
    found = []
    for part in _parts(text):
        name = _TOKEN.match(part)
        if name and part[name.end() :].lstrip().startswith(b":"):
            found.append((str(_or_none(name[0])), part[name.end() :].lstrip()[1:].strip()))
    return found


def _parts(text: bytes) -> list[bytes]:
    """What stands between the outermost brackets and commas of an array or object, unread."""
    parts, depth, start = [], 0, 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in (b"[", b"{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif sign in (b"]", b"}"):
            depth -= 1
        if (depth == 0 and sign in (b"]", b"}")) or (depth == 1 and sign == b","):
            part = text[start : token.start()].strip()
            start = token.end()
            if part:
                parts.append(part)
    return parts


def distinct(documents: Iterable[Any], warn: Callable[[str], None]) -> list[Any]:
    """One document per id: equal ones count once, of different ones none does and a problem stands for them.

    Those without id cannot be told apart, so each of them counts.
    """
    numbered = list(enumerate(documents))
    by_id = sorted(numbered, key=lambda one: (_id_of(one[1]) or "", one[0]))
    kept: list[tuple[int, Any]] = []
    for name, some in groupby(by_id, key=lambda one: _id_of(one[1])):
        same = list(some)
        if name is None or len(same) == 1:
            kept += same
        elif _are_equal([one for _, one in same]):
            kept.append(same[0])
            warn(f"Dojo lists {name} {len(same)} times, the same each time: it counts once")
        else:
            problem = DocumentProblem(name, f"Dojo lists it {len(same)} times, and not the same each time")
            kept.append((same[0][0], problem))
    return [document for _, document in sorted(kept, key=lambda one: one[0])]


def _are_equal(documents: Sequence[Any]) -> bool:
    try:
        return all(one == documents[0] for one in documents[1:])
    except RecursionError:
        return False


def _id_of(document: Any) -> str | None:
    return (
        document.id if isinstance(document, DocumentProblem) and document.id != "?" else document_id(document)
    )

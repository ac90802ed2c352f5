"""Lists of Dojo in which single documents are duplicates, or cannot be read at all."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacube_assets.dojo.answers import distinct, page_of, readable
from datacube_assets.dojo.documents import DocumentProblem

GOOD = {"id": "good", "model_id": "m", "text": 'with "quotes", [brackets] and \\ {signs}'}
DEEP = b'{"id": "deep", "x": ' + b"[" * 2_000 + b"]" * 2_000 + b"}"
DEEP_OBJECTS = b'{"x": ' + b'{"id": "inner", "a": ' * 2_000 + b"1" + b"}" * 2_000 + b', "id": "de\\u0065p"}'
LONG = b'{"id": "long", "n": ' + b"7" * 5_000 + b"}"
NAMELESS = b'{"n": ' + b"7" * 5_000 + b"}"


def page(*documents: bytes) -> bytes:
    return b'{"hits": %d, "results": [%s], "scroll_id": null}' % (len(documents), b", ".join(documents))


LESS_DEEP = b'{"id": "deep", "x": ' + b"[" * 300 + b"]" * 300 + b"}"
"""Every Python reads this, and not every one does with it what has to be done."""


@pytest.mark.parametrize(
    ("broken", "name"),
    [(DEEP, "deep"), (LESS_DEEP, "deep"), (DEEP_OBJECTS, "deep"), (LONG, "long"), (NAMELESS, "?")],
)
def test_a_document_that_cannot_be_read_is_named_and_spoils_no_other(broken: bytes, name: str) -> None:
    """One nested 2,000 deep, or with a number of 5,000 digits, held back every run while it was listed."""
    good = json.dumps(GOOD).encode()
    read = page_of(page(good, broken, good, b"5", broken))
    assert read["hits"] == 5
    assert read["scroll_id"] is None
    first, problem, second, number, last = read["results"]
    assert first == second == GOOD
    assert number == 5
    assert isinstance(problem, DocumentProblem)
    assert problem == last
    assert problem.id == name
    assert "digits" in problem.reason


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"hits": 1', b"[" * 5_000, b'{"results": [' + DEEP])
def test_what_is_no_json_is_no_page(answer: bytes) -> None:
    try:
        read: Any = page_of(answer)
    except ValueError:
        return
    assert not isinstance(read.get("hits"), int)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=6), st.integers(0, 6), st.booleans())
def test_all_others_are_read_as_they_are(documents: list[Any], place: int, ascii_only: bool) -> None:
    raw = [json.dumps(one, ensure_ascii=ascii_only).encode(errors="surrogatepass") for one in documents]
    raw.insert(place, LONG)
    read = page_of(page(*raw))["results"]
    where = min(place, len(documents))
    assert isinstance(read.pop(where), DocumentProblem)
    assert read == documents


@pytest.mark.parametrize("piece", [b"[", b'"', b'\\"', b'{"a":', b"[]", b"1,", b'"\\'])
def test_a_page_takes_no_longer_than_its_length_deserves(piece: bytes) -> None:
    start = time.process_time()
    with contextlib.suppress(ValueError):
        page_of(page(DEEP, piece * (1_000_000 // len(piece))))
    assert time.process_time() - start < 5


def test_a_single_document_says_why_it_cannot_be_read() -> None:
    for broken in (DEEP, LONG):
        with pytest.raises(ValueError, match="digits"):
            readable(broken)


def test_equal_documents_count_once_with_a_warning_and_of_different_ones_none_does() -> None:
    """The same id twice held back every run while it lasted."""
    warnings: list[str] = []
    other = {**GOOD, "id": "other"}
    changed = {**other, "x": 1}
    listed: list[Any] = [GOOD, other, {}, GOOD, changed, {}, {"id": "third"}]
    kept = distinct(listed, warnings.append)
    assert kept[0] == GOOD
    assert isinstance(kept[1], DocumentProblem)
    assert (kept[1].id, "not the same" in kept[1].reason) == ("other", True)
    assert kept[2:] == [{}, {}, {"id": "third"}]
    (warning,) = warnings
    assert "good" in warning
    assert "2 times" in warning

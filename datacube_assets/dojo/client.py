"""Reading Dojo over HTTP: single documents and whole listings.

Here belong the request, the paging and the errors that name a remedy. What a document means is
`documents.py`; how retries wait is `http_client/`; when to ask, and what follows from the answer, is the
sensors' business.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from datacube_assets.dojo.answers import distinct, page_of, readable
from datacube_assets.dojo.documents import (
    DocumentProblem,
    IndicatorDocument,
    ModelDocument,
    RunDocument,
    document_id,
    reason_of,
)
from datacube_assets.http_client import (
    RetryPolicy,
    ServiceClient,
    Unavailable,
    failure,
    is_passing,
    retry_after,
)

RUNS_PER_PAGE = 1_000
"""Documents per page; a run takes about a kilobyte, and Elasticsearch gives 10,000 at most."""
LARGEST_SIZE = 10_000
"""Documents that Elasticsearch gives at once, at most."""
UNPROCESSABLE = 422
INDICATORS_PER_PAGE = 100
"""Fewer than runs: a dataset's geography alone may list thousands of regions."""

_log = logging.getLogger(__name__)


class DojoError(Exception):
    """Something Dojo did not give us. The message says what happened and what to do about it."""

    remedy: ClassVar[str] = ""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem} {self.remedy}".strip())


class DojoUnavailable(DojoError, Unavailable):
    """No connection, no answer in time, 429 or 5xx, also after the retries."""

    remedy = "Nothing was changed; ask again later. If it stays so, see whether Dojo runs at DOJO_URL."

    def __init__(self, problem: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(problem)
        self.status = status
        """HTTP status; None when there was no answer."""
        self.retry_after = retry_after
        """Seconds Dojo asked us to wait; None when it did not say."""


class DojoUnauthorized(DojoError):
    """401 or 403."""

    remedy = "Set DOJO_USERNAME and DOJO_PASSWORD to an account that may read."


class DojoNotFound(DojoError):
    """404: no such document, or no Dojo below this address."""

    remedy = "Check the id, and that DOJO_URL carries the path prefix of the API (such as /api/dojo)."


class DojoRefused(DojoError):
    """Any other answer that is not a success."""

    def __init__(self, problem: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(problem)

    remedy = "Asking again does not help: see what Dojo says about the request or its stored documents."


class DojoAnswerInvalid(DojoError):
    """An answer that is not what the API promises, such as a log-in page."""

    remedy = "Check that DOJO_URL points at Dojo's API, including its path prefix (such as /api/dojo)."


class DojoDocumentMalformed(DojoError):
    """A document without the fields we need."""

    remedy = "Correct the document in Dojo."


class DojoListingIncomplete(DojoError):
    """A listing that broke off, repeated itself or held fewer documents than Dojo counted."""

    remedy = "The listing was not used; ask again later."


class _Page(BaseModel):
    """One page of a listing (docs/specification/dojo-documents.md#lists)."""

    hits: int
    scroll_id: str | None = None
    results: list[Any]


class _Brief(BaseModel):
    """A dataset in the unvalidated list."""

    id: str


_BRIEFS = TypeAdapter(list[_Brief])

D = TypeVar("D", RunDocument, ModelDocument, IndicatorDocument)


class DojoClient(ServiceClient):
    """Dojo's API at a base URL with path prefix. May be shared between threads.

    What it answers: docs/specification/dojo-documents.md#the-api.

    Every method raises a `DojoError`: `DojoUnavailable` after the retries, otherwise at once.
    """

    def __init__(
        self,
        base_url: str,
        username: str = "",
        password: str = "",
        *,
        timeout: float = 30.0,
        retries: RetryPolicy | None = None,
        restarts: int = 2,
        seconds: float = math.inf,
    ) -> None:
        """`timeout`: seconds without any progress; a whole call may take twice that, all calls together
        `seconds`. `restarts`: how often a broken listing starts over.

        Raises ValueError when the base URL is none, or carries credentials.
        """
        super().__init__(
            base_url,
            username,
            password,
            timeout=timeout,
            total=2 * timeout,
            seconds=seconds,
            follow_redirects=True,
        )
        self._restarts = restarts
        self._retrying = (retries or RetryPolicy()).retrying()

    def count_runs(self) -> int:
        """How many runs Dojo has: one quick request, to see whether it answers."""
        return self._page("runs", {"size": 1}).hits

    def run(self, run_id: str) -> RunDocument:
        """One model run. Raises `DojoNotFound`, `DojoDocumentMalformed`."""
        return self._document(RunDocument, "runs", run_id)

    def model(self, model_id: str) -> ModelDocument:
        """One model. Raises `DojoNotFound`, `DojoDocumentMalformed`."""
        return self._document(ModelDocument, "models", model_id)

    def indicator(self, indicator_id: str) -> IndicatorDocument:
        """One dataset. Raises `DojoNotFound`, `DojoDocumentMalformed`."""
        return self._document(IndicatorDocument, "indicators", indicator_id)

    def runs(
        self,
        model_id: str = "",
        page_size: int = RUNS_PER_PAGE,
        *,
        warn: Callable[[str], None] = _log.warning,
    ) -> list[Any]:
        """All runs (of a model) as they came, in no order, malformed ones included.

        A document that is listed twice counts once, and `warn` names it; of two that differ neither counts,
        and a `DocumentProblem` stands for them, as for one that cannot be read at all.

        Raises `DojoListingIncomplete` rather than giving a part of them.
        """
        query = {"size": page_size} | ({"model_id": model_id} if model_id else {})
        return self._listing("runs", query, warn)

    def indicators(
        self, page_size: int = INDICATORS_PER_PAGE, *, warn: Callable[[str], None] = _log.warning
    ) -> list[Any]:
        """All datasets as they came, unpublished and deprecated ones included.

        One stored dataset that Dojo itself finds invalid makes it refuse the whole list;
        then the published ones are asked for one by one, and a `DocumentProblem` stands for each that
        cannot be had. Raises `DojoListingIncomplete` rather than giving a part of them.
        """
        try:
            return self._listing("indicators", {"size": page_size}, warn)
        except DojoRefused as error:
            if error.status != UNPROCESSABLE:
                raise
            _log.warning("asking for datasets one by one: %s", error)
            return [self._indicator_or_problem(name) for name in self._published_indicators()]

    def _published_indicators(self) -> list[str]:
        """Ids of the published datasets, from the list that Dojo does not validate."""
        answer = self._get("indicators/latest", {"size": LARGEST_SIZE})
        try:
            briefs = _BRIEFS.validate_json(answer)
        except ValidationError as error:
            raise DojoAnswerInvalid(f"Dojo's list of datasets is none: {reason_of(error)}.") from None
        if len(briefs) >= LARGEST_SIZE:
            raise DojoListingIncomplete(f"Dojo lists {len(briefs)} datasets, and may have more.")
        return [brief.id for brief in briefs]

    def _indicator_or_problem(self, name: str) -> object:
        try:
            return readable(self._get(f"indicators/{quote(name, safe='')}", {}))
        except (DojoRefused, DojoNotFound) as error:
            return DocumentProblem(name, str(error))
        except ValueError as error:
            return DocumentProblem(name, str(error))

    def _document(self, kind: type[D], collection: str, name: str) -> D:
        path = f"{collection}/{quote(name, safe='')}"
        answer = self._get(path, {})
        try:
            # By the reader of listings, so that nothing is listed as ready and refused here.
            return kind.model_validate(readable(answer))
        except ValidationError as error:
            raise DojoDocumentMalformed(f"Dojo's document {path} is malformed: {reason_of(error)}.") from None
        except ValueError as error:
            raise DojoDocumentMalformed(f"Dojo's document {path} is malformed: {error}.") from None

    def _listing(
        self, collection: str, query: dict[str, str | int], warn: Callable[[str], None]
    ) -> list[Any]:
        for _ in range(self._restarts):
            try:
                return distinct(self._walk(collection, query), warn)
            except DojoListingIncomplete as error:
                _log.warning("starting the listing over: %s", error)
        return distinct(self._walk(collection, query), warn)

    def _walk(self, collection: str, query: dict[str, str | int]) -> list[Any]:
        """The documents of one scroll, at least as many as Dojo counted at its start."""
        pages = list(self._pages(collection, query))
        documents = [document for page in pages for document in page.results]
        if len(documents) < pages[0].hits:
            raise DojoListingIncomplete(
                f"Dojo's listing of {collection} held {len(documents)} of {pages[0].hits} documents."
            )
        return documents

    def _pages(self, collection: str, query: dict[str, str | int]) -> Iterator[_Page]:
        """Every request repeats the page size, because Dojo compares each page with it."""
        page = self._page(collection, query)
        yield page
        seen, listed = _ids(page) - {None}, len(page.results)
        while page.results and page.scroll_id is not None:
            page = self._next_page(collection, query | {"scroll_id": page.scroll_id})
            ids = _ids(page)
            # A few that were there before may be listed twice; a whole page of them, or more than there are
            # altogether, is the same page again.
            listed += len(page.results)
            full = len(page.results) > 1 and len(page.results) >= int(query["size"])
            if page.results and ids <= seen and (full or listed > page.hits):
                raise DojoListingIncomplete(f"Dojo's listing of {collection} repeats a page.")
            yield page
            seen |= ids - {None}

    def _next_page(self, collection: str, query: dict[str, str | int]) -> _Page:
        try:
            return self._page(collection, query)
        except DojoUnavailable as error:
            if error.status != 500:
                raise
            # Elasticsearch has forgotten the scroll, which lives two minutes: only a new one can help.
            raise DojoListingIncomplete(f"Dojo's listing of {collection} broke off.") from error

    def _page(self, collection: str, query: dict[str, str | int]) -> _Page:
        answer = self._get(collection, query)
        try:
            return _Page.model_validate(page_of(answer))
        except ValidationError as error:
            raise DojoAnswerInvalid(
                f"Dojo's answer to {collection} is no page: {reason_of(error)}."
            ) from None
        except ValueError:
            raise DojoAnswerInvalid(f"Dojo's answer to {collection} is no JSON.") from None

    def _get(self, path: str, query: dict[str, str | int]) -> bytes:
        return self._retrying(self._get_once, path, query)

    def _get_once(self, path: str, query: dict[str, str | int]) -> bytes:
        try:
            response = self._call("GET", path, params=query)
        except httpx.RequestError as error:
            again = math.inf if self._time_is_over else None
            raise DojoUnavailable(
                f"Dojo did not answer {path}: {failure(error)}.", retry_after=again
            ) from None
        if not response.is_success:
            raise _refusal(path, response, self._shown(response.text))
        if _breaks_off(response.content):
            raise DojoUnavailable(f"Dojo's answer to {path} broke off.")
        return response.content


def _breaks_off(answer: bytes) -> bool:
    """Whether an answer begins as JSON and does not end: its length was announced wrongly on the way."""
    if not answer.startswith((b"{", b"[")):
        return False
    try:
        from_json(answer)
    except ValueError as error:
        return "EOF while parsing" in str(error)
    return False


def _ids(page: _Page) -> set[str | None]:
    return set(map(document_id, page.results))


def _refusal(path: str, response: httpx.Response, said: str) -> DojoError:
    status = response.status_code
    problem = f"Dojo answered {status} to {path}."
    if is_passing(status):
        return DojoUnavailable(problem, status, retry_after(response))
    if status in (401, 403):
        return DojoUnauthorized(problem)
    if status == 404:
        return DojoNotFound(problem)
    return DojoRefused(f"{problem} It said: {said!r}.", status)

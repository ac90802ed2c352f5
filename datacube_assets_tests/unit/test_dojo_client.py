from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
from starlette.responses import PlainTextResponse

from datacube_assets.development.dojo_simulator import Collection, DojoSimulator
from datacube_assets.development.simulator_http import Document, Site, Switches, in_background
from datacube_assets.dojo.client import (
    DojoAnswerInvalid,
    DojoClient,
    DojoDocumentMalformed,
    DojoError,
    DojoListingIncomplete,
    DojoNotFound,
    DojoRefused,
    DojoUnauthorized,
    DojoUnavailable,
)
from datacube_assets.dojo.documents import IndicatorDocument, parse_documents
from datacube_assets.http_client import RetryPolicy

PREFIX = "/api/dojo"
QUICK = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=1.5)
Connect = Callable[..., DojoClient]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


@pytest.fixture
def connect(site: Site) -> Iterator[Connect]:
    """Puts a simulator on the site and gives a client of it."""
    with ExitStack() as stack:

        def connected(dojo: DojoSimulator, *, timeout: float = 5.0, restarts: int = 2) -> DojoClient:
            site.app = dojo.app()
            client = DojoClient(
                site.url + PREFIX, "ann", "s3cret", timeout=timeout, retries=QUICK, restarts=restarts
            )
            return stack.enter_context(client)

        yield connected


def run(number: int) -> Document:
    return {
        "id": f"r{number}",
        "model_id": f"m{number % 2}",
        "model_name": "Toy",
        "created_at": 1672531200000 + number,
        "data_paths": ["{files}/a.parquet.gzip"],
        "parameters": [],
        "tags": [],
        "attributes": {"status": "success", "executed_at": "2023-01-01 00:12:09"},
    }


def filled(dojo: DojoSimulator, number: int) -> DojoSimulator:
    for i in range(number):
        dojo.put("runs", run(i))
    return dojo


def dojo_with(number: int, password: str = "s3cret") -> DojoSimulator:
    return filled(DojoSimulator(prefix=PREFIX, username="ann", password=password), number)


def ids(documents: list[Document]) -> set[str]:
    return {document["id"] for document in documents}


def listings(dojo: DojoSimulator) -> int:
    return dojo.requests[f"GET {PREFIX}/runs"]


@pytest.mark.parametrize(
    ("number", "requests"),
    [(0, 1), (1, 1), (9, 1), (10, 2), (11, 2), (20, 3), (25, 3)],
)
def test_a_listing_is_whole_whatever_the_number_of_pages(
    connect: Connect, number: int, requests: int
) -> None:
    dojo = dojo_with(number)
    found = connect(dojo).runs(page_size=10)
    assert len(found) == number
    assert ids(found) == {f"r{i}" for i in range(number)}
    assert listings(dojo) == requests


def test_a_listing_can_be_narrowed_to_a_model(connect: Connect) -> None:
    assert ids(connect(dojo_with(25)).runs("m1", page_size=5)) == {f"r{i}" for i in range(1, 25, 2)}


def test_malformed_documents_are_listed_too(connect: Connect) -> None:
    dojo = dojo_with(3)
    for _ in range(4):
        dojo.put("runs", {})
    assert len(connect(dojo).runs(page_size=2)) == 7


def test_a_document_that_changes_while_it_is_listed_is_listed_once(connect: Connect) -> None:
    class Busy(DojoSimulator):
        def page(
            self, collection: Collection, size: int, scroll_id: str | None, where: Mapping[str, str]
        ) -> tuple[int, str | None, list[Document]]:
            self.put("runs", run(0))
            return super().page(collection, size, scroll_id, where)

    dojo = filled(Busy(prefix=PREFIX), 30)
    assert sorted(d["id"] for d in connect(dojo).runs(page_size=10)) == sorted(f"r{i}" for i in range(30))


def test_a_dead_scroll_restarts_the_listing(connect: Connect) -> None:
    class Forgetful(DojoSimulator):
        """Forgets the first scroll at its third page, as if it had been left alone for too long."""

        turns = 0

        def page(
            self, collection: Collection, size: int, scroll_id: str | None, where: Mapping[str, str]
        ) -> tuple[int, str | None, list[Document]]:
            self.turns += 1
            return super().page(
                collection, size, "forgotten" if self.turns in (3, 4, 5) else scroll_id, where
            )

    dojo = filled(Forgetful(prefix=PREFIX), 30)
    assert len(connect(dojo).runs(page_size=10)) == 30
    # two pages, the dead one three times, then four pages from the start
    assert listings(dojo) == 2 + 3 + 4


def test_scrolls_that_always_die_end_in_an_error(connect: Connect) -> None:
    dojo = dojo_with(30)
    dojo.switches.scroll_seconds = 0
    with pytest.raises(DojoListingIncomplete, match="broke off"):
        connect(dojo, restarts=1).runs(page_size=10)
    assert listings(dojo) == 2 * (1 + 3)


class Repeating(DojoSimulator):
    """Ignores scroll ids."""

    def page(
        self, collection: Collection, size: int, scroll_id: str | None, where: Mapping[str, str]
    ) -> tuple[int, str | None, list[Document]]:
        return super().page(collection, size, None, where)


class Alternating(Repeating):
    """Ignores scroll ids, and does not even repeat the same page."""

    def page(
        self, collection: Collection, size: int, scroll_id: str | None, where: Mapping[str, str]
    ) -> tuple[int, str | None, list[Document]]:
        hits, name, documents = super().page(collection, size, scroll_id, where)
        return hits, name, documents[::-1] if scroll_id else documents


@pytest.mark.parametrize("kind", [Repeating, Alternating])
def test_a_listing_that_repeats_a_page_is_not_taken_for_a_whole_one(
    connect: Connect, kind: type[DojoSimulator]
) -> None:
    with pytest.raises(DojoListingIncomplete, match="repeats a page"):
        connect(filled(kind(prefix=PREFIX), 30), restarts=0).runs(page_size=10)


def test_a_listing_shorter_than_dojo_counted_is_not_taken_for_a_whole_one(connect: Connect) -> None:
    class Losing(DojoSimulator):
        def page(
            self, collection: Collection, size: int, scroll_id: str | None, where: Mapping[str, str]
        ) -> tuple[int, str | None, list[Document]]:
            hits, name, documents = super().page(collection, size, scroll_id, where)
            return hits, name, documents[1:]

    with pytest.raises(DojoListingIncomplete, match=r"held 22 of 25 documents.*not used"):
        connect(filled(Losing(prefix=PREFIX), 25), restarts=0).runs(page_size=10)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_asked_again(connect: Connect, status: int) -> None:
    dojo = dojo_with(1)
    dojo.switches = Switches(error_next=2, error_status=status)
    assert len(connect(dojo).runs()) == 1
    assert listings(dojo) == 3


def test_a_lasting_failure_ends_in_an_error_after_the_attempts(connect: Connect) -> None:
    dojo = dojo_with(1)
    dojo.switches = Switches(error_rate=1, error_status=503)
    with pytest.raises(DojoUnavailable, match=r"Dojo answered 503 to runs\..*ask again later") as caught:
        connect(dojo).runs()
    assert caught.value.status == 503
    assert listings(dojo) == 3


def test_an_answer_that_breaks_off_is_asked_again(connect: Connect) -> None:
    dojo = dojo_with(5)
    dojo.switches = Switches(truncate_next=2)
    assert len(connect(dojo).runs()) == 5
    assert listings(dojo) == 3


def test_dojo_may_say_when_to_ask_again(connect: Connect) -> None:
    dojo = dojo_with(1)
    dojo.switches = Switches(error_next=1, error_status=429, retry_after="1")
    began = time.monotonic()
    connect(dojo).runs()
    assert time.monotonic() - began >= 1


def test_dojo_may_say_when_to_ask_again_by_a_date(connect: Connect) -> None:
    dojo = dojo_with(1)
    dojo.switches = Switches(error_next=1, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    assert len(connect(dojo).runs()) == 1


@pytest.mark.parametrize("retry_after", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_wait_beyond_our_patience_ends_the_attempts(connect: Connect, retry_after: str) -> None:
    dojo = dojo_with(1)
    dojo.switches = Switches(error_rate=1, error_status=429, retry_after=retry_after)
    with pytest.raises(DojoUnavailable) as caught:
        connect(dojo).runs()
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 3600
    assert listings(dojo) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, DojoRefused),
        (401, DojoUnauthorized),
        (403, DojoUnauthorized),
        (404, DojoNotFound),
        (422, DojoRefused),
    ],
)
def test_a_refusal_is_not_asked_again(connect: Connect, status: int, error: type[DojoError]) -> None:
    dojo = dojo_with(1)
    dojo.switches = Switches(error_rate=1, error_status=status)
    with pytest.raises(error, match=str(status)):
        connect(dojo).runs()
    assert listings(dojo) == 1


def test_a_slow_answer_is_unavailable(connect: Connect) -> None:
    dojo = dojo_with(1)
    dojo.switches = Switches(latency_seconds=0.4)
    with pytest.raises(DojoUnavailable, match="Timeout") as caught:
        connect(dojo, timeout=0.05).runs()
    assert caught.value.status is None


def test_an_absent_dojo_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        DojoClient(f"http://127.0.0.1:{port}", retries=QUICK) as client,
        pytest.raises(DojoUnavailable, match="ConnectError"),
    ):
        client.run("r1")


def test_an_answer_that_is_no_page_is_named_so(site: Site) -> None:
    site.app = PlainTextResponse("please log in")
    with DojoClient(site.url) as client, pytest.raises(DojoAnswerInvalid, match="DOJO_URL"):
        client.runs()


def test_a_wrong_password_is_named_but_never_shown(connect: Connect) -> None:
    client = connect(dojo_with(1, password="other"))
    with pytest.raises(DojoUnauthorized, match="DOJO_PASSWORD") as caught:
        client.runs()
    assert "s3cret" not in f"{caught.value!r} {client!r}"


def test_single_documents_are_read_with_type(connect: Connect) -> None:
    dojo = dojo_with(1)
    dojo.put("models", {"id": "m 1?ä", "outputs": [{"name": "yield", "type": "float"}]})
    dojo.put("indicators", {"id": "d1", "published": True})
    client = connect(dojo)
    assert client.run("r0").is_ready
    assert client.run("r0").data_paths[0].startswith("http://127.0.0.1:")
    assert client.model("m 1?ä").outputs[0].name == "yield"
    assert client.indicator("d1").published
    with pytest.raises(DojoNotFound, match="404"):
        client.model("m1")


def test_a_malformed_document_is_named_with_its_fault(connect: Connect) -> None:
    dojo = dojo_with(0)
    dojo.put("runs", {"id": "r1"})
    with pytest.raises(DojoDocumentMalformed, match="runs/r1 is malformed: model_id: Field required"):
        connect(dojo).run("r1")


def test_datasets_are_listed_unpublished_ones_included(connect: Connect) -> None:
    dojo = dojo_with(0)
    for i in range(25):
        dojo.put("indicators", {"id": f"d{i}", "published": i % 2 == 0})
    assert ids(connect(dojo).indicators(page_size=10)) == {f"d{i}" for i in range(25)}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "dojo.example",
        "ftp://dojo.example",
        "http://",
        "http://h:xx",
        "https://ann:s3cret@dojo.example",
        "http://h/?key=s3cret",
    ],
)
def test_a_base_url_is_an_http_address_without_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as caught:
        DojoClient(url)
    assert "s3cret" not in str(caught.value)


def test_twenty_thousand_runs_are_listed_in_one_go(connect: Connect) -> None:
    dojo = dojo_with(20_000)
    client = connect(dojo)
    began = time.monotonic()
    assert len(client.runs()) == 20_000
    assert time.monotonic() - began < 10
    assert listings(dojo) == 21


def test_a_dataset_that_dojo_itself_refuses_does_not_hide_the_others() -> None:
    simulator = DojoSimulator()
    simulator.put("indicators", {"id": "good", "published": True, "data_paths": ["a.parquet.gzip"]})
    simulator.put("indicators", {"id": "broken", "published": True, "outputs": "none"})
    simulator.put("indicators", {"id": "draft", "published": False, "data_paths": []})
    with in_background(simulator.app()) as url, DojoClient(url) as client:
        documents, problems = parse_documents(IndicatorDocument, client.indicators())
    assert [document.id for document in documents] == ["good"]
    assert [problem.id for problem in problems] == ["broken"]
    assert "422" in problems[0].reason

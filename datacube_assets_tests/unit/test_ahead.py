"""Things made ahead: the same ones, in order, and nothing goes on when nobody wants them any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from datacube_assets.resources.ahead import ahead
from datacube_assets.resources.stoppable import Stoppable, Stopped


def test_things_come_in_order_and_one_is_made_while_the_other_is_in_use() -> None:
    made: list[int] = []

    def making() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    for number in ahead(making()):
        deadline = time.monotonic() + 10
        while len(made) < min(number + 2, 5) and time.monotonic() < deadline:
            time.sleep(0.001)
        # The next one, and no further one.
        time.sleep(0.01)
        assert made == list(range(min(number + 2, 5)))
    assert made == list(range(5))
    assert list(ahead([])) == []


def test_an_error_comes_where_the_thing_would_have_come() -> None:
    def making() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    things = ahead(making())
    assert next(things) == 1
    with pytest.raises(ValueError, match="no second"):
        next(things)


def _busy(began: threading.Event, ended: threading.Event) -> Iterator[int]:
    yield 1
    began.set()
    try:
        while True:
            time.sleep(0.001)
    finally:
        ended.set()


def test_closing_stops_what_is_being_made() -> None:
    began, ended = threading.Event(), threading.Event()
    with closing(ahead(_busy(began, ended))) as things:
        assert next(things) == 1
        assert began.wait(10)
    assert ended.is_set()
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_stopping_the_thread_that_waits_stops_what_it_waits_for() -> None:
    began, ended, stoppable = threading.Event(), threading.Event(), Stoppable()

    def work() -> None:
        with suppress(Stopped):
            stoppable.call(lambda: list(ahead(_busy(began, ended))))

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(10)
    stoppable.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert ended.is_set()

"""Making the next thing while the last one is in use.

Formatting is mostly work of libraries that leave Python's lock alone, storing mostly waiting for the kernel
or a server: one thread does either, so that both go on at the same time. One thing is made ahead, no more.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar, cast

from datacube_assets.resources.stoppable import Stoppable

T = TypeVar("T")

_LOOK_SECONDS = 0.1
"""How often a thread that waits can be interrupted."""


def ahead(things: Iterable[T]) -> Generator[T, None, None]:
    """The same things in the same order, each made while the one before it is in use.

    Closed before the end, or interrupted, it stops what is being made, and waits until that has stopped.
    """
    making, end, stoppable = iter(things), object(), Stoppable()
    with ThreadPoolExecutor(1, "ahead") as maker:

        def begin() -> Future[T | object]:
            return maker.submit(stoppable.call, partial(next, making, end))

        try:
            next_one = begin()
            while (thing := _result(next_one)) is not end:
                next_one = begin()
                yield cast(T, thing)
        except BaseException:
            stoppable.stop()
            raise


def _result(future: Future[T]) -> T:
    while not future.done():
        wait([future], _LOOK_SECONDS)
    return future.result()

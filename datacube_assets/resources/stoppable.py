"""Work in threads that can be stopped from outside, wherever in the code it is.

Pieces of work know nothing of runs being cancelled: kernels are pure, and a batch of objects may take a
minute to store. So an exception is raised in their threads, as an interrupt is in a main thread. What
they write appears whole or is written again by the next run, so they may be left at any point. Who
stops what, and when, is the business of `resources/dask.py` and `orchestration/dask_executor.py`.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_REPEAT = 5.0
"""Seconds after which a thread is told again: Python drops exceptions that are raised in finalizers."""


class Stopped(BaseException):
    """The work was stopped from outside. No Exception, so that nothing takes it for a failure."""


class Stoppable:
    """Calls functions, in any number of threads, until it is stopped."""

    def __init__(self, error: type[BaseException] = Stopped) -> None:
        self._error = error
        # A plain lock: one whose `__enter__` is Python code could be taken and never released when the
        # exception comes just then.
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._stopped = False

    def call(self, function: Callable[[], Result]) -> Result:
        """What the function gives. Raises the error, Stopped by default, once stopped."""
        thread = threading.get_ident()
        with self._lock:
            if self._stopped:
                raise self._error()
            self._threads.add(thread)
        try:
            try:
                return function()
            finally:
                self._leave(thread)
        except BaseException:
            # It may have come while leaving.
            self._leave(thread)
            if self._stopped:
                # Whatever the interrupted code made of it.
                raise self._error() from None
            raise

    def _leave(self, thread: int) -> None:
        with self._lock:
            self._threads.discard(thread)
            # Only if there may be one: withdrawing none leaves Python's interpreter looking for it for
            # ever, which slows all threads and stops those that a profiler follows.
            if self._stopped:
                _raise_in(thread, None)

    def stop(self) -> None:
        """Raise the error in all threads, let none begin, and wait until the last one is out."""
        self._stopped = True
        told: dict[int, float] = {}
        while True:
            with self._lock:
                if not self._threads:
                    return
                now = time.monotonic()
                for thread in self._threads:
                    if now >= told.get(thread, 0.0) and not _imports(thread):
                        _raise_in(thread, self._error)
                        told[thread] = now + _REPEAT
            time.sleep(0.01)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread at its next step of Python code; None withdraws it."""
    what = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


def _imports(thread: int) -> bool:
    """Whether a thread is importing: modules in C that are left halfway can never be loaded again."""
    # Before Python 3.12 the frames are gathered under a lock of the interpreter, and gathering them may set
    # off the collector. It runs code of others, which may give way to a thread that waits for that lock.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        frame = sys._current_frames().get(thread)
    finally:
        if was_enabled:
            gc.enable()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False

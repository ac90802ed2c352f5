"""Starting: what every process that does work does first. It imports nothing of ours."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of glibc's `mallopt`."""


def keep_memory() -> None:
    """Keep freed memory for the next array, instead of giving it back to the kernel each time.

    Each step makes arrays of some megabytes and drops them. By default every one of them is mapped, zeroed
    page by page at its first use, and unmapped, which takes a tenth of a run's processor time. For processes
    that end with their work, and before anything is imported: the first library that starts a thread decides
    in how many heaps memory lies. Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 1 << 25), (_TRIM_THRESHOLD, 1 << 30)):
            mallopt(parameter, value)


@contextmanager
def importing() -> Iterator[None]:
    """Keep Python's collector out of the way while modules are imported.

    It would go through the growing heap again and again, for a third of the time that importing takes. What
    was imported stays anyway, so it need not look through that later either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if was_enabled:
            gc.enable()

"""Starting: what every process that does work does first. It imports nothing of ours."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of glibc's `mallopt`."""
_NEW_OBJECTS = 20_000
"""That Python's collector waits for; 700 by default, 2,000 in newer versions."""


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
    was imported stays anyway, so it need not look through that later either. And from then on it looks less
    often: a run makes many small objects that are no garbage, such as events and what they are packed into.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
        if was_enabled:
            gc.enable()


class _PassedOver(MetaPathFinder):
    """Says of some modules that they are not there."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in self._names:
            raise ModuleNotFoundError(f"{name} is passed over", name=name)
        return None


@contextmanager
def _passing_over(*names: str) -> Iterator[None]:
    finder = _PassedOver(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def spare_imports() -> None:
    """Import two libraries without what they only import in case it is wanted.

    Arrow looks for pandas at its first array, to know whether it is given a pandas object, and at the first
    that it gives to NumPy, to know pandas' missing values; and httpx for its own command line. Together they
    take a fifth of the time of importing. Arrow imports pandas later if it is asked for a data frame; but
    then it does not know `pandas.NA` in one that it is given. So this is for processes that only publish.
    """
    with _passing_over("pandas", "httpx._main"):
        importlib.import_module("httpx")
        numpy, arrow = importlib.import_module("numpy"), importlib.import_module("pyarrow")
        arrow.array(numpy.zeros(1)).to_numpy()

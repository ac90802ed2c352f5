"""Starting quickly: what every process does while it imports. It imports nothing itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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

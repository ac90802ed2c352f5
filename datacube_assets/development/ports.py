"""Free ports for the servers that development and tests start, found so that they are still free when used.

Whether a port that somebody named can be listened on is told by `cli/ports.py`.
"""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

PORTS: Final = range(20_000, 32_000)
"""Below those that kernels give to connections, which may get one before the server listens on it."""

_CHOICE: Final = random.SystemRandom()
"""Processes that look at the same time shall find different ports, whatever seeds the other generators."""


def free_ports(count: int, host: str = "127.0.0.1") -> range:
    """Some ports in a row on which nobody listens at an address of this machine. Raises OSError."""
    for _ in range(100):
        first = _CHOICE.randrange(PORTS.start, PORTS.stop - count)
        ports = range(first, first + count)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in ports:
                held.enter_context(socket.create_server((host, port)))
            return ports
    raise OSError(f"no {count} ports in a row are free at {host} between {PORTS.start} and {PORTS.stop}")


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens at an address of this machine. Raises OSError."""
    return free_ports(1, host)[0]

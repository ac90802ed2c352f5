"""Whether a command can listen where it is told to, tried before anything is announced.

What it serves is elsewhere.
"""

from __future__ import annotations

import socket

import click


def check_ports(host: str, port: int, number: int = 1, what: str = "it") -> None:
    """End the command where one of some ports in a row cannot be listened on, naming it and a remedy."""
    for one in range(port, port + number):
        try:
            family = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                # As servers do: an address that was given back a moment ago is free.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind((host, one))
                trial.listen(1)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            taken = f"it takes {number} ports from --port on; " if number > 1 else ""
            raise click.ClickException(
                f"{what} cannot listen on {host}:{one}: {reason}. {taken[:1].upper()}{taken[1:]}"
                "Give another one by --port, or end what listens there"
            ) from error

"""How servers listen: by which names they may be called, from which pages, and how long a request may take.

Shared by the gateway and the map page (`view/server.py`). Which clients may call the gateway is in
`admission.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from datacube_assets.gateway.admission import is_loopback
from datacube_assets.settings import LOOPBACK

ARRIVAL_SECONDS = 30.0
"""How long a request may take to arrive, headers and body; who sends less holds a connection for nothing."""
MOST_CONNECTIONS = 400
"""Connections at the same time; beyond them the request is given up that has been arriving for longest."""


class NamedHosts:
    """Refuses to be called by another name than one of this machine's, where it listens to no other.

    A page of somebody else could give its own name the address 127.0.0.1, and read and steer everything
    here. A request that a page makes says in `Origin` where the page is from: only pages that are named, and
    those of this server, are served.
    """

    def __init__(self, app: ASGIApp, host: str, origins: Collection[str] = ()) -> None:
        """`host`: where the server listens. `origins`: of pages that may call besides; `*` is any."""
        self._app = app
        self._names = frozenset({*LOOPBACK, host}) if is_loopback(host) else None
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> PlainTextResponse | None:
        hosts = request.headers.getlist("Host")
        if self._names is not None and (len(hosts) != 1 or _name_of(f"//{hosts[0]}") not in self._names):
            return PlainTextResponse("This server answers to 127.0.0.1 and localhost only.\n", 421)
        origins = request.headers.getlist("Origin")
        if not origins or "*" in self._origins:
            return None
        own = {f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")}
        if len(origins) == 1 and origins[0] in own | self._origins:
            return None
        return PlainTextResponse("Pages of this origin may not call here.\n", 403)


def _name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that gives up requests which do not arrive in time."""

    _arrival: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > MOST_CONNECTIONS:
            arriving = [
                one
                for one in self.connections
                if isinstance(one, PatientProtocol) and one._arrival is not None
            ]
            if arriving:
                min(arriving, key=lambda one: one._arrival.when() if one._arrival else 0.0)._give_up()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._watch()
        else:
            self._stop_watching()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._arrival is None:
            self._arrival = self.loop.call_later(ARRIVAL_SECONDS, self._give_up)

    def _stop_watching(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _give_up(self) -> None:
        self._stop_watching()
        self.transport.abort()


def listen(app: ASGIApp, host: str, port: int, **options: Any) -> None:
    """Serve an application until interrupted."""
    uvicorn.run(
        app, host=host, port=port, http=PatientProtocol, log_level="warning", server_header=False, **options
    )

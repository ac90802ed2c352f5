"""Who may call: clients from networks that are named, and with a token if one is set.

CauseMos sends no credentials, so the network decides. What counts is the address that
the connection comes from; headers in which a client may claim another one are not looked at.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from datacube_assets.settings import LOOPBACK, Settings, SettingsError, networks

OPEN = frozenset(("/healthz",))
"""Paths that everybody may ask for: they tell nothing but that the gateway is there."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def check_networks(settings: Settings, host: str) -> None:
    """Refuse to listen to other machines before it is said which. Raises SettingsError."""
    if not is_loopback(host) and all(one.is_loopback for one in networks(settings.gateway_clients)):
        raise SettingsError(
            f"whoever may call a gateway at {host} has to be named: set DATACUBE_GATEWAY_CLIENTS to the "
            "networks of CauseMos and Prometheus, such as 10.1.0.0/16, or listen on 127.0.0.1"
        )


class Admission:
    """Answers 403 to clients from elsewhere, and 401 to those without the token."""

    def __init__(self, app: ASGIApp, clients: Sequence[Network], token: str) -> None:
        self._app = app
        self._clients = clients
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http" and scope["path"] not in OPEN:
            refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if not self._is_client(request.client.host if request.client else ""):
            return PlainTextResponse("This address may not call the gateway: DATACUBE_GATEWAY_CLIENTS\n", 403)
        asked_before = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not self._token or asked_before:  # browsers send no token with that question
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(token.encode(), self._token.encode()):
            return None
        return PlainTextResponse(
            "A bearer token is needed: DATACUBE_GATEWAY_TOKEN\n", 401, {"WWW-Authenticate": "Bearer"}
        )

    def _is_client(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._clients)

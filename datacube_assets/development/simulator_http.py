"""What the simulators of Dojo and CauseMos share: switches to misbehave, counters, being served.

What each of them stands in for is `development/dojo_simulator.py` and `development/causemos_simulator.py`.
They are for development and tests; the pipeline never imports any of this. They listen on loopback unless
told otherwise, and with a user name ask everybody for it, except for what is public at the original.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datacube_assets.dojo.documents import reason_of

T = TypeVar("T")

Document = dict[str, Any]
"""A JSON object."""
LARGEST_BODY = 10_000_000
"""Bytes of a request."""


class Switches(BaseModel):
    """How a simulator misbehaves. Rates are shares of the requests, from 0 to 1."""

    model_config = ConfigDict(extra="forbid")

    error_rate: float = Field(0.0, ge=0, le=1)
    error_next: int = Field(0, ge=0)
    """So many of the coming requests are refused, whatever the rate."""
    error_status: int = Field(503, ge=400, le=599)
    retry_after: str = Field("", pattern="^[ -~]*$")
    """Sent as Retry-After with a refusal, unless empty."""
    latency_seconds: float = Field(0.0, ge=0, le=3600)
    truncate_rate: float = Field(0.0, ge=0, le=1)
    truncate_next: int = Field(0, ge=0)
    """So many of the coming answers break off in the middle, whatever the rate."""
    dribble_next: int = Field(0, ge=0)
    """So many of the coming answers come a byte at a time, and hardly end."""
    dribble_seconds: float = Field(1.0, gt=0, le=3600)
    """How long each byte takes."""
    repeat_next: int = Field(0, ge=0)
    """Dojo only: so many of the coming listings have their documents twice."""
    scroll_seconds: float = Field(120.0, ge=0)
    """Dojo only: a scroll that was not asked for longer than this is forgotten."""
    shuffle: bool = False
    """Dojo only: every listing comes in another order."""

    def refuses(self) -> bool:
        """Whether this request is refused; counts down `error_next`."""
        if self.error_next:
            self.error_next -= 1
            return True
        return random.random() < self.error_rate

    def dribbles(self) -> bool:
        """Whether this answer comes a byte at a time; counts down `dribble_next`."""
        self.dribble_next, now = max(self.dribble_next - 1, 0), self.dribble_next
        return now > 0

    def repeats(self) -> bool:
        """Whether this listing has its documents twice; counts down `repeat_next`."""
        self.repeat_next, now = max(self.repeat_next - 1, 0), self.repeat_next
        return now > 0

    def truncates(self) -> bool:
        """Whether this answer breaks off; counts down `truncate_next`."""
        if self.truncate_next:
            self.truncate_next -= 1
            return True
        return random.random() < self.truncate_rate


_SWITCHES = TypeAdapter(Switches)


class Simulator:
    """What every simulator has: switches, counters of requests, and credentials it may insist on."""

    def __init__(self, username: str = "", password: str = "") -> None:
        self.switches = Switches()
        self.requests: Counter[str] = Counter()
        """How often each "METHOD /path" was asked for, refused requests included."""
        self._credentials = base64.b64encode(f"{username}:{password}".encode()).decode() if username else ""

    def admits(self, authorization: str) -> bool:
        """Whether this Authorization header will do; anything does when no user name was given."""
        return not self._credentials or secrets.compare_digest(authorization, f"Basic {self._credentials}")

    def misbehaving(self) -> Middleware:
        """Counts requests, then delays, refuses or cuts them as the switches say."""
        return Middleware(_Misbehaving, simulator=self)

    def guarded(self) -> Middleware:
        """Answers 401 to whoever is not admitted."""
        return Middleware(_Guarded, simulator=self)

    def application(self, routes: Sequence[BaseRoute]) -> Starlette:
        """An ASGI application of the handles and these routes; refusals are JSON."""
        handles = Mount("/simulator", routes=self.handles(), middleware=[self.guarded()])
        return Starlette(routes=[handles, *routes], exception_handlers={HTTPException: _refuse})

    def handles(self) -> list[BaseRoute]:
        """The routes below `/simulator` that every simulator has."""
        return [
            Route("/switches", self._get_switches, methods=["GET"]),
            Route("/switches", self._put_switches, methods=["PUT"]),
            Route("/requests", self._get_requests, methods=["GET"]),
            Route("/requests", self._delete_requests, methods=["DELETE"]),
        ]

    async def _get_switches(self, request: Request) -> Response:
        return JSONResponse(self.switches.model_dump())

    async def _put_switches(self, request: Request) -> Response:
        wanted = {**self.switches.model_dump(), **await json_object(request)}
        self.switches = validated(_SWITCHES, wanted)
        return await self._get_switches(request)

    async def _get_requests(self, request: Request) -> Response:
        return JSONResponse(self.requests)

    async def _delete_requests(self, request: Request) -> Response:
        self.requests.clear()
        return Response(status_code=204)


IS_CUT = "datacube.is_cut"
"""Of the scope of a request: its answer breaks off, so whoever asked does not learn it."""


class _Misbehaving:
    def __init__(self, app: ASGIApp, simulator: Simulator) -> None:
        self._app = app
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        switches = self._simulator.switches
        self._simulator.requests[f"{scope['method']} {scope['path']}"] += 1
        await asyncio.sleep(switches.latency_seconds)
        if switches.refuses():
            headers = {"Retry-After": switches.retry_after} if switches.retry_after else None
            refusal = PlainTextResponse("switched to fail", switches.error_status, headers)
            await refusal(scope, receive, send)
        elif switches.dribbles():
            await _dribble(send, switches.dribble_seconds)
        else:
            scope[IS_CUT] = switches.truncates()
            await self._app(scope, receive, _cut(send) if scope[IS_CUT] else send)


class _Guarded:
    def __init__(self, app: ASGIApp, simulator: Simulator) -> None:
        self._app = app
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._simulator.admits(Request(scope).headers.get("Authorization", "")):
            await self._app(scope, receive, send)
        else:
            challenge = {"WWW-Authenticate": 'Basic realm="Restricted"'}
            await PlainTextResponse("Unauthorized", 401, challenge)(scope, receive, send)


_LONGEST_DRIBBLE = 300
"""Bytes, after which it ends all the same: nobody may be listening any more."""


async def _dribble(send: Send, seconds: float) -> None:
    """Answer a byte at a time; whoever asked had better give it up."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(_LONGEST_DRIBBLE):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(seconds)


def _cut(send: Send) -> Send:
    """Sends the head and half of the first piece; the server then drops the unfinished connection."""
    was_cut = False

    async def cut(message: Message) -> None:
        nonlocal was_cut
        if was_cut:
            return
        if message["type"] == "http.response.body":
            was_cut = True
            body = message["body"]
            message = {**message, "body": body[: len(body) // 2], "more_body": True}
        await send(message)

    return cut


async def json_object(request: Request) -> Document:
    """The request's body. Raises a 400 when it is no JSON object."""
    content = await json_body(request)
    if not isinstance(content, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return content


async def json_body(request: Request) -> Any:
    """The request's body. Raises a 413 when it is too large, a 400 when it is no JSON."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, f"the body must have at most {LARGEST_BODY} bytes")
    try:
        content = json.loads(body.decode() or "null")
        # What cannot be written again, such as infinity or half a character, could never be shown.
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body must be JSON") from None
    return content


def validated(kind: TypeAdapter[T], content: object) -> T:
    """What a body says, as what it should be. Raises a 422."""
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        raise HTTPException(422, reason_of(error)) from None


def inside(folder: Path, name: str) -> Path | None:
    """A file of a folder or below it, by a name from outside; None when there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        path = (folder / name).resolve()
        if folder.resolve() in path.parents and path.is_file():
            return path
    return None


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font-family: sans-serif; margin: 2em; max-width: 70em; }}
  table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
  th, td {{ text-align: left; padding: .3em 1em .3em 0; border-bottom: 1px solid #ccc; }}
</style>
<h1>{title}</h1>
<p>{what}</p>
{sections}
</html>
"""


def page(title: str, what: str, sections: Mapping[str, str]) -> Response:
    """The page for people at the root of a simulator: what it is, and tables; it renews itself."""
    parts = "".join(f"<h2>{escape(head)}</h2>\n{body}\n" for head, body in sections.items())
    return HTMLResponse(_PAGE.format(title=escape(title), what=escape(what), sections=parts))


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of such a page, as markup; cells are texts."""
    lines = [_row("th", heads), *(_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>" if len(lines) > 1 else "<p>None yet.</p>"


def _row(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


class Site:
    """One served address where one application after the other can be put.

    Starting and stopping a server takes a fifth of a second, exchanging what it serves nothing.
    """

    app: ASGIApp
    url: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the current application answer."""
        await self.app(scope, receive, send)


@contextlib.contextmanager
def in_background(app: ASGIApp) -> Iterator[str]:
    """Serve from a thread on a free loopback port, for tests and notebooks; gives the base URL."""
    config = uvicorn.Config(
        app, log_level="critical", lifespan="off", proxy_headers=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

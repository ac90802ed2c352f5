"""The HTTP application: what CauseMos calls in place of the original queue and of Prefect.

    PUT  /data-pipeline/enqueue              put a request in
    PUT  /data-pipeline/bulk-enqueue         put many in, all or none
    GET  /data-pipeline/status               how many wait, whether they are started, how many are at work
    GET  /data-pipeline/jobs                 what waits, oldest first
    PUT  /data-pipeline/stop, /start         pause, and go on
    PUT  /data-pipeline/clear                drop everything that waits
    PUT  /data-pipeline/force-flow           start the next one before all others
    PUT  /data-pipeline/retry-flow/RUN_ID    put in again what a run worked on
    POST /data-pipeline/check                what would a request become? nothing is put in
    POST /, /graphql                         state and log of a run
    GET  /metrics, /healthz, /openapi.json   for Prometheus, for probes, for whoever calls

Reading bodies is `parameters.py`, what becomes of a request `queue.py`, checking one `checking.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from dagster import DagsterInstance
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from datacube_assets import __version__
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.gateway.admission import Admission, check_networks, is_loopback
from datacube_assets.gateway.checking import BusyError, CheckFailedError, Checks
from datacube_assets.gateway.flows import LONGEST_QUERY, Flows, UnknownQueryError
from datacube_assets.gateway.listening import NamedHosts, listen
from datacube_assets.gateway.metrics import Metrics
from datacube_assets.gateway.parameters import (
    LARGEST_BODY,
    LARGEST_REQUEST,
    Reader,
    RefusedError,
    TooLargeError,
    parsed,
)
from datacube_assets.gateway.queue import ActiveRunError, FullError, RequestQueue, UnknownRunError
from datacube_assets.orchestration.home import open_instance
from datacube_assets.redaction import redacted
from datacube_assets.settings import Settings, names, networks
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.stores import StoreError

FAILED = "An error occured on the server while processing the request"
"""The original's words for everything that goes wrong, spelled as there."""
_LONGEST_REASON = 1000
LARGEST_QUERY = 4 * LONGEST_QUERY
"""Bytes of the body with a query."""
_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "It cannot be used; the second line says why. Nothing was queued.", **_TEXT},
    401: {"description": "The bearer token is missing.", **_TEXT},
    403: {"description": "The client's network may not call.", **_TEXT},
    413: {"description": f"More than {LARGEST_REQUEST:,} bytes; in bulk {LARGEST_BODY:,}.", **_TEXT},
    500: {"description": "The lake or Dagster cannot be used; the second line says why.", **_TEXT},
    503: {"description": "The queue is full, or checks are under way. Nothing was queued.", **_TEXT},
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _REFUSALS[status] for status in (401, 403, 500, *statuses)}


def _flow_parameters() -> dict[str, Any]:
    """The JSON schema of a flow parameter object; what is not in it is passed over."""
    schema = DatacubeRequest.model_json_schema()
    thresholds = schema.pop("$defs")["QualifierThresholds"]
    schema["properties"]["qualifier_thresholds"] = thresholds
    schema["properties"]["data_paths"]["minItems"] = 1
    for name in schema["properties"].keys() - set(schema["required"]):
        schema["properties"][name] = {"anyOf": [schema["properties"][name], {"type": "null"}]}
    return {**schema, "title": "Flow parameters"}


def _body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


_QUERY = {"type": "object", "required": ["query"], "properties": {"query": {"type": "string"}}}


async def _read(request: Request, most: int = LARGEST_REQUEST) -> bytes:
    """The body. Raises TooLargeError before more than is allowed was read."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise TooLargeError(f"the body must have at most {most:,} bytes")
    return bytes(body)


class Gateway:
    """What the addresses do. Whatever takes its time is done in threads."""

    def __init__(self, settings: Settings, instance: DagsterInstance, host: str) -> None:
        lake = Lake(open_store(settings.lake, settings.s3_endpoint))
        self.reader = Reader.of(settings, local_files=is_loopback(host))
        self.queue = RequestQueue(lake, instance, settings.queue_size)
        self.flows = Flows(instance, settings)
        self.checks = Checks(settings, self.reader.source.allowed_schemes, settings.gateway_checks)
        self.metrics = Metrics(lake, instance, self.queue)

    def routes(self) -> APIRouter:
        """The addresses of the queue."""
        # An answer without a body is all that the original gives.
        router = APIRouter(prefix="/data-pipeline", tags=["queue"], default_response_class=Response)
        one, many = _flow_parameters(), {"type": "array", "items": _flow_parameters()}

        @router.put("/enqueue", responses=_refusals(400, 413, 503), openapi_extra=_body(one))
        async def enqueue(request: Request) -> Response:
            """Put a request in at the end. Equal to one that waits, it is accepted and not put in again."""
            body = await _read(request)
            return await run_in_threadpool(self._enqueue, lambda: parsed(body))

        @router.put("/bulk-enqueue", responses=_refusals(400, 413, 503), openapi_extra=_body(many))
        async def bulk_enqueue(request: Request) -> Response:
            """Put requests in, in this order: all of them, or none."""
            body = await _read(request, LARGEST_BODY)
            return await run_in_threadpool(self._enqueue_many, body)

        @router.get("/status", responses=_refusals(), response_class=JSONResponse)
        def status() -> dict[str, int | bool]:
            """How many requests wait, whether they are started, and how many runs are at work."""
            now = self.queue.status()
            return {"count": now.count, "is_running": now.is_running, "running": now.running}

        @router.get("/jobs", responses=_refusals(), response_class=JSONResponse)
        def jobs() -> list[dict[str, Any]]:
            """What waits, oldest first, as it came."""
            return [dict(parameters) for parameters in self.queue.jobs()]

        def steering(path: str, act: Callable[[], object], about: str) -> None:
            def steer() -> Response:
                act()
                return Response()

            router.add_api_route(
                path, steer, methods=["PUT"], name=path.strip("/"), description=about, responses=_refusals()
            )

        steering("/start", self.queue.resume, "Start runs again.")
        steering("/stop", self.queue.pause, "Start no more runs; requests are still accepted.")
        steering("/clear", self.queue.clear, "Drop everything that waits. Runs at work go on.")
        steering(
            "/force-flow",
            self.queue.force,
            "Have the next request started before all others, though the queue be paused.",
        )

        @router.put(
            "/retry-flow/{run_id}",
            responses={
                404: {"description": "There is no such run.", **_TEXT},
                **_refusals(400, 413, 503),
            },
            openapi_extra=_body({"type": "object"}, required=False),
        )
        async def retry_flow(request: Request, run_id: str) -> Response:
            """Put in again what a run worked on, with some parameters replaced."""
            body = await _read(request)
            return await run_in_threadpool(self._retry, run_id, body)

        @router.post(
            "/check",
            responses=_refusals(400, 413, 503),
            openapi_extra=_body(one),
            response_class=JSONResponse,
        )
        async def check(request: Request) -> Response:
            """What would become of a request: rows, objects, warnings, errors. Nothing is queued.

            Answered when the files are looked through.
            """
            body = await _read(request)
            wanted = await run_in_threadpool(lambda: self.reader.read_one(parsed(body)).request)
            found = await self.checks.run(wanted, request.is_disconnected)
            return Response() if found is None else JSONResponse(found)

        return router

    def queries(self) -> APIRouter:
        """The addresses of Prefect's GraphQL."""
        router = APIRouter(tags=["runs"])
        refusals: dict[int | str, dict[str, Any]] = {
            **_refusals(413),
            400: {"description": "A query of another kind, or none."},
        }

        async def graphql(request: Request) -> JSONResponse:
            """State, times and log of the run that `flow_run(where: {id: {_eq: ...}})` names."""
            return await run_in_threadpool(self._query, await _read(request, LARGEST_QUERY))

        for path in ("/", "/graphql"):
            router.add_api_route(
                path, graphql, methods=["POST"], responses=refusals, openapi_extra=_body(_QUERY)
            )
        return router

    def operations(self) -> APIRouter:
        """The addresses for Prometheus and for probes."""
        router = APIRouter(tags=["operations"], default_response_class=PlainTextResponse)

        @router.get("/metrics", responses=_refusals())
        def metrics() -> Response:
            """Figures in Prometheus' text format."""
            return Response(self.metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")

        @router.get("/healthz")
        async def healthz() -> str:
            """Says that the gateway is there."""
            return "ok\n"

        return router

    def _enqueue(self, document: Callable[[], Any]) -> Response:
        with self._counting():
            outcome = self.queue.enqueue(self.reader.read_one(document()))
        self.metrics.requests.labels(outcome).inc()
        return Response()

    def _enqueue_many(self, body: bytes) -> Response:
        with self._counting():
            outcomes = self.queue.enqueue_many(self.reader.read_many(parsed(body)))
        for outcome in outcomes:
            self.metrics.requests.labels(outcome).inc()
        return Response()

    def _retry(self, run_id: str, body: bytes) -> Response:
        def document() -> Any:
            overrides = parsed(body) if body.strip() else {}
            if not isinstance(overrides or {}, dict):
                raise RefusedError("overrides are a JSON object of flow parameters")
            return {**self.queue.again(run_id), **(overrides or {})}

        return self._enqueue(document)

    def _query(self, body: bytes) -> JSONResponse:
        try:
            document = parsed(body)
            query = document.get("query") if isinstance(document, dict) else None
            return JSONResponse(self.flows.answer(query))
        except (RefusedError, UnknownQueryError) as error:
            return JSONResponse({"errors": [{"message": redacted(str(error))}]}, 400)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Count requests that are turned away."""
        try:
            yield
        except (RefusedError, FullError) as error:
            self.metrics.requests.labels("full" if isinstance(error, FullError) else "refused").inc()
            raise


def application(settings: Settings, instance: DagsterInstance, host: str = "127.0.0.1") -> ASGIApp:
    """The gateway over a lake and a Dagster, to be served at a host."""
    gateway = Gateway(settings, instance, host)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=names(settings.gateway_origins),
        allow_methods=["GET", "PUT", "POST"],
        allow_headers=["*"],
    )
    app = FastAPI(
        title="Gateway of datacube_assets",
        version=__version__,
        description="What CauseMos calls in place of its request queue and of Prefect.",
        # Their pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        middleware=[cors],
        exception_handlers={
            RefusedError: _told(400),
            TooLargeError: _told(413),
            ActiveRunError: _told(400),
            UnknownRunError: _told(404),
            FullError: _told(503),
            BusyError: _told(503),
            CheckFailedError: _told(500),
            ClientDisconnect: _told(400, "The request did not arrive."),
            StoreError: _told(500),
            Exception: _told(500, "The log of the gateway says why."),
        },
    )
    routers = (gateway.routes(), gateway.queries(), gateway.operations())
    for router in routers:
        app.include_router(router)
    token = settings.gateway_token.get_secret_value()
    admitted = Admission(app, networks(settings.gateway_clients), token)
    paths = {route.path for router in routers for route in router.routes if isinstance(route, APIRoute)}
    named = NamedHosts(admitted, host, names(settings.gateway_origins))
    return gateway.metrics.measured(named, paths)


def _told(status: int, text: str = "") -> Callable[[Request, Exception], Coroutine[Any, Any, Response]]:
    """A handler that says what went wrong: first in the original's words, then in ours."""

    async def tell(request: Request, error: Exception) -> Response:
        said = text or redacted(str(error))
        return PlainTextResponse(f"{FAILED}\n{said[:_LONGEST_REASON]}\n", status)

    return tell


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve the gateway until interrupted.

    Raises SettingsError when nobody said who may call, StoreError when the lake cannot be used.
    """
    check_networks(settings, host)
    open_store(settings.lake, settings.s3_endpoint).check("DATACUBE_LAKE")
    with open_instance(settings) as instance:
        listen(
            application(settings, instance, host),
            host,
            port,
            # Who calls is where the connection comes from.
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )

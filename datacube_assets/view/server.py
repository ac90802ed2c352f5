"""The server of the page: its files, and what it asks for as JSON. Nothing but GET, and nothing is written.

Every answer comes from single objects read by key, as CauseMos' reader reads them; only
the list of datacubes needs a listing. What a name in a request may be is decided by `kernels/keys.py`.

Every answer about a datacube is of one version of it, and says of which (`ETag`, and `version` where the
answer is an object): a datacube that is published anew meanwhile is told as 409, never as a mixture. Whoever
puts several answers together gives the `version` of the first with the others. With `number`, the answer is
of the version of that number in the history, from the tables that it keeps; one without is told as 410.

    GET  /                    the page
    GET  /api/runs            complete datacubes
    GET  /api/run             what results.json says of one, and what Dojo calls its features
    GET  /api/timeseries      lines over all places, or of a region
    GET  /api/regions         ids of regions by level
    GET  /api/regional        figures of the regions of a level at a time
    GET  /api/ranges          smallest and largest figures of all bins by zoom, at a time or over all times
    GET  /api/tiles/Z/X/Y     the bins of a tile; one that is missing is empty
    GET  /api/place           the regions that have a place in a bin
    GET  /api/places          the middle of each region of a level
    GET  /api/area            lines over the bins of a rectangle
    GET  /api/qualifiers      the qualifiers that break a feature down, with their values
    GET  /api/explain         where a figure comes from: formula, cells, rows (`explaining.py`)
    GET  /api/version         which version stands now
    GET  /api/versions        the history: numbers, states, whether tables are kept
    GET  /api/palettes        the colours of the map
    GET  /api/about, /api/table    data dictionary and tables of a datacube (`dictionary.py`)
    GET  /download/...        the same as files, and regions for a GIS (`downloads.py`)
    GET  /tiles/...           pictures of tiles, and TileJSON (`pictures.py`)
    GET  /docs/...            the documentation (`documentation.py`)

Parameters are `model_id` and `run_id`, and where they apply `feature`, `resolution`, `level`, `region`,
`timestamp` (milliseconds UTC), `z`, `x`, `y`, `bin`, `qualifier`, `value`, `version` and `number`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.gateway.listening import NamedHosts, listen
from datacube_assets.kernels.decode import UnreadableObjectError
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.key_safety import UnsafeKeyError
from datacube_assets.read import NoDataError, PublishedDatacube
from datacube_assets.redaction import redacted
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.published import Published
from datacube_assets.storage.stores import MissingObjectError, Store, StoreError
from datacube_assets.view import documentation
from datacube_assets.view.answers import Answer, Answers, NotThisVersionError
from datacube_assets.view.catalogue import Descriptions, complete_runs
from datacube_assets.view.dictionary import about, page_of, table_of, versions_of
from datacube_assets.view.downloads import FORMATS, as_file
from datacube_assets.view.kept_version import KeptVersion
from datacube_assets.view.pictures import palettes, png, tilejson
from datacube_assets.view.places import UnknownPlacesError, middles_of
from datacube_assets.view.published_version import PublishedVersion
from datacube_assets.view.query import Query

STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # What is published may change at any moment, and the page with the package.
    "Cache-Control": "no-cache",
}

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """What the page is about: the stores of the settings, read as they are at each request."""

    settings: Settings

    @cached_property
    def descriptions(self) -> Descriptions:
        return Descriptions.of(self.settings)

    @property
    def lake(self) -> Lake:
        return Lake(self._store(self.settings.lake))

    def published(self, run: ModelRun) -> Published:
        """The objects of a run, in the bucket where CauseMos' reader looks for them. Raises InputError."""
        run.check()
        url = self.settings.bucket_for(indicator=run.is_indicator)
        return Published(self._store(url), run)

    def _store(self, url: str) -> Store:
        return open_store(url, self.settings.s3_endpoint)

    def answers(self, query: Query) -> Answers:
        """What answers for the version that a request names: its tables where that is an earlier one."""
        number = query.number
        if number is None:
            return PublishedVersion(self.lake, self.published(query.run))
        query.run.check()
        return KeptVersion(self.lake, query.run, number)

    def of_one_version(self, query: Query, answer: Callable[[Answers, Query], T]) -> tuple[T, str]:
        """An answer that is of one version of its datacube, and which. Raises NotThisVersionError."""
        answers = self.answers(query)
        version = query.version or answers.standing()
        try:
            found = answer(answers, query)
        except (LookupError, ValueError):
            # Of a datacube that is being replaced, objects may be gone or of any kind.
            answers.still_stands(version)
            raise
        answers.still_stands(version)
        return found, version

    def known_version(self, query: Query, tags: Iterable[str]) -> str | None:
        """The version that an answer would be of, if a client says that it has that one (`If-None-Match`)."""
        held = {tag.strip().removeprefix("W/") for line in tags for tag in line.split(",")}
        if not any(held):
            return None
        standing = self.answers(query).standing()
        return standing if f'"{standing}"' in held and query.version in ("", standing) else None

    # --- answers ---------------------------------------------------------------------------------------

    def runs(self, query: Query) -> Answer:
        return {
            "runs": [
                {
                    "model_id": run.model_id,
                    "run_id": run.run_id,
                    "is_dataset": run.is_indicator,
                    "published": published,
                }
                for run, published in complete_runs(self.settings)
            ],
            "looked": [self.settings.models_bucket, self.settings.indicators_bucket],
        }

    def run(self, answers: Answers, query: Query) -> Answer:
        cube, described = answers.cube, self.descriptions.outputs(query.run)
        features = []
        for name in cube.features:
            about = described.get(name)
            features.append(
                {
                    "name": name,
                    "display_name": about.display_name if about else "",
                    "description": about.description if about else "",
                    "unit": about.unit if about else "",
                }
            )
        return {
            "features": features,
            "levels": cube.levels,
            "has_tiles": cube.has_tiles,
            "has_weights": cube.has_weights,
        }

    def versions(self, query: Query) -> Answer:
        """The history of a datacube, which is of no version; nothing where the lake cannot be read."""
        query.run.check()
        try:
            return {"versions": versions_of(self.lake, query.run)}
        except (StoreError, OSError) as error:
            _log.warning("the versions of %s are not known: %s", query.run, redacted(str(error)))
            return {"versions": []}

    def about(self, answers: Answers, query: Query) -> Answer:
        if not isinstance(answers.cube, PublishedDatacube):
            raise HTTPException(400, "only the published version has a page: leave number out")
        run = query.run
        return about(answers.cube, run, self.descriptions.outputs(run), self.lake, self._checks(run))

    def _checks(self, run: ModelRun) -> list[dict[str, Any]] | None:
        """What the checks of a datacube said last; None where that cannot be known."""
        # Imported here: most of who looks at a map never comes to it, and Dagster takes a while.
        from datacube_assets.operations.inspect import last_verdicts
        from datacube_assets.orchestration.home import has_instance, open_instance

        if not has_instance(self.settings):
            return None
        try:
            with open_instance(self.settings) as instance:
                return last_verdicts(instance, run)
        except Exception as error:
            # Whatever is wrong with Dagster's storage, the datacube is not concerned.
            _log.warning("the checks of %s are not known: %s", run, error)
            return None

    def table(self, answers: Answers, query: Query) -> Answer:
        return page_of(table_of(answers.cube, query), query)

    def download(self, answers: Answers, query: Query) -> Response:
        """A table as a file."""
        kind = query.one_of("kind", FORMATS)
        table = table_of(answers.cube, query)
        middles = None
        if query.text("table") == "regions" and kind != "csv":
            with contextlib.suppress(UnknownPlacesError):
                middles = middles_of(answers.places_of(query.feature), query.level)
        elif kind == "geojson":
            raise HTTPException(400, "only the table regions can be had as geojson")
        parts = [query.text(name) for name in ("feature", "table", "level", "time") if query.has(name)]
        version = [] if query.number is None else [f"version {query.number}"]
        name = " ".join([query.run.model_id, query.run.run_id, *version, *parts])
        return as_file(table, kind, name, middles)


def _picture(answers: Answers, query: Query) -> Response:
    return Response(png(answers.cube, query), media_type="image/png")


def _tilejson(answers: Answers, query: Query) -> Response:
    return JSONResponse(tilejson(answers.cube, query))


# --- the application -------------------------------------------------------------------------------------


def application(settings: Settings, host: str = "127.0.0.1") -> Starlette:
    """The page and its answers, to be served at a host."""
    view = View(settings)

    def told(answer: Answer, version: str) -> Response:
        headers = {"ETag": f'"{version}"'}
        return JSONResponse({**answer, "version": version}, headers=headers)

    # Not coroutines: reading objects takes its time, for which there are threads.
    def of_datacube(path: str, answer: Callable[[Answers, Query], Answer]) -> Route:
        return Route(
            path, lambda request: told(*view.of_one_version(Query(request), answer)), methods=["GET"]
        )

    def file(path: str, answer: Callable[[Answers, Query], Response]) -> Route:
        def get(request: Request) -> Response:
            query = Query(request)
            known = view.known_version(query, request.headers.getlist("If-None-Match"))
            if known is not None:
                return Response(status_code=304, headers={"ETag": f'"{known}"'})
            response, version = view.of_one_version(query, answer)
            response.headers["ETag"] = f'"{version}"'
            return response

        return Route(path, get, methods=["GET"])

    api = [
        Route("/runs", lambda request: JSONResponse(view.runs(Query(request))), methods=["GET"]),
        Route("/versions", lambda request: JSONResponse(view.versions(Query(request))), methods=["GET"]),
        Route("/palettes", lambda request: JSONResponse(palettes()), methods=["GET"]),
        of_datacube("/run", view.run),
        of_datacube("/version", lambda answers, query: {}),
        of_datacube("/timeseries", lambda answers, query: answers.timeseries(query)),
        of_datacube("/qualifiers", lambda answers, query: answers.qualifiers(query)),
        of_datacube("/area", lambda answers, query: answers.area(query)),
        of_datacube("/regions", lambda answers, query: answers.regions(query)),
        of_datacube("/regional", lambda answers, query: answers.regional(query)),
        of_datacube("/ranges", lambda answers, query: answers.ranges(query)),
        of_datacube("/tiles/{z}/{x}/{y}", lambda answers, query: answers.tile(query)),
        of_datacube("/place", lambda answers, query: answers.place(query)),
        of_datacube("/places", lambda answers, query: answers.places(query)),
        of_datacube("/about", view.about),
        of_datacube("/table", view.table),
        of_datacube("/explain", lambda answers, query: answers.explain(query)),
    ]
    return Starlette(
        routes=[
            Mount("/api", routes=api),
            file("/download/{table}.{kind}", view.download),
            file("/tiles/{key}/{feature:path}/{time}/{z}/{x}/{y}.png", _picture),
            file("/tiles/{key}/{feature:path}/{time}.json", _tilejson),
            Route("/docs/{name:path}", _documentation, methods=["GET"]),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ],
        middleware=[Middleware(_Guarded, host=host)],
        exception_handlers={
            HTTPException: _told(lambda error: cast(HTTPException, error).status_code),
            NotThisVersionError: _replaced,
            NoDataError: _told(404),
            InputError: _told(400),
            UnsafeKeyError: _told(400),
            MissingObjectError: _told(
                404, "There is no such object (any more): the datacube may be in the making. Reload the page."
            ),
            UnreadableObjectError: _told(500),
            StoreError: _told(502),
        },
    )


def _documentation(request: Request) -> Response:
    """A page of the documentation, or a picture in it."""
    name = request.path_params["name"] or "index.md"
    text = documentation.page(name)
    if text is not None:
        return HTMLResponse(text)
    path = documentation.file(name)
    if path is None:
        there = "There is no such page of the documentation"
        absent = "The documentation is not installed here: DATACUBE_DOCS_URL says where it can be read"
        raise HTTPException(404, there if documentation.folder() else absent)
    return FileResponse(path)


def _replaced(request: Request, error: Exception) -> Response:
    """Tells what became of the version that was asked for, and why, for a program to act on."""
    assert isinstance(error, NotThisVersionError)
    status = {"changed": 409, "absent": 404, "gone": 410}[error.reason]
    return JSONResponse({"detail": str(error), "reason": error.reason}, status)


def _told(
    status: int | Callable[[Exception], int], text: str = ""
) -> Callable[[Request, Exception], Response]:
    """A handler that says what went wrong as the page expects it."""

    def tell(request: Request, error: Exception) -> Response:
        said = text or (redacted(error.detail if isinstance(error, HTTPException) else str(error)))
        headers = error.headers if isinstance(error, HTTPException) else None
        return JSONResponse({"detail": said}, status if isinstance(status, int) else status(error), headers)

    return tell


class _Guarded:
    """Adds the headers that keep a browser safe."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = NamedHosts(app, host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, guarded)


def serve(settings: Settings, host: str, port: int, begins: Callable[[], None] = lambda: None) -> None:
    """Serve the page until interrupted; `begins` is called when nothing stands in the way.

    Raises StoreError when a bucket cannot be read at all.
    """
    for url, setting in (
        (settings.models_bucket, "DATACUBE_MODELS_BUCKET"),
        (settings.indicators_bucket, "DATACUBE_INDICATORS_BUCKET"),
    ):
        open_store(url, settings.s3_endpoint).check(setting, write=False)
    begins()
    sys.stdout.flush()
    listen(application(settings, host), host, port)

"""The server of the page: its files, and what it asks for as JSON. Nothing but GET, and nothing is written.

Every answer comes from single objects read by key, as CauseMos' reader reads them; only
the list of datacubes needs a listing. What a name in a request may be is decided by `kernels/keys.py`.

Every answer about a datacube is of one version of it, and says of which (`ETag`, and `version` where the
answer is an object): a datacube that is published anew meanwhile is told as 409, never as a mixture. Whoever
puts several answers together gives the `version` of the first with the others.

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
    GET  /api/palettes        the colours of the map
    GET  /api/about, /api/table    data dictionary and tables of a datacube (`dictionary.py`)
    GET  /download/...        the same as files, and regions for a GIS (`downloads.py`)
    GET  /tiles/...           pictures of tiles, and TileJSON (`pictures.py`)
    GET  /docs/...            the documentation (`documentation.py`)

Parameters are `model_id` and `run_id`, and where they apply `feature`, `resolution`, `level`, `region`,
`timestamp` (milliseconds UTC), `z`, `x`, `y`, `bin`, `qualifier`, `value` and `version`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc
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
from datacube_assets.kernels.morton import BINS_PER_TILE
from datacube_assets.kernels.schema import region_levels
from datacube_assets.read import NoDataError, PublishedDatacube
from datacube_assets.redaction import redacted
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.published import Published
from datacube_assets.storage.stores import MissingObjectError, Store, StoreError
from datacube_assets.view import documentation
from datacube_assets.view.catalogue import Descriptions, complete_runs
from datacube_assets.view.dictionary import about, page_of, table_of
from datacube_assets.view.downloads import FORMATS, as_file
from datacube_assets.view.explaining import explanation
from datacube_assets.view.pictures import palettes, png, tilejson
from datacube_assets.view.places import UnknownPlacesError, middles_of, regions_in
from datacube_assets.view.query import FIGURES, ZOOMS, Query

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

Answer = dict[str, Any]
_log = logging.getLogger(__name__)
T = TypeVar("T")

_AREA_TILES = 4
"""Tiles that the lines of a rectangle read for each time: their zoom is as fine as that allows."""


class NotThisVersionError(Exception):
    """The datacube was published anew, or is about to be; `reason` is `changed` or `absent`."""

    def __init__(self, run: ModelRun, reason: Literal["changed", "absent"]) -> None:
        self.reason = reason
        super().__init__(
            f"{run} was published anew meanwhile. Reload to see the new version"
            if reason == "changed"
            else f"{run} has no complete datacube here: it does not exist, or is being published right now. "
            "Try again in a moment"
        )


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
        url = self.settings.indicators_bucket if run.is_indicator else self.settings.models_bucket
        return Published(self._store(url), run)

    def _store(self, url: str) -> Store:
        return open_store(url, self.settings.s3_endpoint)

    def of_one_version(self, query: Query, answer: Callable[[Query], T]) -> tuple[T, str]:
        """An answer that is of one version of its datacube, and which. Raises NotThisVersionError."""
        published = self.published(query.run)
        version = query.version or _standing(published)
        try:
            found = answer(query)
        except (LookupError, ValueError):
            # Of a datacube that is being replaced, objects may be gone or of any kind.
            self._check(published, version)
            raise
        self._check(published, version)
        return found, version

    def _check(self, published: Published, version: str) -> None:
        if _standing(published) != version:
            raise NotThisVersionError(published.run, "changed")

    def version(self, query: Query) -> Answer:
        return {}

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

    def run(self, query: Query) -> Answer:
        published = self.published(query.run)
        info = published.results()["data_info"]
        described = self.descriptions.outputs(query.run)
        features = []
        for name in sorted(info["features"]):
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
            "levels": list(region_levels(info["region_levels"])),
            "has_tiles": info["has_tiles"],
            "has_weights": info["has_weights"],
        }

    def timeseries(self, query: Query) -> Answer:
        published = self.published(query.run)
        region = query.text("region", "")
        qualifier, value = query.breakdown
        try:
            if region:
                table = published.regional_timeseries(
                    query.resolution, query.level, query.feature, region, qualifier, value
                )
            elif qualifier is not None:
                table = self._line_of_value(query, qualifier, value)
            else:
                table = published.global_timeseries(query.resolution, query.feature)
        except MissingObjectError:
            # The reader answers an empty list where a region has no line.
            if not region and qualifier is None:
                raise
            return {"timestamps": [], "columns": {}}
        table = table.sort_by("timestamp")
        return {
            "timestamps": table["timestamp"].cast(pa.int64()).to_pylist(),
            "columns": _columns(table, without="timestamp"),
        }

    def _line_of_value(self, query: Query, qualifier: str, value: str | None) -> pa.Table:
        """The line of one value of a qualifier over all places."""
        cube = PublishedDatacube(self.published(query.run))
        try:
            return cube.timeseries(
                query.feature, qualifier=qualifier, value=value, resolution=query.resolution
            ).drop_columns("value")
        except NoDataError as error:
            raise MissingObjectError(str(error)) from None

    def qualifiers(self, query: Query) -> Answer:
        """Values by qualifier, of those whose breakdowns of regions are published."""
        cube = PublishedDatacube(self.published(query.run))
        found = {}
        for qualifier in sorted(cube.qualifiers(query.feature)):
            if self._is_broken_down(cube, query, qualifier):
                found[qualifier] = cube.qualifier_values(query.feature, qualifier)
        return {"qualifiers": found}

    def _is_broken_down(self, cube: PublishedDatacube, query: Query, qualifier: str) -> bool:
        try:
            self.published(query.run).qualifier_timeseries("month", query.feature, qualifier, "s_count")
        except MissingObjectError:
            return False
        return bool(cube.levels)

    def area(self, query: Query) -> Answer:
        """Lines over the bins that have a part in a rectangle."""
        cube = PublishedDatacube(self.published(query.run))
        bounds, resolution = query.bounds, query.resolution
        zoom = _zoom_for(bounds, _AREA_TILES)
        times = cube.timestamps(query.feature, resolution).astype("int64").tolist()
        columns: dict[str, list[float | None]] = {name: [] for name in (*FIGURES, "s_count")}
        for time in times:
            try:
                bins = cube.bins(query.feature, time, zoom=zoom, bounds=bounds, resolution=resolution)
            except NoDataError:
                bins = pa.table({name: pa.array([], pa.float64()) for name in columns})
            count = pc.sum(bins["s_count"]).as_py() or 0
            columns["s_count"].append(count)
            for measure in ("t_sum", "t_mean"):
                total = float(pc.sum(bins[f"s_sum_{measure}"]).as_py() or 0.0)
                columns[f"s_sum_{measure}"].append(total if count else None)
                columns[f"s_mean_{measure}"].append(total / count if count else None)
        return {
            "timestamps": times,
            "columns": {name: _finite(values) for name, values in columns.items()},
            "zoom": zoom,
        }

    def regions(self, query: Query) -> Answer:
        try:
            lists = self.published(query.run).region_lists(query.feature)
        except MissingObjectError:
            return {"lists": {}}
        return {"lists": {str(level): ids for level, ids in lists.items()}}

    def regional(self, query: Query) -> Answer:
        qualifier, value = query.breakdown
        try:
            table = self.published(query.run).regional_map(
                query.resolution, query.level, query.feature, query.timestamp, qualifier
            )
        except MissingObjectError:
            return {"ids": [], "columns": {}}
        if qualifier is not None:
            table = table.filter(pc.equal(table["value"], value)).drop_columns("value")
        return {"ids": table["region_id"].to_pylist(), "columns": _columns(table, without="region_id")}

    def ranges(self, query: Query) -> Answer:
        published = self.published(query.run)

        def stats(timestamp: int) -> pa.Table | None:
            try:
                return published.grid_stats(query.resolution, query.feature, timestamp)
            except MissingObjectError:
                return None

        if query.has("timestamp"):
            tables = [stats(query.timestamp)]
        else:
            series = published.global_timeseries(query.resolution, query.feature)
            times = series["timestamp"].cast(pa.int64()).to_pylist()
            tables = list(published.each(stats, times))
        return {"columns": _ranges([table for table in tables if table is not None])}

    def tile(self, query: Query) -> Answer:
        zoom, x, y = query.tile
        try:
            tile = self.published(query.run).tile(
                query.resolution, query.feature, query.timestamp, zoom, x, y
            )
        except MissingObjectError:
            return {"bin": [], "s_sum_t_sum": [], "s_sum_t_mean": [], "weight": []}
        return {
            "bin": tile.bin.tolist(),
            "s_sum_t_sum": _finite(tile.s_sum_t_sum.tolist()),
            "s_sum_t_mean": _finite(tile.s_sum_t_mean.tolist()),
            "weight": _finite(tile.s_count.tolist()),
        }

    def about(self, query: Query) -> Answer:
        run = query.run
        cube = PublishedDatacube(self.published(run))
        return about(cube, run, self.descriptions.outputs(run), self.lake, self._checks(run))

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

    def table(self, query: Query) -> Answer:
        return page_of(table_of(PublishedDatacube(self.published(query.run)), query), query)

    def download(self, query: Query) -> Response:
        """A table as a file."""
        published, kind = self.published(query.run), query.one_of("kind", FORMATS)
        table = table_of(PublishedDatacube(published), query)
        middles = None
        if query.text("table") == "regions" and kind != "csv":
            with contextlib.suppress(UnknownPlacesError):
                middles = middles_of(self.lake, published, query.feature, query.level)
        elif kind == "geojson":
            raise HTTPException(400, "only the table regions can be had as geojson")
        parts = [query.text(name) for name in ("feature", "table", "level", "time") if query.has(name)]
        return as_file(table, kind, " ".join([query.run.model_id, query.run.run_id, *parts]), middles)

    def picture(self, query: Query) -> Response:
        return Response(png(self.published(query.run), query), media_type="image/png")

    def tilejson(self, query: Query) -> Response:
        return JSONResponse(tilejson(self.published(query.run), query))

    def explain(self, query: Query) -> Answer:
        return explanation(self.lake, query)

    def place(self, query: Query) -> Answer:
        zoom, x, y = query.tile
        bin_ = query.whole("bin", BINS_PER_TILE)
        published = self.published(query.run)
        try:
            regions = regions_in(self.lake, published, query.feature, zoom, x, y, bin_)
        except UnknownPlacesError:
            return {"known": False, "regions": []}
        return {"known": True, "regions": regions}

    def places(self, query: Query) -> Answer:
        published = self.published(query.run)
        try:
            middles = middles_of(self.lake, published, query.feature, query.level)
        except UnknownPlacesError:
            return {"known": False, "places": {}}
        return {
            "known": True,
            "places": {name: [round(lat, 6), round(lng, 6)] for name, (lat, lng) in middles.items()},
        }


def _standing(published: Published) -> str:
    """The version that stands. Raises NotThisVersionError when the datacube is not complete."""
    try:
        return published.version()
    except MissingObjectError:
        raise NotThisVersionError(published.run, "absent") from None


def _zoom_for(bounds: tuple[float, float, float, float], tiles: int) -> int:
    """The finest zoom at which a rectangle lies in so many tiles."""
    west, south, east, north = bounds
    for zoom in range(ZOOMS - 1, 0, -1):
        across = (east - west) / 360 * 2**zoom + 1
        down = (north - south) / 170 * 2**zoom + 1
        if across * down <= tiles:
            return zoom
    return 0


def _columns(table: pa.Table, *, without: str) -> dict[str, list[float | None]]:
    return {name: _finite(table[name].to_pylist()) for name in table.column_names if name != without}


def _finite(values: Iterable[float | None]) -> list[float | None]:
    """Numbers as JSON can say them; the original wrote infinities into tiles."""
    return [value if value is not None and math.isfinite(value) else None for value in values]


def _ranges(tables: list[pa.Table]) -> dict[str, list[float | None]]:
    """Smallest of the columns `min_...` and largest of `max_...` at each zoom, over several times."""
    if not tables:
        return {}
    stats = pa.concat_tables(tables)
    figures = [name for name in stats.column_names if name != "zoom"]
    extremes: list[tuple[str, Literal["min", "max"]]] = [
        (name, "min" if name.startswith("min_") else "max") for name in figures
    ]
    by_zoom = stats.group_by("zoom").aggregate(extremes).sort_by("zoom")
    return {name: _finite(by_zoom[f"{name}_{extreme}"].to_pylist()) for name, extreme in extremes}


# --- the application -------------------------------------------------------------------------------------


def application(settings: Settings, host: str = "127.0.0.1") -> Starlette:
    """The page and its answers, to be served at a host."""
    view = View(settings)

    def told(answer: Answer, version: str) -> Response:
        headers = {"ETag": f'"{version}"'}
        return JSONResponse({**answer, "version": version}, headers=headers)

    # Not coroutines: reading objects takes its time, for which there are threads.
    def of_datacube(path: str, answer: Callable[[Query], Answer]) -> Route:
        return Route(
            path, lambda request: told(*view.of_one_version(Query(request), answer)), methods=["GET"]
        )

    def file(path: str, answer: Callable[[Query], Response]) -> Route:
        def get(request: Request) -> Response:
            response, version = view.of_one_version(Query(request), answer)
            response.headers["ETag"] = f'"{version}"'
            return response

        return Route(path, get, methods=["GET"])

    api = [
        Route("/runs", lambda request: JSONResponse(view.runs(Query(request))), methods=["GET"]),
        Route("/palettes", lambda request: JSONResponse(palettes()), methods=["GET"]),
        of_datacube("/run", view.run),
        of_datacube("/version", view.version),
        of_datacube("/timeseries", view.timeseries),
        of_datacube("/qualifiers", view.qualifiers),
        of_datacube("/area", view.area),
        of_datacube("/regions", view.regions),
        of_datacube("/regional", view.regional),
        of_datacube("/ranges", view.ranges),
        of_datacube("/tiles/{z}/{x}/{y}", view.tile),
        of_datacube("/place", view.place),
        of_datacube("/places", view.places),
        of_datacube("/about", view.about),
        of_datacube("/table", view.table),
        of_datacube("/explain", view.explain),
    ]
    return Starlette(
        routes=[
            Mount("/api", routes=api),
            file("/download/{table}.{kind}", view.download),
            file("/tiles/{key}/{feature:path}/{time}/{z}/{x}/{y}.png", view.picture),
            file("/tiles/{key}/{feature:path}/{time}.json", view.tilejson),
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
    status = 409 if error.reason == "changed" else 404
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

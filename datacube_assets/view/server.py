"""The server of the page: its files, and what it asks for as JSON. Nothing but GET, and nothing is written.

Every answer comes from single objects read by key, as CauseMos' reader reads them; only
the list of datacubes needs a listing. What a name in a request may be is decided by `kernels/keys.py`.

    GET  /                    the page
    GET  /api/runs            complete datacubes
    GET  /api/run             what results.json says of one, and what Dojo calls its features
    GET  /api/timeseries      lines over all places, or of a region
    GET  /api/regions         ids of regions by level
    GET  /api/regional        figures of the regions of a level at a time
    GET  /api/ranges          smallest and largest figures of all bins by zoom, at a time or over all times
    GET  /api/tiles/Z/X/Y     the bins of a tile; one that is missing is empty
    GET  /api/place           the regions that have a place in a bin

Parameters are `model_id` and `run_id`, and where they apply `feature`, `resolution`, `level`, `region`,
`timestamp` (milliseconds UTC), `z`, `x`, `y` and `bin`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.gateway.listening import NamedHosts, listen
from datacube_assets.http_client.redaction import redacted
from datacube_assets.kernels.decode import UnreadableObjectError
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.key_safety import UnsafeKeyError
from datacube_assets.kernels.morton import BINS_PER_TILE, PRECISIONS
from datacube_assets.kernels.schema import (
    REGION_LEVELS,
    RESOLUTIONS,
    RegionLevel,
    Resolution,
    region_levels,
)
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.published import Published
from datacube_assets.storage.stores import MissingObjectError, Store, StoreError
from datacube_assets.view.catalogue import Descriptions, complete_runs
from datacube_assets.view.places import UnknownPlacesError, regions_in

STATIC = Path(__file__).parent / "static"
ZOOMS = len(PRECISIONS)
_LONGEST_TIME = 2**63
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

    # --- answers ---------------------------------------------------------------------------------------

    def runs(self, query: _Query) -> Answer:
        runs = complete_runs(self.settings)
        return {
            "runs": [
                {"model_id": run.model_id, "run_id": run.run_id, "is_dataset": run.is_indicator}
                for run in runs
            ],
            "looked": [self.settings.models_bucket, self.settings.indicators_bucket],
        }

    def run(self, query: _Query) -> Answer:
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

    def timeseries(self, query: _Query) -> Answer:
        published = self.published(query.run)
        region = query.text("region", "")
        try:
            if region:
                table = published.regional_timeseries(query.resolution, query.level, query.feature, region)
            else:
                table = published.global_timeseries(query.resolution, query.feature)
        except MissingObjectError:
            # The reader answers an empty list where a region has no line.
            if not region:
                raise
            return {"timestamps": [], "columns": {}}
        table = table.sort_by("timestamp")
        return {
            "timestamps": table["timestamp"].cast(pa.int64()).to_pylist(),
            "columns": _columns(table, without="timestamp"),
        }

    def regions(self, query: _Query) -> Answer:
        try:
            lists = self.published(query.run).region_lists(query.feature)
        except MissingObjectError:
            return {}
        return {str(level): ids for level, ids in lists.items()}

    def regional(self, query: _Query) -> Answer:
        try:
            table = self.published(query.run).regional_map(
                query.resolution, query.level, query.feature, query.timestamp
            )
        except MissingObjectError:
            return {"ids": [], "columns": {}}
        return {"ids": table["region_id"].to_pylist(), "columns": _columns(table, without="region_id")}

    def ranges(self, query: _Query) -> Answer:
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

    def tile(self, query: _Query) -> Answer:
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

    def place(self, query: _Query) -> Answer:
        zoom, x, y = query.tile
        bin_ = query.whole("bin", BINS_PER_TILE)
        published = self.published(query.run)
        try:
            regions = regions_in(self.lake, published, query.feature, zoom, x, y, bin_)
        except UnknownPlacesError:
            return {"known": False, "regions": []}
        return {"known": True, "regions": regions}


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


# --- what is asked ---------------------------------------------------------------------------------------


class _Query:
    """The parameters of a request. Every property raises a 400 where what it stands for is missing."""

    def __init__(self, request: Request) -> None:
        self._given: Mapping[str, Any] = {**request.query_params, **request.path_params}

    def has(self, name: str) -> bool:
        return name in self._given

    def text(self, name: str, default: str | None = None) -> str:
        value = self._given.get(name, default)
        if value is None:
            raise HTTPException(400, f"the parameter {name} is missing")
        return str(value)

    def whole(self, name: str, below: int, *, at_least: int = 0) -> int:
        text = self.text(name)
        try:
            number = int(text)
        except ValueError:
            number = below
        if not at_least <= number < below:
            raise HTTPException(400, f"{name} must be a whole number from {at_least} to {below - 1}")
        return number

    def _one_of(self, name: str, allowed: Iterable[str]) -> str:
        text = self.text(name)
        if text not in allowed:
            raise HTTPException(400, f"{name} must be one of {', '.join(allowed)}")
        return text

    @property
    def run(self) -> ModelRun:
        return ModelRun(self.text("model_id"), self.text("run_id"))

    @property
    def feature(self) -> str:
        return self.text("feature")

    @property
    def resolution(self) -> Resolution:
        return cast(Resolution, self._one_of("resolution", RESOLUTIONS))

    @property
    def level(self) -> RegionLevel:
        return cast(RegionLevel, self._one_of("level", REGION_LEVELS))

    @property
    def timestamp(self) -> int:
        return self.whole("timestamp", _LONGEST_TIME, at_least=-_LONGEST_TIME)

    @property
    def tile(self) -> tuple[int, int, int]:
        """Zoom, x and y."""
        zoom = self.whole("z", ZOOMS)
        return zoom, self.whole("x", 2**zoom), self.whole("y", 2**zoom)


# --- the application -------------------------------------------------------------------------------------


def application(settings: Settings, host: str = "127.0.0.1") -> Starlette:
    """The page and its answers, to be served at a host."""
    view = View(settings)

    def answering(path: str, answer: Callable[[_Query], Answer]) -> Route:
        # Not a coroutine: reading objects takes its time, for which there are threads.
        return Route(path, lambda request: JSONResponse(answer(_Query(request))), methods=["GET"])

    routes = [
        answering("/runs", view.runs),
        answering("/run", view.run),
        answering("/timeseries", view.timeseries),
        answering("/regions", view.regions),
        answering("/regional", view.regional),
        answering("/ranges", view.ranges),
        answering("/tiles/{z}/{x}/{y}", view.tile),
        answering("/place", view.place),
    ]
    return Starlette(
        routes=[Mount("/api", routes=routes), Mount("/", StaticFiles(directory=STATIC, html=True))],
        middleware=[Middleware(_Guarded, host=host)],
        exception_handlers={
            HTTPException: _told(lambda error: cast(HTTPException, error).status_code),
            InputError: _told(400),
            UnsafeKeyError: _told(400),
            MissingObjectError: _told(
                404, "There is no such object (any more): the datacube may be in the making. Reload the page."
            ),
            UnreadableObjectError: _told(500),
            StoreError: _told(502),
        },
    )


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


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve the page until interrupted. Raises StoreError when a bucket cannot be read at all."""
    for url, setting in (
        (settings.models_bucket, "DATACUBE_MODELS_BUCKET"),
        (settings.indicators_bucket, "DATACUBE_INDICATORS_BUCKET"),
    ):
        open_store(url, settings.s3_endpoint).check(setting, write=False)
    listen(application(settings, host), host, port)

"""Tiles as pictures for other programs: PNG of 256 pixels, and TileJSON that tells where they are.

How bins become colours belongs here; the page of `datacube view` draws its own (`static/js/`), by the same
palettes (`static/palettes.json`).
"""

from __future__ import annotations

import functools
import io
import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image
from starlette.exceptions import HTTPException

from datacube_assets.kernels.groups import Floats
from datacube_assets.kernels.morton import BIN_BITS, ZOOMS
from datacube_assets.read import Datacube
from datacube_assets.view.query import Query

PALETTES = Path(__file__).parent / "static" / "palettes.json"
SCALES = ("linear", "log")
STYLE = ("figure", "palette", "scale", "min", "max")
"""Parameters that say how a picture looks."""
_SIDE = 1 << BIN_BITS
_PIXELS = 256
_COLOURS = 255
_BOUNDS_ZOOM = 2


@functools.cache
def palettes() -> dict[str, list[str]]:
    """Names and colours (`rrggbb`), from the smallest value to the largest."""
    found: dict[str, list[str]] = json.loads(PALETTES.read_text())
    return found


def png(cube: Datacube, query: Query) -> bytes:
    """The picture of a tile; one that is not there is transparent."""
    resolution, time = query.time
    zoom, x, y = query.tile
    figure, palette = query.figure, query.one_of("palette", palettes(), "viridis")
    scale = query.one_of("scale", SCALES, "linear")
    given = _asked_range(query, scale)
    tile = cube.tile(query.feature, time, zoom, x, y, resolution=resolution)
    numbers = np.zeros(_SIDE * _SIDE, np.uint8)
    if tile.num_rows:
        low, high = _range(cube, query, given, figure, zoom)
        values = tile[figure].to_numpy()
        known = np.isfinite(values)
        shares = _shares(values[known], low, high, scale)
        numbers[tile["bin"].to_numpy()[known]] = 1 + shares * (_COLOURS - 1)
    return _drawn(numbers.reshape(_SIDE, _SIDE), palette)


def _asked_range(query: Query, scale: str) -> tuple[float | None, float | None]:
    """The ends that a request gives, judged without looking at data: every tile refuses the same ones."""
    low = query.number_of("min") if query.has("min") else None
    high = query.number_of("max") if query.has("max") else None
    if low is not None and high is not None and low > high:
        raise HTTPException(400, "min must not be above max")
    for name, end in (("min", low), ("max", high)):
        if scale == "log" and end is not None and end <= 0:
            raise HTTPException(400, f"a log scale needs values above 0, and {name} is {end:g}")
    return low, high


def _range(
    cube: Datacube, query: Query, given: tuple[float | None, float | None], figure: str, zoom: int
) -> tuple[float, float]:
    """The ends of the colours: those given, else those of the data, which never turn the range around."""
    low, high = given
    if low is None or high is None:
        resolution, time = query.time
        stats = cube.grid_stats(query.feature, time, resolution=resolution)
        row = stats.filter(pc.equal(stats["zoom"], zoom)).to_pylist()
        # Without a value at this zoom there are no ends, and nothing to colour either.
        least, most = (row[0][f"{end}_{figure}"] or 0.0 for end in ("min", "max")) if row else (0.0, 0.0)
        if low is None:
            low = least if high is None else min(least, high)
        if high is None:
            high = max(most, low)
    return low, high


def _shares(values: Floats, low: float, high: float, scale: str) -> Floats:
    """Where values lie between the ends, from 0 to 1."""
    if scale == "log":
        if low <= 0:
            raise HTTPException(
                400, f"a log scale needs values above 0, and the smallest is {low:g}: give min"
            )
        values, low, high = np.log(np.maximum(values, low)), math.log(low), math.log(high)
    if high <= low:
        return np.full(len(values), 0.5)
    shares: Floats = np.clip((values - low) / (high - low), 0.0, 1.0)
    return shares


def _drawn(numbers: npt.NDArray[np.uint8], palette: str) -> bytes:
    """A picture of colour numbers; 0 is transparent."""
    times = _PIXELS // _SIDE
    image = Image.fromarray(np.kron(numbers, np.ones((times, times), np.uint8)), mode="P")
    image.putpalette(b"\0\0\0" + _ramp(palette))
    sink = io.BytesIO()
    image.save(sink, "PNG", transparency=0, optimize=False)
    return sink.getvalue()


@functools.cache
def _ramp(palette: str) -> bytes:
    anchors = np.array([[int(colour[at : at + 2], 16) for at in (0, 2, 4)] for colour in palettes()[palette]])
    at = np.linspace(0, len(anchors) - 1, _COLOURS)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes()


def tilejson(cube: Datacube, query: Query) -> dict[str, Any]:
    """Where the pictures of a feature at a time are, for programs that read TileJSON 3.0.0."""
    resolution, time = query.time
    bins = cube.bins(query.feature, time, zoom=_BOUNDS_ZOOM, resolution=resolution)
    query.one_of("palette", palettes(), "viridis")
    _asked_range(query, query.one_of("scale", SCALES, "linear"))
    asked = {name: query.text(name) for name in (*STYLE, "number") if query.has(name)}
    style = asked | {"figure": query.figure}
    names = (query.run.key, query.feature, query.text("time"))
    path = "/".join(quote(name, safe="") for name in names)
    ends = {
        name: pc.min_max(bins[name])["min" if name in ("west", "south") else "max"].as_py()
        for name in ("west", "south", "east", "north")
    }
    return {
        "tilejson": "3.0.0",
        "name": f"{query.run}: {query.feature}, {query.text('time')}",
        "description": f"{query.figure} of each bin",
        "scheme": "xyz",
        "tiles": [f"{query.base_url}tiles/{path}/{{z}}/{{x}}/{{y}}.png?{urlencode(style)}"],
        "minzoom": 0,
        "maxzoom": ZOOMS[-1],
        "bounds": list(ends.values()) if bins.num_rows else [-180.0, -85.05, 180.0, 85.05],
    }

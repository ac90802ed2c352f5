"""What a request asks for: its parameters, and what is said when one is missing or cannot be used.

What is answered belongs to the modules that answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.morton import ZOOMS
from datacube_assets.kernels.schema import REGION_LEVELS, RESOLUTIONS, RegionLevel, Resolution
from datacube_assets.read.datacube import bucket

FIGURES = ("s_sum_t_sum", "s_mean_t_sum", "s_sum_t_mean", "s_mean_t_mean")
"""Those that tiles hold, or that follow from what they hold."""
_LONGEST_TIME = 2**63
_LARGEST_NUMBER = 10**9
_AREA_TILES = 4
"""Tiles that the lines of a rectangle read for each time: their zoom is as fine as that allows."""


class Query:
    """The parameters of a request. Every property raises a 400 where what it stands for is missing."""

    def __init__(self, request: Request) -> None:
        self._given: Mapping[str, Any] = {**request.query_params, **request.path_params}
        self.base_url = str(request.base_url)

    def has(self, name: str) -> bool:
        return self._given.get(name) not in (None, "")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._given.get(name, default)
        if value is None:
            raise HTTPException(400, f"the parameter {name} is missing")
        return str(value)

    def whole(self, name: str, below: int, *, at_least: int = 0, default: int | None = None) -> int:
        text = self.text(name, None if default is None else str(default))
        try:
            number = int(text)
        except ValueError:
            number = below
        if not at_least <= number < below:
            raise HTTPException(400, f"{name} must be a whole number from {at_least} to {below - 1}")
        return number

    def number_of(self, name: str) -> float:
        text = self.text(name)
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not abs(number) < float("inf"):
            raise HTTPException(400, f"{name} must be a number")
        return number

    def one_of(self, name: str, allowed: Iterable[str], default: str | None = None) -> str:
        text = self.text(name, default)
        if text not in allowed:
            raise HTTPException(400, f"{name} must be one of {', '.join(allowed)}")
        return text

    @property
    def run(self) -> ModelRun:
        """By `key`, the partition's name, or by both ids."""
        if not self.has("key"):
            return ModelRun(self.text("model_id"), self.text("run_id"))
        try:
            return ModelRun.from_key(self.text("key"))
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    @property
    def version(self) -> str:
        """The version that an answer has to be of; empty for any."""
        return self.text("version", "")

    @property
    def number(self) -> int | None:
        """The number of an earlier version, which its tables answer for; None for what is published."""
        return self.whole("number", _LARGEST_NUMBER, at_least=1) if self.has("number") else None

    @property
    def feature(self) -> str:
        return self.text("feature")

    @property
    def resolution(self) -> Resolution:
        return cast(Resolution, self.one_of("resolution", RESOLUTIONS))

    @property
    def level(self) -> RegionLevel:
        return cast(RegionLevel, self.one_of("level", REGION_LEVELS))

    @property
    def breakdown(self) -> tuple[str | None, str | None]:
        """A qualifier and one of its values; neither where nothing is broken down."""
        if not self.has("qualifier"):
            if self.has("value"):
                raise HTTPException(400, "a value is one of a qualifier: give qualifier as well")
            return None, None
        return self.text("qualifier"), self.text("value")

    @property
    def timestamp(self) -> int:
        return self.whole("timestamp", _LONGEST_TIME, at_least=-_LONGEST_TIME)

    @property
    def time(self) -> tuple[Resolution, int]:
        """Of `time`: `2020` is the year, `2020-01` the month; resolution and start in ms UTC."""
        try:
            return bucket(self.text("time"))
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    @property
    def figure(self) -> str:
        return self.one_of("figure", FIGURES, "s_mean_t_mean")

    @property
    def tile(self) -> tuple[int, int, int]:
        """Zoom, x and y."""
        zoom = self.whole("z", len(ZOOMS))
        return zoom, self.whole("x", 2**zoom), self.whole("y", 2**zoom)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north in degrees."""
        west, south, east, north = (self.number_of(name) for name in ("west", "south", "east", "north"))
        if not (west < east and south < north):
            raise HTTPException(400, "west must be below east, and south below north")
        return west, south, east, north


def zoom_for(bounds: tuple[float, float, float, float], tiles: int = _AREA_TILES) -> int:
    """The finest zoom at which a rectangle lies in so many tiles."""
    west, south, east, north = bounds
    for zoom in reversed(ZOOMS[1:]):
        across = (east - west) / 360 * 2**zoom + 1
        down = (north - south) / 170 * 2**zoom + 1
        if across * down <= tiles:
            return zoom
    return 0

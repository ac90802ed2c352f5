"""What the page asks about a version of a datacube, and what is the same wherever its numbers come from.

The published version is answered for by its objects (`published_version.py`), one that keeps its tables by
these (`kept_version.py`). Which of them a request means is decided in `server.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.morton import BINS_PER_TILE
from datacube_assets.read import Datacube, LakeDatacube
from datacube_assets.storage.lake import Lake
from datacube_assets.view.explaining import explanation
from datacube_assets.view.places import UnknownPlacesError, middles_of, regions_in
from datacube_assets.view.query import Query

Answer = dict[str, Any]
_WORDS = {
    "changed": "{run} was published anew meanwhile. Reload to see the new version",
    "absent": "{run} has no complete datacube here: it does not exist, or is being published right now. "
    "Try again in a moment",
}


class NotThisVersionError(Exception):
    """A version that is asked for does not stand (any more).

    `reason` is `changed` where it was published anew, `absent` where it is about to be, and `gone` where it
    is an earlier one that keeps no tables.
    """

    def __init__(self, run: ModelRun, reason: Literal["changed", "absent", "gone"], words: str = "") -> None:
        self.reason = reason
        super().__init__(words or _WORDS[reason].format(run=run))


class Answers(ABC):
    """Answers about one version of a datacube. Each is read when it is asked for."""

    def __init__(self, lake: Lake, run: ModelRun, cube: Datacube) -> None:
        self.lake = lake
        self.asked = run
        self.cube = cube

    @abstractmethod
    def standing(self) -> str:
        """What tells this version from every other. Raises NotThisVersionError when it does not stand."""

    @abstractmethod
    def still_stands(self, version: str) -> None:
        """Raises NotThisVersionError unless a version stands as it stood."""

    @abstractmethod
    def timeseries(self, query: Query) -> Answer:
        """Lines over all places, of a region, or of a value of a qualifier."""

    @abstractmethod
    def regions(self, query: Query) -> Answer:
        """Ids of regions by level."""

    @abstractmethod
    def regional(self, query: Query) -> Answer:
        """Figures of the regions of a level at a time."""

    @abstractmethod
    def qualifiers(self, query: Query) -> Answer:
        """Values by qualifier, of those that break regions down."""

    @abstractmethod
    def ranges(self, query: Query) -> Answer:
        """Smallest and largest figures of all bins by zoom, at a time or over all times."""

    @abstractmethod
    def tile(self, query: Query) -> Answer:
        """The bins of a tile; one that is missing is empty."""

    @abstractmethod
    def area(self, query: Query) -> Answer:
        """Lines over the bins that have a part in a rectangle."""

    # --- where things are, and where numbers come from ---------------------------------------------------

    @abstractmethod
    def places_of(self, feature: str) -> Iterator[pa.Table]:
        """Coordinates and region names of a feature's rows, some at a time. Raises UnknownPlacesError."""

    @abstractmethod
    def tables(self) -> LakeDatacube:
        """The tables behind the version."""

    def place(self, query: Query) -> Answer:
        """The regions that have a place in a bin."""
        zoom, x, y = query.tile
        bin_ = query.whole("bin", BINS_PER_TILE)
        try:
            regions = regions_in(self.places_of(query.feature), zoom, x, y, bin_)
        except UnknownPlacesError:
            return {"known": False, "regions": []}
        return {"known": True, "regions": regions}

    def places(self, query: Query) -> Answer:
        """The middle of each region of a level."""
        try:
            middles = middles_of(self.places_of(query.feature), query.level)
        except UnknownPlacesError:
            return {"known": False, "places": {}}
        return {
            "known": True,
            "places": {name: [round(lat, 6), round(lng, 6)] for name, (lat, lng) in middles.items()},
        }

    def explain(self, query: Query) -> Answer:
        """Where a figure comes from: formula, cells, rows."""
        return explanation(self.tables(), query)


def columns_of(table: pa.Table, *, without: Iterable[str]) -> dict[str, list[float | None]]:
    """Figures by name, as JSON can say them."""
    left_out = set(without)
    return {name: finite(table[name].to_pylist()) for name in table.column_names if name not in left_out}


def finite(values: Iterable[float | None]) -> list[float | None]:
    """Numbers as JSON can say them; the original wrote infinities into tiles."""
    return [value if value is not None and math.isfinite(value) else None for value in values]


def line_of(table: pa.Table) -> Answer:
    """A timeseries as the page has it."""
    table = table.sort_by("timestamp")
    return {
        "timestamps": table["timestamp"].cast(pa.int64()).to_pylist(),
        "columns": columns_of(table, without=("timestamp", "value")),
    }


NO_LINE: Mapping[str, Any] = {"timestamps": [], "columns": {}}


def ranges_of(tables: list[pa.Table]) -> Answer:
    """Smallest of the columns `min_...` and largest of `max_...` at each zoom, over several times."""
    if not tables:
        return {"columns": {}}
    stats = pa.concat_tables(tables)
    figures = [name for name in stats.column_names if name != "zoom"]
    extremes: list[tuple[str, Literal["min", "max"]]] = [
        (name, "min" if name.startswith("min_") else "max") for name in figures
    ]
    by_zoom = stats.group_by("zoom").aggregate(extremes).sort_by("zoom")
    return {"columns": {name: finite(by_zoom[f"{name}_{extreme}"].to_pylist()) for name, extreme in extremes}}

"""What can be asked of a datacube, wherever its numbers come from.

Questions, their arguments and the shape of the answers belong here, each described once, and what is said
when there is no answer. How answers are found is in `objects.py` and `tables.py`.
"""

from __future__ import annotations

import datetime as dt
import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.groups import Floats, Ints, build_table
from datacube_assets.kernels.morton import ZOOMS, check_tile
from datacube_assets.kernels.projection import north_edges, west_edges
from datacube_assets.kernels.schema import (
    REGION_LEVELS,
    REGION_SEPARATOR,
    RESOLUTIONS,
    RegionLevel,
    Resolution,
    published_columns,
)

Time: TypeAlias = str | int | dt.date | np.datetime64
"""A moment: `2020`, `2020-01`, `2020-01-15`, a date, a datetime (UTC unless it says otherwise), or ms UTC."""
Bounds: TypeAlias = tuple[float, float, float, float]
"""West, south, east and north in degrees."""
Times: TypeAlias = npt.NDArray[np.datetime64]

MAX_ZOOM = ZOOMS[-1]
_NAMED = 8
"""Names that a message lists."""


class NoDataError(LookupError):
    """What was asked for is not there; the message says what is."""


@dataclass(frozen=True)
class Lines:
    """What `Datacube.timeseries` was asked for, its words known to be right."""

    feature: str
    resolution: Resolution
    level: RegionLevel | None
    region: str | None
    qualifier: str | None
    value: str | None
    figures: list[str] | None
    """None for all."""


@dataclass(frozen=True)
class Areas:
    """What `Datacube.regions` was asked for, its words known to be right."""

    feature: str
    resolution: Resolution
    level: RegionLevel
    timestamp: int | None
    """None for all months or years."""
    qualifier: str | None
    figures: list[str] | None

    @property
    def keys(self) -> list[str]:
        """The columns that tell rows apart."""
        return ["timestamp", "region_id"] + ([] if self.qualifier is None else ["value"])


class Datacube(ABC):
    """The numbers of one model run or dataset.

    Every answer is an Arrow table: `.to_pandas()` makes a data frame of it, and DuckDB and Polars take it as
    it is. Nothing is read before it is asked for, and nothing is kept but results.json.

    These columns have the same meaning everywhere:

    * `timestamp`, `timestamp[ms, UTC]`: start of the month or year.
    * `region_id`, string: the names of the levels down to this one, joined by `__`: `Kenya__Kitui`.
    * `value`, string: the value of a qualifier.
    * figures, double, `s_count` int64: `s_mean_t_sum` is the spatial mean of the temporal sums; units are
      those of the feature. A figure that does not exist is null (docs/objects.md, "The columns of figures").

    Arguments that all methods share:

    * `resolution`: `month` or `year`. Left out, a `time` such as `2020` means the year and any other the
      month it falls in.
    * `figures`: only these columns of figures, instead of all.
    """

    def __init__(self, run: ModelRun, url: str) -> None:
        self._run = run
        self.url = url
        """Address of the bucket or the lake."""

    @property
    def model_id(self) -> str:
        return self._run.model_id

    @property
    def run_id(self) -> str:
        """Id of the model run; `indicator` for a dataset."""
        return self._run.run_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._run}>"

    # --- what there is -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether everything is there. Where it is not, what is there may be of several versions."""

    @property
    @abstractmethod
    def features(self) -> list[str]:
        """Names of the features, sorted."""

    @property
    @abstractmethod
    def levels(self) -> list[RegionLevel]:
        """Region levels of the data, from `country` down; none where no row names a region."""

    @property
    @abstractmethod
    def has_tiles(self) -> bool:
        """Whether there is a map: the data have coordinates."""

    @property
    @abstractmethod
    def has_weights(self) -> bool:
        """Whether there are weighted figures."""

    def timestamps(self, feature: str, resolution: Resolution = "month") -> Times:
        """Starts of the months or years that a feature has data for: shape (times,), datetime64[ms], UTC."""
        times = self.timeseries(feature, resolution=resolution, figures="s_count")["timestamp"]
        starts: Times = _milliseconds(times).astype("datetime64[ms]")
        return starts

    @abstractmethod
    def region_ids(self, feature: str, level: RegionLevel) -> list[str]:
        """Ids of the regions of a level that a feature has data for, sorted."""

    @abstractmethod
    def qualifiers(self, feature: str) -> dict[str, int]:
        """Qualifiers of a feature, and how many values each has."""

    @abstractmethod
    def qualifier_values(self, feature: str, qualifier: str) -> list[str]:
        """Values of a qualifier that a feature has data for, sorted; `None` where it is missing."""

    @abstractmethod
    def summary(self) -> pa.Table:
        """One row per feature for the whole period; model runs only.

        `feature`, and figures that begin with `s_min_`, `s_max_`, `s_sum_`, `s_mean_` and, with weights,
        `s_wavg_`.
        """

    # --- timeseries --------------------------------------------------------------------------------

    def timeseries(
        self,
        feature: str,
        *,
        region: str | None = None,
        level: RegionLevel | None = None,
        qualifier: str | None = None,
        value: str | None = None,
        resolution: Resolution = "month",
        figures: str | Sequence[str] | None = None,
    ) -> pa.Table:
        """Figures over time: of everything, of one region, of each value of a qualifier, or of one.

        `region` is a region id; its level is counted from its parts, unless a name has `__` in it and
        `level` tells. Columns: `timestamp`, with a qualifier `value`, and figures. One row per month or year,
        with a qualifier also per value; sorted by value and time.
        """
        if value is not None and qualifier is None:
            raise ValueError("a value is one of a qualifier: give qualifier= as well")
        if level is not None and region is None:
            raise ValueError("a level is that of a region: give region=, or ask for regions()")
        one_of("resolution", resolution, RESOLUTIONS)
        if region is not None:
            level = level_of(region) if level is None else level
            one_of("level", level, REGION_LEVELS)
        return self._lines(
            Lines(feature, resolution, level, region, qualifier, value, self._figures(figures))
        )

    @abstractmethod
    def _lines(self, asked: Lines) -> pa.Table: ...

    # --- regions -----------------------------------------------------------------------------------

    def regions(
        self,
        feature: str,
        level: RegionLevel,
        time: Time | None = None,
        *,
        qualifier: str | None = None,
        resolution: Resolution | None = None,
        figures: str | Sequence[str] | None = None,
    ) -> pa.Table:
        """Figures of the regions of a level, in one month or year or, without a time, in all of them.

        Columns: `timestamp`, `region_id`, with a qualifier `value`, and figures. One row per region that has
        data at the time, with a qualifier also per value; sorted by the first columns.
        """
        one_of("level", level, REGION_LEVELS)
        timestamp = None
        if time is None:
            resolution = resolution or "month"
            one_of("resolution", resolution, RESOLUTIONS)
        else:
            resolution, timestamp = bucket(time, resolution)
        return self._regions(Areas(feature, resolution, level, timestamp, qualifier, self._figures(figures)))

    @abstractmethod
    def _regions(self, asked: Areas) -> pa.Table: ...

    # --- the map -----------------------------------------------------------------------------------

    def bins(
        self,
        feature: str,
        time: Time,
        *,
        zoom: int = MAX_ZOOM,
        bounds: Bounds | None = None,
        resolution: Resolution | None = None,
    ) -> pa.Table:
        """Squares of the web-mercator map that have data in a month or year, row by row from the north-west.

        `zoom` is that of the tiles whose bins they are, 0 (64 by 64 bins for the world) to 8 (a bin is
        0.022 degrees wide). `bounds` (west, south, east, north in degrees) leaves out what lies outside, and
        with published objects is much quicker. Columns:

        * `x`, `y`, uint32: number of the bin from -180 degrees and from the north, below 64 * 2**zoom.
        * `west`, `south`, `east`, `north`, double: its edges in degrees.
        * `s_sum_t_sum`, `s_mean_t_sum`, `s_sum_t_mean`, `s_mean_t_mean`, double, and `s_count`, int64. Means
          divide by `s_count`, as the map of CauseMos does. The map has no weights and no qualifiers.
        """
        check_tile(zoom)
        resolution, timestamp = bucket(time, resolution)
        return self._bins(feature, resolution, timestamp, zoom, bounds)

    @abstractmethod
    def _bins(
        self, feature: str, resolution: Resolution, timestamp: int, zoom: int, bounds: Bounds | None
    ) -> pa.Table: ...

    @abstractmethod
    def tile(
        self, feature: str, time: Time, zoom: int, x: int, y: int, *, resolution: Resolution | None = None
    ) -> pa.Table:
        """The bins of one tile that have data; none where there is no tile.

        `zoom` 0 to 8; `x` and `y` below 2**zoom, from -180 degrees and from the north. Columns: `bin`,
        uint32, its number in the tile, 0 to 4095 row by row from the north-west corner; then as in `bins`.
        """

    @abstractmethod
    def grid_stats(self, feature: str, time: Time, *, resolution: Resolution | None = None) -> pa.Table:
        """Smallest and largest figures over all bins of each zoom, by which CauseMos sets its legend.

        Nine rows: `zoom`, int64, 0 to 8, then `min_` and `max_` of `s_sum_t_sum`, `s_sum_t_mean`,
        `s_mean_t_sum` and `s_mean_t_mean`, double.
        """

    # --- arguments ---------------------------------------------------------------------------------

    def _figures(self, figures: str | Sequence[str] | None) -> list[str] | None:
        if figures is None:
            return None
        wanted = [figures] if isinstance(figures, str) else list(figures)
        for figure in wanted:
            one_of("figure", figure, published_columns(True))
        return wanted


def level_of(region_id: str) -> RegionLevel:
    """The level of a region, from the parts of its id. Raises ValueError."""
    parts = region_id.count(REGION_SEPARATOR) + 1
    if parts > len(REGION_LEVELS):
        raise ValueError(f"the region {region_id!r} has {parts} parts: say which level it is of by level=")
    return REGION_LEVELS[parts - 1]


def bucket(time: Time, resolution: Resolution | None = None) -> tuple[Resolution, int]:
    """Resolution and start (ms UTC) of the month or year that a moment is in. Raises ValueError."""
    moment = _moment(time)
    unit = np.datetime_data(moment.dtype)[0]
    if resolution is None:
        resolution = "year" if unit == "Y" else "month"
    one_of("resolution", resolution, RESOLUTIONS)
    if resolution == "month" and unit == "Y":
        raise ValueError(f"{time!r} is a year: give a month, such as '{time}-01', or resolution='year'")
    start = moment.astype(f"datetime64[{'M' if resolution == 'month' else 'Y'}]")
    return resolution, int(start.astype("datetime64[ms]").astype(np.int64))


def _moment(time: Time) -> np.datetime64:
    if isinstance(time, dt.datetime) and time.tzinfo is not None:
        time = time.astimezone(dt.UTC).replace(tzinfo=None)
    moment: np.datetime64[Any] = np.datetime64("NaT")
    try:
        if isinstance(time, int | np.integer) and not isinstance(time, bool):
            moment = np.datetime64(int(time), "ms")
        elif isinstance(time, str | dt.date | np.datetime64):
            moment = np.datetime64(cast(Any, time))
    except ValueError:
        pass
    if np.isnat(moment):
        raise ValueError(f"{time!r} is no time: give '2020', '2020-01', a date or milliseconds UTC")
    return moment


def one_of(kind: str, name: str, names: Sequence[str]) -> None:
    """Refuse a word that is not one of some. Raises ValueError."""
    if name not in names:
        raise ValueError(f"the {kind} {name!r}: give one of {', '.join(names)}")


def no_such(kind: str, name: str, names: Iterable[str], of: object) -> NoDataError:
    """What is said about a name that is not there: which ones are, similar ones first."""
    known = sorted(names)
    if not known:
        return NoDataError(f"{of} has no {kind} {name!r}, and no other")
    listed = list(dict.fromkeys([*difflib.get_close_matches(name, known, 3), *known]))
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return NoDataError(f"{of} has no {kind} {name!r}: there is {', '.join(map(repr, listed[:_NAMED]))}{more}")


def no_region(cube: Datacube, feature: str, level: RegionLevel, region: str) -> NoDataError:
    """What is said about a region that is not there: a place is often named without those that it is in."""
    named = f"__{region}".casefold()
    meant = [
        id_ for one in cube.levels for id_ in cube.region_ids(feature, one) if id_.casefold().endswith(named)
    ]
    if meant:
        told = ", ".join(map(repr, meant[:_NAMED]))
        return NoDataError(f"{feature!r} has no {level} {region!r}: give {told}")
    return no_such(level, region, cube.region_ids(feature, level), f"{feature!r}")


def no_time(feature: str, resolution: Resolution, timestamp: int, times: Times, of: object) -> NoDataError:
    """What is said about a month or year without data."""
    unit = "M" if resolution == "month" else "Y"
    asked = np.datetime64(timestamp, "ms").astype(f"datetime64[{unit}]")
    first, last = (time.astype(f"datetime64[{unit}]") for time in (times.min(), times.max()))
    return NoDataError(
        f"{of} has no {feature!r} in {asked}: there are {len(times)} {resolution}s from {first} to {last}"
    )


# --- answers ---------------------------------------------------------------------------------------


def _milliseconds(times: pa.ChunkedArray) -> Ints:
    values: Ints = times.cast(pa.int64()).to_numpy()
    return values


def overlap(
    x: npt.NDArray[np.uint32], y: npt.NDArray[np.uint32], precision: int, bounds: Bounds | None
) -> npt.NDArray[np.bool_]:
    """Which squares of a precision have a part within the bounds."""
    if bounds is None:
        return np.ones(len(x), np.bool_)
    west, south, east, north = bounds
    if not (west < east and south < north):
        raise ValueError(f"the bounds {bounds}: give west, south, east, north in degrees, in this order")
    inside: npt.NDArray[np.bool_] = (
        (west_edges(x, precision) < east)
        & (west_edges(x + 1, precision) > west)
        & (north_edges(y, precision) > south)
        & (north_edges(y + 1, precision) < north)
    )
    return inside


def bin_table(
    x: npt.NDArray[np.uint32],
    y: npt.NDArray[np.uint32],
    precision: int,
    s_count: npt.NDArray[np.generic],
    s_sum_t_sum: Floats,
    s_sum_t_mean: Floats,
    bounds: Bounds | None = None,
) -> pa.Table:
    """Squares of a precision with their edges and figures (`Datacube.bins`), row by row."""
    rows = np.flatnonzero(overlap(x, y, precision, bounds))
    rows = rows[np.lexsort((x[rows], y[rows]))]
    x, y, count = x[rows], y[rows], s_count[rows].astype(np.int64)
    t_sum, t_mean = s_sum_t_sum[rows], s_sum_t_mean[rows]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        means = [np.where(count > 0, figure / count, np.nan) for figure in (t_sum, t_mean)]
    return build_table(
        {
            "x": x,
            "y": y,
            "west": west_edges(x, precision),
            "south": north_edges(y + 1, precision),
            "east": west_edges(x + 1, precision),
            "north": north_edges(y, precision),
            "s_sum_t_sum": t_sum,
            "s_mean_t_sum": means[0],
            "s_sum_t_mean": t_mean,
            "s_mean_t_mean": means[1],
            "s_count": count,
        }
    )

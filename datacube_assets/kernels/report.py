"""What became of the rows of a run, as counts that add up from batch to batch.

The counting is done in `normalize.py`; here is also when there are too many faults to go on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.plan import Options


@dataclass(frozen=True)
class Report:
    """What became of the rows. Reports of batches add up."""

    num_rows: int = 0
    num_rows_per_feature: Mapping[str, int] = field(default_factory=dict)
    """Rows read, by feature; rows without a feature are in none."""
    num_missing_ts: int = 0
    num_invalid_ts: int = 0
    num_missing_val: int = 0
    unreadable_values: int = 0
    """Rows dropped because their value is text that is no number."""
    unreadable_example: str | None = None
    timestamps_look_like: Mapping[str, int] = field(default_factory=dict)
    """Timestamps that were numbers, by what numbers of their size mostly are (`times.LOOKS`)."""
    missing_features: int = 0
    """Rows dropped because they name no feature."""
    infinite_values: int = 0
    """Values that were infinite and count as missing."""
    missing_coordinates: int = 0
    """Points kept without lat or lng: in every aggregate but tiles and grid statistics."""
    unreadable_coordinates: int = 0
    """Those of them whose lat or lng is text that is no number."""
    unreadable_place: str | None = None
    """Such a text."""
    beyond_mercator: int = 0
    """Points kept whose latitude is beyond 85.0511 degrees, or a coordinate infinite: the same."""
    mapped: int = 0
    """Points that have a place on the map, and a value: those that tiles are made of."""
    wrapped_longitudes: int = 0
    """Points whose longitude came from outside -180 up to 180 degrees."""
    impossible_coordinates: int = 0
    """Points whose coordinates are none of this world: latitude beyond 90 degrees, longitude beyond 360."""
    exchanged_coordinates: int = 0
    """Those of them that would be possible with latitude and longitude exchanged."""
    impossible_example: tuple[float, float] | None = None
    """Latitude and longitude of one of them."""
    missing_weights: int = 0
    """Points whose weight is missing or infinite, and counts as 0."""
    points: int = 0
    """Rows kept."""
    min_timestamp: int | None = None
    max_timestamp: int | None = None
    bounding_box: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""

    def __add__(self, other: Report) -> Report:
        boxes = [box for box in (self.bounding_box, other.bounding_box) if box]
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in (
                "num_rows",
                "num_missing_ts",
                "num_invalid_ts",
                "num_missing_val",
                "unreadable_values",
                "missing_features",
                "infinite_values",
                "missing_coordinates",
                "unreadable_coordinates",
                "beyond_mercator",
                "mapped",
                "wrapped_longitudes",
                "impossible_coordinates",
                "exchanged_coordinates",
                "missing_weights",
                "points",
            )
        }
        return Report(
            **counts,
            num_rows_per_feature=_added(self.num_rows_per_feature, other.num_rows_per_feature),
            timestamps_look_like=_added(self.timestamps_look_like, other.timestamps_look_like),
            impossible_example=self.impossible_example or other.impossible_example,
            unreadable_place=self.unreadable_place or other.unreadable_place,
            unreadable_example=self.unreadable_example or other.unreadable_example,
            min_timestamp=_merge(min, self.min_timestamp, other.min_timestamp),
            max_timestamp=_merge(max, self.max_timestamp, other.max_timestamp),
            bounding_box=functools.reduce(_join_boxes, boxes) if boxes else None,
        )

    @property
    def has_tiles(self) -> bool:
        """Whether there is any tile."""
        return self.mapped > 0

    @property
    def dropped(self) -> int:
        """Rows read that are in no aggregate, for whatever reason."""
        return self.num_rows - self.points


def _added(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in (*a, *b)}


def _merge(choose: Callable[[int, int], int], a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else choose(a, b)


Box = tuple[float, float, float, float]


def _join_boxes(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def check_values(report: Report, options: Options) -> None:
    """Refuse a run in which too many values are no numbers.

    Raises InputError naming the column and an example.
    """
    if report.unreadable_values > options.max_unreadable_share * report.num_rows:
        raise InputError(
            f"{report.unreadable_values} of {report.num_rows} values are text that is no number",
            column="value",
            example=report.unreadable_example,
            remedy="Put text values into a `_str` part, or make them numbers",
        )

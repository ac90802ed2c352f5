"""Does the data look like what it claims to be? Judged from the points and the report about them.

What is odd may be right: these checks warn. What cannot be processed is an error of
`kernels/normalize.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.check_limits import Limits
from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict, names
from datacube_assets.kernels.groups import Codes, Floats, Ints, Mask, column, encode_text, group_by
from datacube_assets.kernels.projection import wrap_longitude
from datacube_assets.kernels.regions import Regions, answerable
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.schema import COORDINATES, MISSING, Layout
from datacube_assets.kernels.times import LOOKS, advice, other_look

LAST_SECOND = 4_102_444_800
"""1 January 2100 in seconds UTC; as milliseconds it is 17 February 1970."""


def timestamps(report: Report, *, unit: str) -> Verdict:
    """Whether numbers are in another unit than they are read in, which is what the request says."""
    first, last = report.min_timestamp or 0, report.max_timestamp or 0
    look = other_look(report.timestamps_look_like, unit)
    early = unit == "ms" and first >= 0 and 0 < last <= LAST_SECOND
    if look:
        says = f"The timestamps look like {LOOKS[look]}, and are read as {LOOKS[unit]}: {advice(look)}"
    elif early:
        says = (
            "All times are in early 1970, as when seconds are taken for milliseconds: if so, publish "
            "again with --timestamp-unit s"
        )
    else:
        says = f"The times look like {LOOKS[unit]}."
    return Verdict(
        not (look or early),
        says,
        {
            "first time (ms UTC)": first,
            "last time (ms UTC)": last,
            **({"numbers look like": dict(report.timestamps_look_like)} if look else {}),
        },
    )


def usable_rows(report: Report, limits: Limits) -> Verdict:
    """Whether few enough rows were dropped, and few enough have no value."""
    rows = max(report.num_rows, 1)
    missing = report.num_missing_val + report.infinite_values
    shares = {"dropped": report.dropped / rows, "without a value": missing / rows}
    allowed = {"dropped": limits.max_dropped_share, "without a value": limits.max_missing_share}
    over = [name for name, share in shares.items() if share > allowed[name]]
    told = " and ".join(f"{shares[name]:.1%} of the rows are {name}" for name in over or shares)
    return Verdict(
        not over,
        f"{told}: the metadata of normalized_points says why" if over else f"{told}.",
        {
            "rows": report.num_rows,
            "rows dropped": report.dropped,
            "rows without a value": missing,
            **{f"allowed share: {name}": allowed[name] for name in allowed},
        },
    )


def same_features(features: Sequence[str], others: Mapping[str, Sequence[str]]) -> Verdict:
    """Whether the features that most other runs of the model have are here, too.

    `others` holds the features of other runs by their partition.
    """
    found = Counter(feature for some in others.values() for feature in set(some))
    lost = sorted(name for name in found.keys() - set(features) if 2 * found[name] > len(others))
    figures = {"compared with": sorted(others), "features": len(features), "missing": lost[:EXAMPLES]}
    if not others:
        return Verdict(True, "There is no other run of this model to compare with.", figures)
    return Verdict(
        not lost,
        f"Most of the other runs have features that are missing here: {names(lost)}"
        if lost
        else f"All features that most of {len(others)} other runs have are here.",
        figures,
    )


# --- what the points hold --------------------------------------------------------------------------

_LATITUDES, _LONGITUDES = 181, 361
_BLOCK_ROWS = 1 << 15
"""Rows looked at at a time: temporaries stay in the processor's cache."""
_MANY = 1 << 22
"""Numbers for which counters would take more time than sorting."""


@dataclass(frozen=True)
class Summary:
    """What checks need to know about points. Summaries of shards add up, and stay small."""

    values: Mapping[str, tuple[int, int, float, float]]
    """Rows, rows with a value, smallest and largest value of each feature."""
    squares: Mapping[tuple[str, int, int], int]
    """Rows of each country in each square of one degree, named by its south-western corner."""
    stand_ins: Mapping[tuple[str, float], int] = field(default_factory=dict)
    """Rows of each feature with each of the values of `STAND_INS`."""

    def __add__(self, other: Summary) -> Summary:
        values = dict(self.values)
        for feature, more in other.values.items():
            here = values.get(feature)
            values[feature] = more if here is None else _joined(here, more)
        squares = Counter(self.squares)
        squares.update(other.squares)
        stand_ins = Counter(self.stand_ins)
        stand_ins.update(other.stand_ins)
        return Summary(values, squares, stand_ins)


def _joined(
    one: tuple[int, int, float, float], other: tuple[int, int, float, float]
) -> tuple[int, int, float, float]:
    smallest, largest = np.fmin(one[2], other[2]), np.fmax(one[3], other[3])
    return one[0] + other[0], one[1] + other[1], float(smallest), float(largest)


SMALL_STAND_INS = (
    -99.0,
    -999.0,
    -9999.0,
    -99999.0,
    -999999.0,
    9999.0,
    99999.0,
    999999.0,
    -32768.0,
    32767.0,
    -32767.0,
    -2147483648.0,
    2147483647.0,
)
LARGE_STAND_INS = (
    1e20,
    1e30,
    1e35,
    1e36,
    1e37,
    9.969209968386869e36,
    3.4e38,
    3.4028234663852886e38,
    1.7976931348623157e308,
)
"""Values that stand for missing ones in files of rasters and models; the large ones with either sign."""
SUMMARY_COLUMNS = ("feature", "value", "country", *COORDINATES)


def summary(points: pa.Table) -> Summary:
    """The summary of some points, of which `SUMMARY_COLUMNS` are read as far as there are any."""
    feature, values = encode_text(points["feature"]), cast(Floats, column(points, "value"))
    groups = group_by([feature])
    filled = groups.reduce(np.add, (~np.isnan(values)).astype(np.int64))
    smallest, largest = (groups.reduce(choose, values).tolist() for choose in (np.fmin, np.fmax))
    of_features = {
        name: (rows, with_value, low, high)
        for name, rows, with_value, low, high in zip(
            feature.values.take(pa.array(feature.codes[groups.first])).to_pylist(),
            groups.sizes.tolist(),
            filled.tolist(),
            smallest,
            largest,
            strict=True,
        )
    }
    placed = {"country", *COORDINATES} <= set(points.column_names)
    texts = feature.values.to_pylist()
    stand_ins = _stand_ins(
        feature.codes,
        values,
        texts,
        {low for _, _, low, _ in of_features.values()} | {high for _, _, _, high in of_features.values()},
    )
    return Summary(of_features, _squares(points) if placed else {}, stand_ins)


def _stand_ins(
    codes: Codes, values: Floats, features: Sequence[str], extremes: AbstractSet[float]
) -> dict[tuple[str, float], int]:
    # What stands for nothing is an extreme of the others, or there is nothing to find.
    if not _stands_for_nothing(np.array(sorted(extremes))).any():
        return {}
    here = _stands_for_nothing(values)
    found = Counter(zip(codes[here].tolist(), values[here].tolist(), strict=True))
    return {(features[code], value): rows for (code, value), rows in found.items()}


def _stands_for_nothing(values: Floats) -> Mask:
    found: Mask = np.isin(values, SMALL_STAND_INS)
    for number in LARGE_STAND_INS:
        # As text, as a float of 32 bits and as one of 64 bits they differ in the last digits.
        found |= np.isclose(np.abs(values), number, rtol=1e-6, atol=0)
    return found


def _squares(points: pa.Table) -> dict[tuple[str, int, int], int]:
    country = encode_text(points["country"])
    lat, lng = (cast(Floats, column(points, name)) for name in COORDINATES)
    blocks = (slice(start, start + _BLOCK_ROWS) for start in range(0, max(len(lat), 1), _BLOCK_ROWS))
    numbers = np.concatenate([_numbers(country.codes[rows], lat[rows], lng[rows]) for rows in blocks])
    found, counts = _counted(numbers, country.radix * _LATITUDES * _LONGITUDES)
    codes, square = np.divmod(found, _LATITUDES * _LONGITUDES)
    south, west = np.divmod(square, _LONGITUDES)
    texts = country.values.to_pylist()
    return {
        (texts[code], at - 90, there - 180): rows
        for code, at, there, rows in zip(
            codes.tolist(), south.tolist(), west.tolist(), counts.tolist(), strict=True
        )
        if texts[code] != MISSING
    }


def _numbers(codes: Codes, lat: Floats, lng: Floats) -> Ints:
    """A number for country and square of each row, without those that have no coordinates."""
    here = np.isfinite(lat) & np.isfinite(lng)
    if not here.all():
        codes, lat, lng = codes[here], lat[here], lng[here]
    if len(lng) and (lng.min() < -180 or lng.max() >= 180):
        lng = wrap_longitude(lng)
    # A latitude beyond the poles is as far away as can be said.
    square = (np.floor(np.clip(lat, -90, 90)) + 90) * _LONGITUDES + (np.floor(lng) + 180)
    numbers: Ints = codes * (_LATITUDES * _LONGITUDES) + square.astype(np.int64)
    return numbers


def _counted(numbers: Ints, size: int) -> tuple[Ints, Ints]:
    """The numbers that occur, which are below `size`, and how often."""
    if size > _MANY:
        found, counts = np.unique(numbers, return_counts=True)
        return found, counts
    counts = np.bincount(numbers)
    found = np.flatnonzero(counts)
    return found, counts[found]


def varying_values(found: Summary, limits: Limits) -> Verdict:
    """Whether each feature has any value, and each that has many has different ones."""
    empty = sorted(name for name, (_, filled, _, _) in found.values.items() if not filled)
    constant = sorted(
        name
        for name, (_, filled, low, high) in found.values.items()
        if filled >= limits.constant_from and low == high
    )
    odd = [
        *([f"all values are the same: {names(constant)}"] if constant else []),
        *([f"there is no value at all: {names(empty)}"] if empty else []),
    ]
    return Verdict(
        not odd,
        f"Of some features {', of others '.join(odd)}" if odd else "The values of every feature vary.",
        {
            "features": len(found.values),
            "constant": {name: found.values[name][2] for name in constant[:EXAMPLES]},
            "without any value": empty[:EXAMPLES],
            "judged from so many values on": limits.constant_from,
        },
    )


def values_are_values(found: Summary, limits: Limits) -> Verdict:
    """Whether values that mostly stand for missing ones make up a suspicious share of any feature."""
    odd: dict[str, dict[str, int]] = {}
    for (feature, value), rows in sorted(found.stand_ins.items()):
        _, filled, low, high = found.values[feature]
        large = abs(value) >= min(LARGE_STAND_INS) / 2
        if large or (value in (low, high) and rows > limits.max_stand_in_share * filled):
            odd.setdefault(feature, {})[f"{value:g}"] = rows
    first = next(iter(odd.items()), None)
    return Verdict(
        not odd,
        f"{sum(first[1].values()):,} of {found.values[first[0]][1]:,} values of {names(list(odd))} are "
        f"{' or '.join(first[1])}, which mostly stands for a missing value, and are counted as values: leave "
        "such cells empty"
        if first
        else "No value that mostly stands for a missing one is frequent.",
        {
            "rows with such values": dict(list(odd.items())[:EXAMPLES]),
            "allowed share": limits.max_stand_in_share,
        },
    )


def qualifiers_are_there(
    qualifier_map: Mapping[str, Sequence[str]],
    features: Sequence[str],
    report: Report,
    layout: Layout,
    *,
    of_dojo: bool = False,
) -> Verdict:
    """Whether the data have the features and columns that the qualifier map names.

    A map that follows `of_dojo`'s documents names the date column by its name of before, which the files do
    not have any more: columns are only missed where a person wrote the map.
    """
    known = {*features, *report.num_rows_per_feature}
    lost = sorted(set(qualifier_map) - known)
    columns = sorted({name for mapped in qualifier_map.values() for name in mapped} - set(layout.qualifiers))
    odd = [
        *([f"features: {names(lost)}"] if lost else []),
        *([f"columns with values: {names(columns)}"] if columns and not of_dojo else []),
    ]
    return Verdict(
        not odd,
        f"The qualifier map names what the data do not have; {'; '.join(odd)}. There is no breakdown by it: "
        "correct the map, or the names in the data"
        if odd
        else "The data have all that the qualifier map names.",
        {"unknown features": lost[:EXAMPLES], "unknown columns": columns[:EXAMPLES]},
    )


def places_in_their_country(found: Summary, limits: Limits) -> Verdict:
    """Whether rows lie near the bulk of the rows of the country that they name.

    The middle of a country is the median of its rows, its reach the distance within which three in four of
    them are. So nothing has to be known about countries, and islands far away are no fault as long as they
    have many rows, whereas a few rows at 0, 0 or with latitude and longitude exchanged are found.
    """
    rows = np.array(list(found.squares.values()), np.int64)
    if not len(rows):
        return Verdict(True, "No row has both a country and coordinates.", {"rows with coordinates": 0})
    texts = np.array([country for country, _, _ in found.squares])
    countries, codes = np.unique(texts, return_inverse=True)
    corners = np.array([(south, west) for _, south, west in found.squares], np.float64) + 0.5
    distance, middle, reach = _distances(codes.astype(np.int64), corners, rows, len(countries))
    # Corners of squares are up to a degree off.
    allowed = np.maximum(limits.far_degrees, limits.far_factor * np.maximum(reach, 1.0))
    far = distance > allowed[codes]
    of_country = np.bincount(codes[far], rows[far], len(countries)).astype(np.int64)
    share = float(rows[far].sum() / rows.sum())
    worst = np.argsort(-of_country, kind="stable")[:EXAMPLES]
    odd = {
        str(countries[code]): {
            "rows far away": int(of_country[code]),
            "middle (degrees)": [round(float(value), 1) for value in middle[code]],
            "example near (degrees)": _example(corners, codes, far, distance, code),
        }
        for code in worst
        if of_country[code]
    }
    failed = share > limits.max_far_share
    return Verdict(
        not failed,
        f"{int(rows[far].sum()):,} rows lie far away from the other rows of their country: "
        f"{names(list(odd))}. Are latitude and longitude exchanged, or 0 where they are unknown?"
        if failed
        else "Rows lie near the other rows of their country.",
        {
            "rows with coordinates": int(rows.sum()),
            "rows far away": int(rows[far].sum()),
            "countries": len(countries),
            "far away": odd,
        },
    )


def _example(
    corners: Floats, codes: Codes, far: npt.NDArray[np.bool_], distance: Floats, code: int
) -> list[float]:
    here = np.flatnonzero(far & (codes == code))
    example: list[float] = corners[here[np.argmax(distance[here])]].tolist()
    return example


def _distances(codes: Codes, places: Floats, rows: Ints, countries: int) -> tuple[Floats, Floats, Floats]:
    """Distance of each place from the middle of its country; middle and reach of each country. In degrees."""
    lat, lng = places.T
    # Around the mean direction, so that a country on both sides of 180 degrees is in one piece.
    turned = np.radians(lng)
    east, north = (np.bincount(codes, rows * part, countries) for part in (np.sin(turned), np.cos(turned)))
    around = np.degrees(np.arctan2(east, north))[codes]
    beside = wrap_longitude(lng - around)
    middle_lat = _quantile(codes, lat, rows, 0.5, countries)
    middle_beside = _quantile(codes, beside, rows, 0.5, countries)
    here, there = np.radians(lat), np.radians(middle_lat)[codes]
    apart = np.radians(beside - middle_beside[codes])
    cosine = np.sin(here) * np.sin(there) + np.cos(here) * np.cos(there) * np.cos(apart)
    distance = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    first = np.zeros(countries)
    first[codes] = around
    middle = np.stack([middle_lat, wrap_longitude(first + middle_beside)], axis=1)
    return distance, middle, _quantile(codes, distance, rows, 0.75, countries)


def _quantile(codes: Codes, values: Floats, weights: Ints, share: float, count: int) -> Floats:
    """The value within each group that the share of its weight does not exceed."""
    order = np.lexsort((values, codes))
    reached = np.cumsum(weights[order])
    ends = np.searchsorted(codes[order], np.arange(count), side="right")
    totals = reached[ends - 1]
    before = np.concatenate(([0], totals[:-1]))
    found: Floats = values[order][np.searchsorted(reached, before + share * (totals - before))]
    return found


# --- regions ---------------------------------------------------------------------------------------


def askable_regions(regions: pa.Table, layout: Layout) -> Verdict:
    """Whether the reader can be asked for every region of a table of distinct ones."""
    found: set[str] = set()
    if layout.levels and regions.num_rows:
        known = Regions.of(regions, layout.levels)
        for level in layout.levels:
            ids = known.ids(level).unique()
            found.update(ids.filter(pa.array(~answerable(ids))).to_pylist())
    never = sorted(found)
    return Verdict(
        not never,
        f"{len(never):,} regions have `__` in their names, so that their ids have more than four parts: "
        f"{names(never)}. The reader cannot be asked for them. They are in tables of regions, but have no "
        "timeseries and are not in region_lists.json. Write these names without `__`"
        if never
        else "The reader can be asked for every region.",
        {"regions": len(never), "examples": never[:EXAMPLES]},
    )

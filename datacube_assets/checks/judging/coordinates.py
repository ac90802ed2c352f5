"""Are the coordinates what they claim to be: degrees, the right way round, under the right names?

Judged from the report about the points, and from the squares of one degree in which the rows of each
country lie. How near rows of a country are to each other is judged in `plausibility.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datacube_assets.checks.judging.countries import BOXES
from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict, names
from datacube_assets.kernels.errors import shorten
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.schema import COORDINATES, REGION_LEVELS, Layout

OTHER_NAMES: Mapping[str, frozenset[str]] = {
    "lat": frozenset(("lat", "latitude", "lat_deg", "latitude_deg", "decimallatitude", "y", "ycoord")),
    "lng": frozenset(
        ("lng", "lon", "long", "longitude", "lon_deg", "longitude_deg", "decimallongitude", "x", "xcoord")
    ),
}
"""What other people call the two coordinates, in small letters."""
_MARGIN = 2
"""Degrees by which rows may lie outside the box of their country."""
_MOST = 0.9
"""Share of a country's rows that are beside it, and would be in it."""


def coordinates(report: Report, layout: Layout, squares: Mapping[tuple[str, int, int], int]) -> Verdict:
    """Whether the points lie on a map, and where they say. `squares` are those of `plausibility.Summary`."""
    exchanged = _exchanged_countries(squares)
    odd = [
        *_misnamed(layout),
        *_impossible(report),
        *(
            [
                f"the rows of {names(exchanged)} lie in their country once latitude and longitude are "
                "exchanged: exchange the columns"
            ]
            if exchanged
            else []
        ),
    ]
    alone = set(COORDINATES) - set(layout.coordinates)
    if len(alone) == 1 and not _misnamed(layout):
        odd.append(f"no row has a value in the column {alone.pop()}, and there are no tiles without it")
    with_coordinates = report.points - report.missing_coordinates
    if with_coordinates and with_coordinates == report.beyond_mercator:
        odd.append("no row has a place on the map, and there will be no tiles")
    elif layout.mappable and not with_coordinates:
        odd.append(
            "no row has a latitude and a longitude that are numbers, and there will be no tiles: "
            "write both, with a decimal point"
        )
    elif report.unreadable_coordinates:
        odd.append(
            f"{report.unreadable_coordinates:,} of {report.points:,} rows have no place, as a coordinate is "
            f"text that is no number, such as {shorten(report.unreadable_place or '')}: write degrees with a "
            "decimal point, and leave cells empty where a place is unknown"
        )
    says = "; ".join(odd)
    return Verdict(
        not odd,
        f"{says[:1].upper()}{says[1:]}" if odd else "Coordinates are degrees, as far as can be seen.",
        {
            "rows with coordinates": with_coordinates,
            "rows on the map": with_coordinates - report.beyond_mercator,
            "rows with impossible coordinates": report.impossible_coordinates,
            "rows with unreadable coordinates": report.unreadable_coordinates,
            "longitudes wrapped": report.wrapped_longitudes,
            "countries with exchanged coordinates": exchanged[:EXAMPLES],
        },
    )


def _misnamed(layout: Layout) -> list[str]:
    """Qualifiers that have the name of a fixed column, but for its spelling, while that column is missing.

    Only of a level or a coordinate: without any other fixed column nothing is read.
    """
    there = {*layout.levels, *layout.coordinates}
    found = {}
    for wanted in (*REGION_LEVELS, *COORDINATES):
        alike = [name for name in layout.qualifiers if _is_called(name, wanted)]
        if wanted not in there and alike:
            found[wanted] = alike[0]
    # What is called x may be anything; beside a y it is a coordinate.
    short = [wanted for wanted, name in found.items() if name.lower() in ("x", "y")]
    if len(short) == 1:
        del found[short[0]]
    if not found:
        return []
    columns, wanted = names([repr(name) for name in found.values()]), names(list(found))
    told = f"there is no column {wanted}, and {columns} is taken for a qualifier: call it {wanted}"
    return [f"{told}, or there are no tiles" if set(found) & set(COORDINATES) else told]


def _is_called(name: str, wanted: str) -> bool:
    plain = name.strip().lower()
    return plain in OTHER_NAMES.get(wanted, ()) or plain.replace("_", "") == wanted


def _impossible(report: Report) -> list[str]:
    count = report.impossible_coordinates
    if not count or report.impossible_example is None:
        return []
    lat, lng = report.impossible_example
    told = f"{count:,} rows have impossible coordinates, such as latitude {lat:g}, longitude {lng:g}"
    if 2 * report.exchanged_coordinates > count:
        return [f"{told}: are latitude and longitude exchanged?"]
    if 2 * count > report.points - report.missing_coordinates:
        return [f"{told}: are they metres? Give degrees (WGS 84)"]
    return [f"{told}: leave the cells empty where a place is unknown"]


def _exchanged_countries(squares: Mapping[tuple[str, int, int], int]) -> list[str]:
    """Countries most of whose rows are outside, and would be inside with their coordinates exchanged."""
    rows: dict[str, list[int]] = {}
    for (country, south, west), count in squares.items():
        box = BOXES.get(country)
        if box is None:
            continue
        counts = rows.setdefault(country, [0, 0])
        counts[0] += count
        counts[1] += count * (not _inside(box, (south, west)) and _inside(box, (west, south)))
    return sorted(country for country, (all_, exchanged) in rows.items() if exchanged > _MOST * all_)


def _inside(box: Sequence[int], square: tuple[int, int]) -> bool:
    south, north, west, east = box
    return south - _MARGIN <= square[0] < north + _MARGIN and west - _MARGIN <= square[1] < east + _MARGIN

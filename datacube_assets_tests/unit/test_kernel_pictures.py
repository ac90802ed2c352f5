"""Pictures: sound, small and told in words, whatever the data and their names are."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datacube_assets.kernels import pictures
from datacube_assets.kernels.groups import Floats
from datacube_assets.kernels.pictures import Cells
from datacube_assets.kernels.projection import quadkeys

SVG = "{http://www.w3.org/2000/svg}"
LARGEST = 60_000
MONTHS = np.arange("2000-01", "2020-01", dtype="datetime64[M]").astype("datetime64[ms]").astype(np.int64)
YEARS = np.arange("2000", "2020", dtype="datetime64[Y]").astype("datetime64[ms]").astype(np.int64)

EVIL = "<script>alert('x')</script>&\"\x00\ud800 ￿" + "long" * 99
NAMES = st.text(max_size=60)
VALUES = arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(allow_subnormal=True))


def read(svg: str) -> ET.Element:
    """The picture, which must be sound XML, of numbers that all exist."""
    root = ET.fromstring(svg.encode())
    assert root.tag == f"{SVG}svg"
    for element in root.iter():
        for name in ("x", "y", "width", "height", "d", "cx", "cy", "transform"):
            assert not re.search(r"nan|inf", element.get(name, "")), ET.tostring(element)[:200]
        assert float(element.get("height", "1").rstrip("%")) >= 0
        assert element.tag.removeprefix(SVG) in {
            "svg",
            "style",
            "rect",
            "text",
            "g",
            "path",
            "circle",
            "image",
        }
    return root


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def cells(lat: Floats, lng: Floats, mean: Floats, month: str = "2020-01 (first)") -> Cells:
    return Cells(month, quadkeys(lat, lng), np.ones(len(lat), np.int64), mean)


def pixels(root: ET.Element, number: int = 0) -> np.ndarray:
    """The four-bit pixels of an image in the picture; 0 is empty, 15 the most."""
    image = list(root.iter(f"{SVG}image"))[number]
    png = base64.b64decode((image.get("href") or "").removeprefix("data:image/png;base64,"))
    columns, rows = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    body = b"".join(chunk for kind, chunk in chunks(png) if kind == b"IDAT")
    lines = np.frombuffer(zlib.decompress(body), np.uint8).reshape(rows, -1)[:, 1:]
    return np.stack([lines >> 4, lines & 15], axis=2).reshape(rows, -1)[:, :columns]


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert int.from_bytes(png[at + 8 + size : at + 12 + size]) == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + size
    return found


def test_points_are_shown_on_a_map_and_counted_by_value() -> None:
    lat, lng = np.array([0.0, 0.0, 10.0]), np.array([30.0, 30.0, 40.0])
    root = read(pictures.points(lat, lng, {"rain": np.array([1.0, 1.0, 5.0])}, "3 points"))
    assert {"3 points", "Where points are", "rain", "value", "points (log scale)", "degrees"} <= set(
        texts(root)
    )
    drawn = pixels(root)
    north_east, south_west = np.argwhere(drawn)
    assert drawn[tuple(south_west)] == 15, "two of three points are here"
    assert drawn[tuple(north_east)] == 1, "one point"
    assert north_east[0] < south_west[0], "north is up"
    assert north_east[1] > south_west[1], "east is right"


def test_lines_of_month_and_year_are_broken_where_there_is_no_value() -> None:
    values = np.full(len(MONTHS), 5.0)
    values[50:60] = np.nan
    svg = pictures.timeseries({"rain": ((MONTHS, values), (YEARS, np.full(20, 5.0)))}, "Means")
    root = read(svg)
    lines = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    assert [line.get("stroke") for line in lines] == ["#0072b2", "#0072b2", "#d55e00"]
    assert {"month", "year", "2000", "2015", "mean of places", "time (UTC)"} <= set(texts(root))


def test_a_line_of_many_times_keeps_its_smallest_and_largest_values() -> None:
    values = np.zeros(len(MONTHS))
    values[100], values[101] = 70.0, -30.0
    root = read(pictures.timeseries({"rain": ((MONTHS, values), (YEARS[:1], values[:1]))}, "Means"))
    (line,) = (path for path in root.iter(f"{SVG}path") if path.get("fill") == "none")
    heights = [float(point.split()[1]) for point in (line.get("d") or "M").lstrip("M").split("L")]
    assert len(heights) < len(MONTHS)
    zero = heights[0]
    assert (zero - min(heights)) / (max(heights) - zero) == pytest.approx(70 / 30, rel=0.02)


def test_regions_are_named_at_their_bars() -> None:
    regions = ["Kenya__A very long name of some county", "Ethiopia"]
    root = read(pictures.top_regions({"rain": (regions, np.array([9.0, -3.0]))}, "Largest means"))
    assert "Ethiopia" in texts(root)
    assert "…me of some county" in texts(root)
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("fill") == "#0072b2"]
    widths = [float(bar.get("width") or 0) for bar in bars]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.02)


def test_heat_maps_of_one_feature_share_frame_and_colours() -> None:
    lat, lng = np.array([0.0, 10.0]), np.array([30.0, 40.0])
    first, last = cells(lat, lng, np.array([0.0, 10.0])), cells(lat[:1], lng[:1], np.array([10.0]), "2020-02")
    root = read(pictures.heat_maps({"rain": [first, last]}, "Means"))
    before, after = pixels(root), pixels(root, 1)
    assert before.shape == after.shape
    (top, bottom), (only,) = np.argwhere(before), np.argwhere(after)
    assert before[tuple(top)] == 15
    assert before[tuple(bottom)] == 1
    assert tuple(only) == tuple(bottom)
    assert after[tuple(only)] == 15
    assert {"rain, 2020-01 (first)", "rain, 2020-02", "mean: 0.4", "10"} <= set(texts(root))


def test_ranges_are_drawn_for_every_zoom_that_has_one() -> None:
    smallest = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, np.nan])
    root = read(pictures.ranges_by_zoom({"rain": {"mean in a bin": (smallest, smallest + 1)}}, "Ranges"))
    assert len([bar for bar in root.iter(f"{SVG}rect") if bar.get("fill") == "#0072b2"]) == 8
    assert {"rain: mean in a bin", "zoom", "0", "8"} <= set(texts(root))


EVERY: list[Callable[[str, Floats], str]] = [
    lambda name, values: pictures.points(None, None, {name: values}, name),
    lambda name, values: pictures.timeseries(
        {name: ((np.arange(len(values)) * 86_400_000 * 31, values), (np.zeros(1, np.int64), values[:1]))},
        name,
    ),
    lambda name, values: pictures.top_regions(
        {name: ([name] * len(finite(values)[:8]), finite(values)[:8])}, name
    ),
    lambda name, values: pictures.heat_maps(
        {name: [cells(np.zeros(len(values)), spread(values), values, name)]}, name
    ),
    lambda name, values: pictures.ranges_by_zoom({name: {name: (values, values)}}, name),
]


def finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def spread(values: Floats) -> Floats:
    return np.linspace(-180, 179, len(values))


@pytest.mark.parametrize("draw", EVERY)
@settings(max_examples=10, deadline=None)
@given(NAMES, VALUES)
def test_any_name_and_any_values_make_a_sound_picture(
    draw: Callable[[str, Floats], str], name: str, values: Floats
) -> None:
    read(draw(name, values))


@pytest.mark.parametrize("draw", EVERY)
def test_names_from_outside_are_text_and_nothing_else(draw: Callable[[str, Floats], str]) -> None:
    svg = draw(EVIL, np.array([1.0, 2.0]))
    assert "<script" not in svg
    assert len(svg) < 30_000
    read(svg)


@settings(max_examples=10, deadline=None)
@given(
    arrays.arrays(np.float64, 5, elements=st.floats(-90, 90)),
    arrays.arrays(np.float64, 5, elements=st.floats(-1000, 1000)),
)
def test_points_anywhere_make_a_sound_picture(lat: Floats, lng: Floats) -> None:
    read(pictures.points(lat, lng, {}, "points"))


def test_pictures_of_much_data_are_small() -> None:
    random = np.random.default_rng(7)
    lat, lng, value = (
        random.normal(0, 20, 100_000),
        random.normal(0, 60, 100_000),
        random.normal(0, 9, 100_000),
    )
    lat = np.clip(lat, -80, 80)
    long = {f"feature {number}": ((MONTHS, value[:240]), (YEARS, value[:20])) for number in range(9)}
    month = cells(lat, lng, value)
    for svg in (
        pictures.points(lat, lng, {f"feature {number}": value for number in range(9)}, "points"),
        pictures.timeseries(long, "means"),
        pictures.heat_maps({f"feature {number}": [month] * 3 for number in range(9)}, "maps"),
    ):
        assert len(base64.b64encode(svg.encode())) < LARGEST
        read(svg)

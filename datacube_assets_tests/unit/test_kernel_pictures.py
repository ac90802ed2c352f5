"""Pictures: sound, small, quick and right, whatever the data and their names are."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.collections import Collection
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from datacube_assets.assets.pictures import land
from datacube_assets.kernels import pictures
from datacube_assets.kernels.groups import Floats
from datacube_assets.kernels.pictures import Cells
from datacube_assets.kernels.projection import quadkeys

LARGEST = 60_000
MONTHS = np.arange("2000-01", "2020-01", dtype="datetime64[M]").astype("datetime64[ms]").astype(np.int64)
YEARS = np.arange("2000", "2020", dtype="datetime64[Y]").astype("datetime64[ms]").astype(np.int64)
BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
LITTLE, MUCH = (0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25)
"""The ends of the colours of the map page (`view/static/js/colours.js`)."""

EVIL = "<script>alert('x')</script>&\"\x00\ud800 $\\frac{1}{0}$ ￿" + "long" * 99
NAMES = st.text(max_size=60)
VALUES = arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(allow_subnormal=True))


def read(png: bytes) -> np.ndarray:
    """The pixels of a picture: rows, columns, red, green and blue."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), dtype=np.int64)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the pixels of about a colour are: rows and columns. The scale of the colours is left out."""
    there = np.abs(pixels - colour).max(axis=2) < (80 if colour == BLUE else 24)
    return np.argwhere(there[: int(len(there) * 0.85)])


def cells(lat: Floats, lng: Floats, mean: Floats, month: str = "2020-01 (first)") -> Cells:
    return Cells(month, quadkeys(lat, lng), np.ones(len(lat), np.int64), mean)


def test_points_are_shown_on_a_map_north_up_and_counted_by_value() -> None:
    lat, lng = np.array([0.0, 0.0, 0.0, 10.0]), np.array([30.0, 30.0, 30.0, 40.0])
    drawn = read(pictures.points(lat, lng, {"rain": np.array([1.0, 1.0, 5.0])}, "3 points"))
    many, one = near(drawn, MUCH), near(drawn, LITTLE)
    assert len(many)
    assert len(one)
    assert one[:, 0].max() < many[:, 0].min(), "north is up"
    assert one[:, 1].min() > many[:, 1].max(), "east is right"
    assert len(near(drawn, BLUE)), "bars of the values"


def test_the_mean_of_a_year_is_a_bar_over_that_year_and_no_line_to_the_next() -> None:
    values, years = np.full(24, 5.0), np.array([2.0, 8.0])
    drawn = read(pictures.timeseries({"rain": ((MONTHS[:24], values), (YEARS[:2], years))}, "Means"))
    orange = near(drawn, ORANGE)
    orange = orange[orange[:, 0] > 60]  # below the legend
    low, high = orange[:, 0].max(), orange[:, 0].min()
    first, second = orange[orange[:, 0] > low - 5], orange[orange[:, 0] < high + 5]
    assert len(first) + len(second) == len(orange), "nothing between the two"
    assert first[:, 1].max() <= second[:, 1].min() + 3
    assert np.ptp(first[:, 1]) == pytest.approx(np.ptp(second[:, 1]), abs=4)


def test_a_line_is_broken_where_there_is_no_value_and_one_value_alone_is_a_dot() -> None:
    values = np.full(len(MONTHS), np.nan)
    values[:80] = values[160:] = 5.0
    year = YEARS[:1], np.full(1, 5.0)
    whole = pictures.timeseries({"rain": ((MONTHS, np.full(240, 5.0)), year)}, "Means")
    broken = pictures.timeseries({"rain": ((MONTHS, values), year)}, "Means")
    legend = len(near(read(pictures.timeseries({}, "Means")), BLUE))
    share = (len(near(read(broken), BLUE)) - legend) / (len(near(read(whole), BLUE)) - legend)
    assert 0.5 < share < 0.8
    values[:] = np.nan
    before = pictures.timeseries({"rain": ((MONTHS, values), year)}, "Means")
    values[100] = 5.5
    alone = pictures.timeseries({"rain": ((MONTHS, values), year)}, "Means")
    assert len(near(read(alone), BLUE)) > len(near(read(before), BLUE))


def test_bars_of_regions_are_as_long_as_their_means() -> None:
    names = ["Kenya__A very long name of some county", "Ethiopia"]
    drawn = read(pictures.top_regions({"rain": (names, np.array([9.0, -3.0]))}, "Largest means"))
    rows, columns = near(drawn, BLUE).T
    middle = (rows.min() + rows.max()) / 2
    above, below = (np.ptp(columns[part]) for part in (rows < middle, rows > middle))
    assert above / below == pytest.approx(3, rel=0.05)


def test_heat_maps_of_one_feature_share_frame_and_colours_and_yellow_is_much() -> None:
    lat, lng = np.array([0.0, 10.0]), np.array([30.0, 40.0])
    first, last = cells(lat, lng, np.array([0.0, 10.0])), cells(lat[:1], lng[:1], np.array([10.0]), "2020-02")
    drawn = read(pictures.heat_maps({"rain": [first, last]}, "Means"))
    half = drawn.shape[1] // 2
    before, after = drawn[:, :half], drawn[:, half:]
    assert near(before, MUCH)[:, 0].max() < near(before, LITTLE)[:, 0].min(), "much in the north"
    assert len(near(after, LITTLE)) == 0
    assert near(after, MUCH)[:, 0].min() == near(before, LITTLE)[:, 0].min(), "the same cell"


def test_coasts_are_where_they_are() -> None:
    lng, lat = land()
    assert len(lng) > 50_000
    assert np.nanmin(lng) >= -180
    assert np.nanmax(lng) <= 180
    assert np.nanmin(lat) >= -90
    nearest = np.nanmin(np.hypot(lng - -9.5, lat - 38.78))
    assert nearest < 0.1, "Cabo da Roca"
    at = np.array([0.0]), np.array([41.5])
    with_coast, without = (
        read(pictures.points(*at, {}, "At the coast of Kenya and Somalia", outlines))
        for outlines in (land(), None)
    )
    assert (with_coast != without).any()


def test_ranges_are_drawn_for_every_zoom_that_has_one() -> None:
    smallest = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, np.nan])
    drawn = read(pictures.ranges_by_zoom({"rain": {"mean in a bin": (smallest, smallest + 1)}}, "Ranges"))
    columns = np.unique(near(drawn, BLUE)[:, 1])
    assert np.count_nonzero(np.diff(columns) > 2) + 1 == 8


def test_the_words_of_a_picture_are_its_description_and_no_formulas() -> None:
    png = pictures.top_regions({"a $x^2$ <b>": (["Kenya", "中国"], np.array([2.0, 1.0]))}, "Largest means")
    with Image.open(io.BytesIO(png)) as image:
        words = image.info["Description"].split("\n")
    assert {"Largest means", "a $x^2$ <b>", "Kenya", "中国", "mean of places"} <= set(words)


def test_the_same_data_make_the_same_bytes_whatever_a_user_has_set() -> None:
    import matplotlib

    def draw() -> bytes:
        return pictures.timeseries({"rain": ((MONTHS, np.arange(240.0)), (YEARS, np.arange(20.0)))}, "Means")

    before = draw()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        assert draw() == before


def test_without_pictures_matplotlib_is_not_imported() -> None:
    program = (
        "import sys, logging, datacube_assets.definitions\n"
        "from datacube_assets.resources.ui import UserInterface\n"
        "assert UserInterface(pictures=False).picture(None, lambda: 1 / 0) == {}\n"
        "print([name for name in sys.modules if name.startswith(('matplotlib', 'PIL'))])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_picture_needs_no_home_folder(tmp_path: Path) -> None:
    program = (
        "from datacube_assets.resources.ui import UserInterface\n"
        "from datacube_assets.kernels import pictures\n"
        "print(len(UserInterface().picture(None, lambda: pictures.top_regions({}, 'x'))['picture'].value))"
    )
    none = {"HOME": "/nowhere", "TMPDIR": str(tmp_path), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=none, cwd=tmp_path
    )
    assert int(done.stdout) > 500
    assert done.stderr == ""


EVERY: list[Callable[[str, Floats], bytes]] = [
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
    draw: Callable[[str, Floats], bytes], name: str, values: Floats
) -> None:
    read(draw(name, values))


@pytest.mark.parametrize("draw", EVERY)
def test_names_from_outside_are_text_and_nothing_else(draw: Callable[[str, Floats], bytes]) -> None:
    png = draw(EVIL, np.array([1.0, 2.0]))
    assert len(png) < 30_000
    read(png)


@settings(max_examples=10, deadline=None)
@given(
    arrays.arrays(np.float64, 5, elements=st.floats(-90, 90)),
    arrays.arrays(np.float64, 5, elements=st.floats(-1000, 1000)),
)
def test_points_anywhere_make_a_sound_picture(lat: Floats, lng: Floats) -> None:
    read(pictures.points(lat, lng, {}, "points", land()))


def much(of: str, points: int) -> bytes:
    """A picture of nine features that have so many points or cells each."""
    random = np.random.default_rng(7)
    lat = np.clip(random.normal(0, 20, points), -80, 80)
    lng, value = random.normal(0, 60, points), random.normal(0, 9, points)
    names = [f"feature {number}" for number in range(9)]
    if of == "points":
        return pictures.points(lat, lng, dict.fromkeys(names, value), "points", land())
    month = cells(lat, lng, value)
    return pictures.heat_maps(dict.fromkeys(names, [month] * 3), "maps", land())


@pytest.mark.parametrize("of", ["points", "heat maps"])
def test_pictures_of_much_data_are_small_and_draw_no_more_than_those_of_little(
    of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes the time is what the library draws: corners of lines and areas, pixels of images."""
    drawn: list[int] = []
    png = pictures._Sheet.png

    def counted(sheet: pictures._Sheet) -> bytes:
        figure: Any = sheet._figure
        paths = [one.get_path() for one in [*figure.findobj(Line2D), *figure.findobj(Patch)]]
        paths += [path for many in figure.findobj(Collection) for path in many.get_paths()]
        images = [image.get_array() for image in figure.findobj(AxesImage)]
        drawn.append(sum(len(path.vertices) for path in paths) + sum(np.size(image) for image in images))
        return png(sheet)

    monkeypatch.setattr(pictures._Sheet, "png", counted)
    for points in (2_000, 200_000):
        made = much(of, points)
        assert len(made) < LARGEST
        read(made)
    assert drawn[1] < drawn[0] * 1.5


def test_a_picture_of_long_series_is_small() -> None:
    value = np.random.default_rng(7).normal(0, 9, 240)
    names = [f"feature {number}" for number in range(9)]
    made = pictures.timeseries(dict.fromkeys(names, ((MONTHS, value), (YEARS, value[:20]))), "means")
    assert len(made) < LARGEST
    read(made)

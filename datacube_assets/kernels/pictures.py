"""Small pictures of a datacube, so that a person sees at a glance whether a run came through right.

Arrays in, the text of an SVG out: charts and maps drawn by hand, as importing a plotting library would take
longer than a small run. Names come from outside and are escaped; colours can be told apart by everybody.
Which rows are drawn, and where pictures are shown, is decided in `assets/pictures.py`.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import islice

import numpy as np
import numpy.typing as npt

from datacube_assets.kernels.groups import Floats, Ints
from datacube_assets.kernels.morton import MAX_PRECISION, Quadkeys, deinterleave
from datacube_assets.kernels.projection import north_edges, west_edges

MAX_PANELS = 6
"""Features, at most, that one picture shows."""
MAX_MAPPED = 2
"""Features, at most, of which heat maps are drawn: each has three."""
MAX_REGIONS = 8
"""Bars of a panel of regions."""

_WIDTH, _HEIGHT = 250, 190
"""Pixels of a panel."""
_COLUMNS = 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 20, 22, 36
"""Room around the axes of a panel."""
_HEAD, _FOOT = 26, 8
_BINS = 32
_MAP_CELLS, _FEW = 80, 300
"""Cells of a heat map along its longer side; half as many where so few are filled, to be seen at all."""
_LINE_COLUMNS = 70
"""Places along the axis of time; where there are more times, each shows its smallest and largest value."""

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_INK, _FAINT, _EMPTY = "#333", "#ddd", "#f3f3f3"
_RAMP = ("fde725", "b4de2c", "6dcd59", "35b779", "1f9e89", "26828e", "31688e", "3e4a89", "482878", "440154")
"""From little to much: lighter to darker, so that it is also right in grey."""
_SHADES = 15

_NO_XML = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

Mean = tuple[Ints, Floats]
"""Times in ms UTC, ascending, and the value of each, NaN where there is none."""


# --- the pictures ----------------------------------------------------------------------------------


def points(lat: Floats | None, lng: Floats | None, values: Mapping[str, Floats], title: str) -> str:
    """Where points are, and how the values of each feature are distributed."""
    sheet = _Sheet(title)
    if lat is not None and lng is not None and len(lat):
        _points_map(sheet, lat, lng)
    for name, of_feature in islice(values.items(), MAX_PANELS):
        known = _known(of_feature)
        if not len(known):
            sheet.panel(name).note("no values")
            continue
        counts, edges = np.histogram(known, _BINS, _range(known))
        heights = np.log10(counts, out=np.full(_BINS, -0.3), where=counts > 0)
        axes = _Axes(sheet.panel(name), _range(edges), (-0.3, max(1.0, float(heights.max()) * 1.05)))
        axes.ticks_x("value", _ticks(*axes.x), short)
        axes.ticks_y("points (log scale)", range(int(axes.y[1]) + 1), lambda power: short(10.0**power))
        axes.bars(edges, heights)
    return sheet.svg()


def timeseries(series: Mapping[str, tuple[Mean, Mean]], title: str) -> str:
    """The mean of each feature per month and per year."""
    sheet = _Sheet(title, legend=(("month", _BLUE), ("year", _ORANGE)))
    for name, (month, year) in islice(series.items(), MAX_PANELS):
        panel = sheet.panel(name)
        month, year = ((times, _drawable(values)) for times, values in (month, year))
        known = _known(np.concatenate([month[1], year[1]]))
        if not len(known):
            panel.note("no values")
            continue
        span = _range(np.concatenate([month[0], year[0]]).astype(np.float64), least=28 * 86_400_000.0)
        axes = _Axes(panel, span, _range(known, margin=0.05))
        axes.ticks_x("time (UTC)", *_time_ticks(*span))
        axes.ticks_y("mean of places", _ticks(*axes.y), short)
        axes.line(*_thinned(*month, span), _BLUE, 1.2)
        axes.line(*_thinned(*year, span), _ORANGE, 2)
    return sheet.svg()


def top_regions(means: Mapping[str, tuple[Sequence[str], Floats]], title: str) -> str:
    """The regions of the largest means of each feature, largest first; names and values of each."""
    sheet = _Sheet(title)
    for name, (regions, values) in islice(means.items(), MAX_PANELS):
        panel = sheet.panel(name)
        if not len(values):
            panel.note("no values")
            continue
        values = _drawable(values)
        axes = _Axes(panel, _range(np.append(values, 0.0)), (0.0, float(MAX_REGIONS)), left=112)
        axes.ticks_x("mean of places", _ticks(*axes.x, about=2), short)
        zero = axes.at_x(0.0)
        for row, (region, value) in enumerate(zip(regions, values.tolist(), strict=True)):
            y = axes.at_y(MAX_REGIONS - row - 0.1)
            width = axes.at_x(value) - zero
            x, width, height = min(zero, zero + width), max(abs(width), 0.5), axes.height / MAX_REGIONS * 0.8
            panel.add(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{_BLUE}"/>'
            )
            panel.text(axes.left - 4, y + height - 3, label(region, 18, tail=True), "end")
    return sheet.svg()


@dataclass(frozen=True)
class Cells:
    """Subtiles of precision 14 of one feature and month."""

    month: str
    quadkey: Quadkeys
    s_count: Ints
    s_sum_t_mean: Floats


def heat_maps(features: Mapping[str, Sequence[Cells]], title: str) -> str:
    """The means of each feature on the map, in some of its months, as CauseMos shows them."""
    sheet = _Sheet(title)
    for name, months in islice(features.items(), MAX_MAPPED):
        x, y = deinterleave(np.concatenate([cells.quadkey for cells in months]))
        frame = _Frame.around(x.astype(np.int64), y.astype(np.int64))
        maps = [frame.means(cells) for cells in months]
        known = _known(np.concatenate([means.ravel() for means in maps]))
        low, high = np.quantile(known, (0.02, 0.98)) if len(known) else (0.0, 0.0)
        for cells, means in zip(months, maps, strict=True):
            axes = frame.axes(sheet.panel(f"{label(name, 18)}, {cells.month}", whole=True))
            axes.image(np.clip((means - low) / ((high - low) or 1.0), 0.0, 1.0))
            axes.ramp(f"mean: {short(float(low))}", short(float(high)))
        sheet.next_row()
    return sheet.svg()


def ranges_by_zoom(statistics: Mapping[str, Mapping[str, tuple[Floats, Floats]]], title: str) -> str:
    """The smallest and largest of each figure in the bins of each zoom, for each feature."""
    sheet = _Sheet(title)
    panels = ((f"{name}: {figure}", of) for name, every in statistics.items() for figure, of in every.items())
    for name, (smallest, largest) in islice(panels, MAX_PANELS):
        panel = sheet.panel(name)
        smallest, largest = _drawable(smallest), _drawable(largest)
        known = _known(np.concatenate([smallest, largest]))
        if not len(known):
            panel.note("no values")
            continue
        # Sums grow by orders of magnitude towards zoom 0.
        log = bool(known.min() > 0 and known.max() > 100 * known.min())
        scale: Callable[[Floats], Floats] = np.log10 if log else np.asarray
        zooms = len(smallest)
        axes = _Axes(panel, (-0.6, zooms - 0.4), _range(scale(known), margin=0.05))
        axes.ticks_x("zoom", range(zooms), str)
        if log:
            axes.ticks_y("log scale", _ticks(*axes.y, about=3), lambda power: short(10.0**power))
        else:
            axes.ticks_y("", _ticks(*axes.y), short)
        ends = zip(scale(smallest).tolist(), scale(largest).tolist(), strict=True)
        for zoom, (low, high) in enumerate(ends):
            if not (math.isfinite(low) and math.isfinite(high)):
                continue
            top, height = axes.at_y(high), axes.at_y(low) - axes.at_y(high)
            panel.add(
                f'<rect x="{axes.at_x(zoom - 0.3):.1f}" y="{top - 1:.1f}" width="{axes.unit_x * 0.6:.1f}" '
                f'height="{height + 2:.1f}" fill="{_BLUE}"/>'
            )
    return sheet.svg()


# --- names and numbers -----------------------------------------------------------------------------


def label(name: str, length: int = 34, *, tail: bool = False) -> str:
    """A name from outside as one short line: its beginning, or its `tail` where that tells more."""
    if len(name) <= length:
        return name
    return f"…{name[1 - length :]}" if tail else f"{name[: length - 1]}…"


def _words(text: str) -> str:
    """Text as XML."""
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))


def short(number: float) -> str:
    """A number in few characters: 1.5k, 20M, 3e-05."""
    if not math.isfinite(number):
        return "?"
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if 10**power <= abs(number) < 10 ** (power + 3):
            return f"{number / 10**power:.4g}{letter}"
    return f"{number:.4g}"


def _drawable(values: Floats) -> Floats:
    """The values, so that sums and quotients of a few of them exist; NaN where they do not."""
    bounded = np.clip(np.where(np.isfinite(values), values, np.nan), -1e250, 1e250)
    return np.where(np.abs(bounded) < 1e-250, 0.0, bounded)


def _known(values: Floats) -> Floats:
    """The values that exist, as they can be drawn."""
    return _drawable(values[np.isfinite(values)])


def _range(values: Floats, *, margin: float = 0.0, least: float = 0.0) -> tuple[float, float]:
    """Smallest and largest of finite values; further apart, where they are nearer than an axis can show."""
    low, high = float(values.min()), float(values.max())
    # What is nearer than this would have the same figures at both ends.
    least = max(least, 1e-3 * max(abs(low), abs(high)))
    if high - low <= least:
        low, high = low - (least or 1.0), high + (least or 1.0)
    room = (high - low) * margin
    return low - room, high + room


def _ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Some round numbers from low to high."""
    exact = (high - low) / about
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * exact)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, min(last, first + 20) + 1)]


def _time_ticks(low: float, high: float) -> tuple[list[float], Callable[[float], str]]:
    """Beginnings of years, or of months where there are few, and how they are called."""
    first, last = (np.datetime64(int(time), "ms").astype("datetime64[M]").astype(int) for time in (low, high))
    step = next((step for step in (1, 2, 3, 6, 12, 24, 60, 120, 240, 600) if last - first <= 4 * step), 1200)
    months = np.arange(-(-first // step) * step, last + 1, step)
    times = months.astype("datetime64[M]").astype("datetime64[ms]").astype(np.float64).tolist()
    unit = "Y" if step % 12 == 0 else "M"
    return (
        [time for time in times if time >= low],
        lambda time: str(np.datetime64(int(time), "ms").astype(f"datetime64[{unit}]")),
    )


def _thinned(times: Ints, values: Floats, span: tuple[float, float]) -> tuple[Floats, Floats]:
    """The same line with few points: where several share a place, only the smallest and largest."""
    x = times.astype(np.float64)
    if len(x) <= 2 * _LINE_COLUMNS:
        return x, values
    place = ((x - span[0]) / (span[1] - span[0]) * _LINE_COLUMNS).astype(np.int64)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return np.repeat(x[starts], 2), np.stack([low, high], axis=1).ravel()


# --- drawing ---------------------------------------------------------------------------------------


@dataclass
class _Panel:
    """A part of a picture with a title of its own, at a place of the sheet."""

    x: float
    y: float
    title: str
    parts: list[str] = field(default_factory=list)

    def add(self, part: str) -> None:
        self.parts.append(part)

    def text(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_words(text)}</text>')

    def note(self, text: str) -> None:
        """Words where a chart would be."""
        self.text(_WIDTH / 2, _HEIGHT / 2, text)

    def svg(self) -> str:
        title = f'<text x="{_LEFT}" y="14" class="t">{_words(self.title)}</text>'
        return f'<g transform="translate({self.x:g} {self.y:g})">{title}{"".join(self.parts)}</g>'


class _Sheet:
    """A picture: panels side by side below a title."""

    def __init__(self, title: str, legend: Sequence[tuple[str, str]] = ()) -> None:
        self._title = title
        self._legend = legend
        self._panels: list[_Panel] = []
        self._at = 0

    def panel(self, title: str, *, whole: bool = False) -> _Panel:
        """A new panel; its title is cut to what fits, unless that has been seen to (`whole`)."""
        column, row = self._at % _COLUMNS, self._at // _COLUMNS
        made = _Panel(column * _WIDTH, _HEAD + row * _HEIGHT, title if whole else label(title))
        self._panels.append(made)
        self._at += 1
        return made

    def next_row(self) -> None:
        """Go on at the left."""
        self._at = -(-self._at // _COLUMNS) * _COLUMNS

    def svg(self) -> str:
        columns, rows = min(max(self._at, 1), _COLUMNS), -(-max(self._at, 1) // _COLUMNS)
        width, height = max(columns * _WIDTH, 2 * _WIDTH), _HEAD + rows * _HEIGHT + _FOOT
        legend = "".join(
            f'<rect x="{width - 60 * place}" y="9" width="10" height="10" fill="{colour}"/>'
            f'<text x="{width - 60 * place + 14}" y="18">{name}</text>'
            for place, (name, colour) in zip(range(len(self._legend), 0, -1), self._legend, strict=True)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="10" fill="{_INK}">'
            "<style>.h{font-size:13px;font-weight:bold}.t{font-size:11px;font-weight:bold}</style>"
            f'<rect width="{width}" height="{height}" fill="#fff"/>'
            f'<text x="10" y="18" class="h">{_words(self._title)}</text>{legend}'
            f"{''.join(panel.svg() for panel in self._panels)}</svg>"
        )


class _Axes:
    """Two axes in a panel: from numbers to pixels."""

    def __init__(
        self,
        panel: _Panel,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        left: float = _LEFT,
        box: tuple[float, float] | None = None,
    ) -> None:
        self.panel, self.x, self.y, self.left = panel, x, y, left
        self.width, self.height = box or (_WIDTH - left - _RIGHT, float(_HEIGHT - _TOP - _BOTTOM))
        panel.add(
            f'<rect x="{left:g}" y="{_TOP}" width="{self.width:.1f}" height="{self.height:.1f}" '
            f'fill="{_EMPTY}"/>'
        )

    @property
    def unit_x(self) -> float:
        """Pixels of 1."""
        return self.width / (self.x[1] - self.x[0])

    def at_x(self, number: float) -> float:
        low, high = self.x
        return self.left + (number - low) / (high - low) * self.width

    def at_y(self, number: float) -> float:
        low, high = self.y
        return _TOP + self.height - (number - low) / (high - low) * self.height

    def ticks_x(self, name: str, ticks: Sequence[float], told: Callable[[float], str]) -> None:
        bottom = _TOP + self.height
        for tick in ticks:
            x = self.at_x(tick)
            self.panel.add(f'<path d="M{x:.1f} {_TOP}V{bottom:.1f}" stroke="{_FAINT}"/>')
            self.panel.text(x, bottom + 12, told(tick))
        self.panel.text(self.left + self.width / 2, bottom + 25, name)

    def ticks_y(self, name: str, ticks: Sequence[float], told: Callable[[float], str]) -> None:
        for tick in ticks:
            y = self.at_y(tick)
            self.panel.add(f'<path d="M{self.left:g} {y:.1f}h{self.width:.1f}" stroke="{_FAINT}"/>')
            self.panel.text(self.left - 4, y + 3, told(tick), "end")
        middle = _TOP + self.height / 2
        if name:
            self.panel.add(
                f'<text transform="translate(9 {middle:.1f}) rotate(-90)" text-anchor="middle">{name}</text>'
            )

    @property
    def places(self) -> int:
        """Labels of degrees that have room below."""
        return 3 if self.width > 100 else 2

    def degrees(
        self,
        lng: Sequence[float],
        lat: Sequence[float],
        columns: Sequence[float] | None = None,
        rows: Sequence[float] | None = None,
    ) -> None:
        """Lines of the graticule, and where they are if the axes are not in degrees."""
        for axis, degrees, places in (("x", lng, columns), ("y", lat, rows)):
            named = dict(zip(places or degrees, degrees, strict=True))
            ticks, name = (self.ticks_x, "") if axis == "x" else (self.ticks_y, "degrees")
            ticks(name, list(named), lambda place, of=named: f"{of[place]:g}°")  # type: ignore[misc]

    def bars(self, edges: Floats, heights: Floats) -> None:
        """Bars that stand on the bottom, side by side."""
        bottom, path = _TOP + self.height, []
        for left, right, height in zip(edges.tolist(), edges[1:].tolist(), heights.tolist(), strict=False):
            if height > self.y[0]:
                x, width = self.at_x(left), self.at_x(right) - self.at_x(left)
                path.append(f"M{x:.1f} {bottom:g}V{self.at_y(height):.1f}h{width:.1f}V{bottom:g}")
        self.panel.add(f'<path d="{"".join(path)}" fill="{_BLUE}"/>')

    def line(self, times: Floats, values: Floats, colour: str, width: float) -> None:
        """A line through the known values, broken where there are none; a lone value is a dot."""
        for run in _known_runs(values):
            known = zip(times[run].tolist(), values[run].tolist(), strict=True)
            at = [f"{self.at_x(x):.1f} {self.at_y(y):.1f}" for x, y in known]
            if len(at) == 1:
                x, y = at[0].split()
                self.panel.add(f'<circle cx="{x}" cy="{y}" r="{width + 1:g}" fill="{colour}"/>')
            else:
                drawn = f'fill="none" stroke="{colour}" stroke-width="{width:g}"'
                self.panel.add(f'<path d="M{"L".join(at)}" {drawn}/>')

    def image(self, share: Floats) -> None:
        """Cells, rows from the north, from little (0) to much (1); those that are NaN stay empty."""
        png = base64.b64encode(_png(share)).decode()
        self.panel.add(
            f'<image x="{self.left:g}" y="{_TOP}" width="{self.width:.1f}" height="{self.height:.1f}" '
            'preserveAspectRatio="none" image-rendering="pixelated" '
            f'href="data:image/png;base64,{png}"/>'
        )

    def ramp(self, low: str, high: str) -> None:
        """What the colours of `image` mean."""
        y, step = _HEIGHT - 14, 5
        self.panel.text(self.left + 2 * _SHADES + 24, y + 8, low, "end")
        x = self.left + 2 * _SHADES + 28
        for shade, colour in enumerate(_shades()):
            drawn = "".join(f"{part:02x}" for part in colour)
            self.panel.add(f'<path d="M{x + step * shade:g} {y}h{step}v9h-{step}" fill="#{drawn}"/>')
        self.panel.text(x + step * _SHADES + 4, y + 8, high, "start")


def _known_runs(values: Floats) -> Iterator[slice]:
    known = np.isfinite(values)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], known, [False])).astype(np.int8)))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield slice(start, end)


# --- maps ------------------------------------------------------------------------------------------


def _points_map(sheet: _Sheet, lat: Floats, lng: Floats) -> None:
    west, east = _range(lng, margin=0.04, least=0.5)
    south, north = _range(lat, margin=0.04, least=0.5)
    across, down = _fitting(east - west, north - south)
    box = (across / max(across, down), down / max(across, down))
    axes = _Axes(sheet.panel("Where points are"), (west, east), (south, north), box=_box(*box))
    for cells in (_MAP_CELLS, _MAP_CELLS // 2):
        rows, columns = (max(int(cells * side), 1) for side in (box[1], box[0]))
        row = ((north - lat) * (rows / (north - south))).astype(np.int64)
        column = ((lng - west) * (columns / (east - west))).astype(np.int64)
        counts = np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)
        if np.count_nonzero(counts) > _FEW:
            break
    most = int(counts.max())
    shares = np.full((rows, columns), np.nan)
    np.divide(np.log10(np.maximum(counts, 1)), math.log10(most) or 1.0, out=shares, where=counts > 0)
    axes.degrees(_ticks(west, east, about=axes.places), _ticks(south, north, about=3))
    axes.image(shares)
    axes.ramp("points: 1", short(most))


def _fitting(across: float, down: float) -> tuple[float, float]:
    """Sides of a map, the shorter one not so short that nothing is seen."""
    return max(across, down / 4), max(down, across / 4)


def _box(across: float, down: float) -> tuple[float, float]:
    """Pixels of a map with these sides."""
    room = (_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
    unit = min(room[0] / across, room[1] / down)
    return across * unit, down * unit


@dataclass(frozen=True)
class _Frame:
    """A part of the web-mercator map, in square cells of some subtiles."""

    x: int
    """First column of cells."""
    y: int
    shift: int
    """Levels above precision 14."""
    across: int
    down: int

    @classmethod
    def around(cls, x: Ints, y: Ints, cells: int = _MAP_CELLS) -> _Frame:
        """All of these subtiles, with some room around them; `cells` along the longer side, at most."""
        room, last = 4, 2**MAX_PRECISION - 1
        ends = [(max(int(of.min()) - room, 0), min(int(of.max()) + room, last)) for of in (x, y)]
        longer = max(end - start + 1 for start, end in ends)
        shift = max(math.ceil(math.log2(longer / cells)), 0)
        (left, right), (top, bottom) = (tuple(end >> shift for end in of) for of in ends)
        frame = cls(left, top, shift, right - left + 1, bottom - top + 1)
        few = len(np.unique(frame.places(x, y))) <= _FEW
        return cls.around(x, y, cells // 2) if few and shift and cells == _MAP_CELLS else frame

    def places(self, x: Ints, y: Ints) -> Ints:
        """Numbers of the cells that subtiles are in, row by row."""
        return ((y >> self.shift) - self.y) * self.across + (x >> self.shift) - self.x

    def means(self, cells: Cells) -> Floats:
        """The mean of each cell, NaN where there is none; shape (down, across)."""
        x, y = (of.astype(np.int64) for of in deinterleave(cells.quadkey))
        place, size = self.places(x, y), self.across * self.down
        counts = np.bincount(place, cells.s_count, size)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            means: Floats = np.bincount(place, cells.s_sum_t_mean, size) / counts
        return _drawable(means).reshape(self.down, self.across)

    def axes(self, panel: _Panel) -> _Axes:
        """Axes in columns and rows of cells, their ticks in degrees."""
        precision = MAX_PRECISION - self.shift
        across, down = _fitting(self.across, self.down)
        axes = _Axes(panel, (0.0, self.across), (self.down, 0.0), box=_box(across, down))
        west, east = west_edges(np.array([self.x, self.x + self.across]), precision)
        north, south = north_edges(np.array([self.y, self.y + self.down]), precision)
        across_at, down_at = _ticks(west, east, about=axes.places), _ticks(south, north, about=3)
        columns = [(degree + 180.0) / 360.0 * 2**precision - self.x for degree in across_at]
        rows = [
            (1.0 - math.asinh(math.tan(math.radians(degree))) / math.pi) / 2.0 * 2**precision - self.y
            for degree in down_at
        ]
        axes.degrees(across_at, down_at, columns, rows)
        return axes


# --- images ----------------------------------------------------------------------------------------


@cache
def _shades() -> npt.NDArray[np.uint8]:
    """The colours from little to much, shape (15, 3)."""
    known = np.array([[int(colour[at : at + 2], 16) for at in (0, 2, 4)] for colour in _RAMP], np.float64)
    places = np.linspace(0, len(_RAMP) - 1, _SHADES)
    mixed = [np.interp(places, np.arange(len(_RAMP)), known[:, part]) for part in range(3)]
    return np.stack(mixed, axis=1).round().astype(np.uint8)


def _png(share: Floats) -> bytes:
    """A PNG of numbers from 0 to 1, four bits a pixel; NaN is see-through."""
    rows, columns = share.shape
    known = np.isfinite(share)
    index = np.zeros((rows, columns + columns % 2), np.uint8)
    index[:, :columns][known] = 1 + np.minimum(share[known] * _SHADES, _SHADES - 1).astype(np.uint8)
    packed = (index[:, ::2] << 4) | index[:, 1::2]
    # Each row begins with the kind of its filter: none.
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), packed], axis=1).tobytes()
    palette = np.concatenate([np.zeros((1, 3), np.uint8), _shades()]).tobytes()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 4, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette),
            _chunk(b"tRNS", b"\x00"),
            _chunk(b"IDAT", zlib.compress(lines)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

"""Small pictures of a datacube, so that a person sees at a glance whether a run came through right.

Arrays in, a PNG out. Matplotlib draws, without pyplot; it is imported with the first picture, and the same
arrays give the same bytes. Names come from outside: none of them is read as a formula. The colours are those
of the map page, and can be told apart by everybody. Which rows are drawn, and where pictures are shown, is
decided in `assets/pictures.py`.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from datacube_assets.kernels.groups import Floats, Ints
from datacube_assets.kernels.morton import MAX_PRECISION, Quadkeys, deinterleave
from datacube_assets.kernels.projection import north_edges, west_edges

MAX_PANELS = 6
"""Features, at most, that one picture shows."""
MAX_MAPPED = 2
"""Features, at most, of which heat maps are drawn: each has three."""
MAX_REGIONS = 8
"""Bars of a panel of regions."""

_WIDTH, _HEIGHT = 235, 190
"""Points of a panel, 72 to the inch: three of them are as wide as the dialog in which they are shown."""
_COLUMNS = 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 24, 36
"""Room around the axes of a panel."""
_HEAD = 30
_DPI = 100
_SHADES = 24
"""Of the colours of maps: few make a picture small, and nobody sees it."""
_BINS = 32
_MAP_CELLS, _FEW = 64, 200
"""Cells of a heat map along its longer side; half as many where so few are filled, to be seen at all."""
_MARKED = 24
"""Times up to which each one is marked."""
_YEAR = 365.2425 * 86_400_000.0

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_EMPTY, _LAND, _INK, _EDGE = "#f1f4f7", "#6b7580", "#222222", "#c8ced4"
_COLOURS = "viridis"
"""From little (dark) to much (yellow), as on the map page."""
_FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans Ethiopic", "Noto Sans CJK SC", "Noto Sans Devanagari")
"""What letters are taken from, one after the other; the first comes with matplotlib."""
_STYLE: dict[str, Any] = {
    "font.size": 7.0, "axes.titlesize": 8.0, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "axes.facecolor": _EMPTY, "axes.edgecolor": _EDGE, "axes.linewidth": 0.6, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#ffffff", "grid.linewidth": 0.8, "axes.labelcolor": _INK,
    "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK, "xtick.major.size": 0.0,
    "ytick.major.size": 0.0, "text.parse_math": False, "text.usetex": False,
}  # fmt: skip

_DRAWING = threading.Lock()
"""Settings of matplotlib are those of the process, so one picture is drawn at a time."""
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

Mean = tuple[Ints, Floats]
"""Times in ms UTC, ascending, and the value of each, NaN where there is none."""
Land = tuple[Floats, Floats]
"""Longitudes and latitudes of outlines, in degrees, NaN between one and the next."""


# --- the pictures ----------------------------------------------------------------------------------


def points(
    lat: Floats | None, lng: Floats | None, values: Mapping[str, Floats], title: str, land: Land | None = None
) -> bytes:
    """Where points are, and how the values of each feature are distributed."""
    mapped = lat is not None and lng is not None and len(lat) > 0
    shown = list(islice(values.items(), MAX_PANELS))
    with _sheet(title, len(shown) + mapped) as sheet:
        if lat is not None and lng is not None and mapped:
            _points_map(sheet, lat, lng, land)
        for name, of_feature in shown:
            known = _known(of_feature)
            axes = sheet.axes(name, known)
            if axes is not None:
                counts, edges = np.histogram(known, _BINS, _range(known))
                axes.stairs(counts, edges, baseline=0.5, fill=True, color=_BLUE)
                axes.set_yscale("log")
                axes.set_ylim(0.5, max(10.0, float(counts.max()) * 1.3))
                axes.minorticks_off()
                sheet.label(axes, "value", "points (log scale)", x=short, y=short)
        return sheet.png()


def timeseries(series: Mapping[str, tuple[Mean, Mean]], title: str) -> bytes:
    """The mean of each feature per month, and per year as a bar over that year."""
    with _sheet(title, len(series), (("month", _BLUE), ("year", _ORANGE))) as sheet:
        for name, (month, year) in islice(series.items(), MAX_PANELS):
            months, years = _drawable(month[1]), _drawable(year[1])
            known = _known(np.concatenate([months, years]))
            axes = sheet.axes(name, known)
            if axes is None:
                continue
            starts = year[0].astype(np.float64)
            ends = [month[0].astype(np.float64), starts, starts + (_YEAR if len(starts) else 0.0)]
            span = _range(np.concatenate(ends), least=28 * 86_400_000.0, margin=0.02)
            at, value = month[0].astype(np.float64), months
            before, after = np.append(np.nan, value[:-1]), np.append(value[1:], np.nan)
            alone = np.isfinite(value) & np.isnan(before) & np.isnan(after)
            axes.plot(at, value, color=_BLUE, linewidth=1.2, marker="o" if len(at) <= _MARKED else "", ms=2.5)
            axes.plot(at[alone], value[alone], "o", color=_BLUE, ms=2.5)
            axes.hlines(years, starts, starts + _YEAR, color=_ORANGE, linewidth=1.8)
            axes.set_xlim(*span)
            axes.set_ylim(*_range(known, margin=0.08))
            times, told = _time_ticks(*span)
            sheet.label(axes, "time (UTC)", "mean of places", y=short)
            axes.set_xticks(times, list(map(told, times)))
        return sheet.png()


def before_and_after(series: Mapping[str, tuple[Mean, Mean]], title: str) -> bytes:
    """The mean of each feature per month in two versions; where they agree, the later covers the other."""
    with _sheet(title, len(series), (("before", _ORANGE), ("after", _BLUE))) as sheet:
        for name, versions in islice(series.items(), MAX_PANELS):
            lines = [(times.astype(np.float64), _drawable(values)) for times, values in versions]
            known = _known(np.concatenate([values for _, values in lines]))
            axes = sheet.axes(name, known)
            if axes is None:
                continue
            span = _range(np.concatenate([at for at, _ in lines]), least=28 * 86_400_000.0, margin=0.02)
            for (at, value), colour, width in zip(lines, (_ORANGE, _BLUE), (2.6, 1.2), strict=True):
                marker = "o" if len(at) <= _MARKED else ""
                axes.plot(at, value, color=colour, linewidth=width, marker=marker, ms=2.0 + width / 2)
            axes.set_xlim(*span)
            axes.set_ylim(*_range(known, margin=0.08))
            times, told = _time_ticks(*span)
            sheet.label(axes, "time (UTC)", "mean of places", y=short)
            axes.set_xticks(times, list(map(told, times)))
        return sheet.png()


def top_regions(means: Mapping[str, tuple[Sequence[str], Floats]], title: str) -> bytes:
    """The regions of the largest means of each feature, largest first; names and values of each."""
    with _sheet(title, len(means)) as sheet:
        for name, (regions, values) in islice(means.items(), MAX_PANELS):
            axes = sheet.axes(name, values, left=100)
            if axes is None:
                continue
            drawn = _drawable(values)
            axes.barh(np.arange(len(drawn)), drawn, color=_BLUE, height=0.75)
            axes.set_xlim(*_range(np.append(drawn, 0.0)))
            axes.set_ylim(MAX_REGIONS - 0.5, -0.5)
            sheet.label(axes, "mean of places", "", x=short, about=3)
            axes.set_yticks(range(len(drawn)), [label(region, 18, tail=True) for region in regions])
            axes.grid(False, axis="y")
        return sheet.png()


@dataclass(frozen=True)
class Cells:
    """Subtiles of precision 14 of one feature and month."""

    month: str
    quadkey: Quadkeys
    s_count: Ints
    s_sum_t_mean: Floats


def heat_maps(features: Mapping[str, Sequence[Cells]], title: str, land: Land | None = None) -> bytes:
    """The means of each feature on the map, in some of its months, as CauseMos shows them."""
    shown = list(islice(features.items(), MAX_MAPPED))
    rows = [row for row, (_, months) in enumerate(shown) for _ in months]
    with _sheet(title, (rows[-1] * _COLUMNS if rows else 0) + rows.count(max(rows, default=0))) as sheet:
        for row, (name, months) in enumerate(shown):
            sheet.at = row * _COLUMNS
            x, y = deinterleave(np.concatenate([cells.quadkey for cells in months]))
            frame = _Frame.around(x.astype(np.int64), y.astype(np.int64))
            maps = [frame.means(cells) for cells in months]
            known = _known(np.concatenate([means.ravel() for means in maps]))
            low, high = np.quantile(known, (0.02, 0.98)).tolist() if len(known) else (0.0, 0.0)
            for cells, means in zip(months, maps, strict=True):
                axes = sheet.map(f"{label(name, 18)}, {cells.month}", frame.across, frame.down)
                share = np.clip((means - low) / (high - low), 0.0, 1.0) if high > low else means * 0.0 + 0.5
                frame.draw(axes, share, land)
                sheet.ramp(f"mean: {short(low)}", short(high))
        return sheet.png()


def ranges_by_zoom(statistics: Mapping[str, Mapping[str, tuple[Floats, Floats]]], title: str) -> bytes:
    """The smallest and largest of each figure in the bins of each zoom, for each feature."""
    panels = [(f"{name}: {figure}", of) for name, every in statistics.items() for figure, of in every.items()]
    with _sheet(title, len(panels)) as sheet:
        for name, (smallest, largest) in panels[:MAX_PANELS]:
            smallest, largest = _drawable(smallest), _drawable(largest)
            known = _known(np.concatenate([smallest, largest]))
            axes = sheet.axes(name, known)
            if axes is None:
                continue
            # Sums grow by orders of magnitude towards zoom 0.
            log = bool(known.min() > 0 and known.max() > 100 * known.min())
            low, high = _range(np.log10(known) if log else known, margin=0.08)
            least = (high - low) / 60
            scale: Callable[[Floats], Floats] = np.log10 if log else np.asarray
            bottom, top = scale(smallest), scale(largest)
            # What is one value is a dash.
            axes.bar(
                np.arange(len(bottom)), top - bottom + least, 0.6, bottom=bottom - least / 2, color=_BLUE
            )
            axes.set_xlim(-0.6, len(bottom) - 0.4)
            axes.set_ylim(low, high)
            told = (lambda power: short(10.0**power)) if log else short
            sheet.label(axes, "zoom", "log scale" if log else "", y=told)
            axes.set_xticks(range(len(bottom)))
            axes.grid(False, axis="x")
        return sheet.png()


# --- names and numbers -----------------------------------------------------------------------------


def label(name: str, length: int = 34, *, tail: bool = False) -> str:
    """A name from outside as one short line: its beginning, or its `tail` where that tells more."""
    if len(name) <= length:
        return name
    return f"…{name[1 - length :]}" if tail else f"{name[: length - 1]}…"


def _words(text: str) -> str:
    """Text that can be drawn."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


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


# --- drawing ---------------------------------------------------------------------------------------


class _Sheet:
    """A picture: panels side by side below a title. `Any` stands for what matplotlib has no types of."""

    def __init__(self, title: str, panels: int, legend: Sequence[tuple[str, str]]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns, rows = min(max(panels, 2), _COLUMNS), max(-(-min(panels, MAX_PANELS) // _COLUMNS), 1)
        self.width, self.height = columns * _WIDTH, _HEAD + rows * _HEIGHT
        self.at = 0
        self._figure = Figure(figsize=(self.width / 72, self.height / 72), dpi=_DPI)
        self._canvas: Any = FigureCanvasAgg(self._figure)
        top = 1 - 18 / self.height
        self._text(10 / self.width, top, label(title, 45 * columns), size=9.5, weight="bold")
        for place, (name, colour) in enumerate(legend):
            x = 1 - (len(legend) - place) * 48 / self.width
            self._text(x, top, f"\N{BLACK SQUARE} {name}", size=8, color=colour)

    def _text(self, x: float, y: float, text: str, **how: Any) -> None:
        self._figure.text(x, y, _words(text), **how)

    def _place(self, left: float, width: float, height: float) -> Any:
        """Axes in the panel that is next."""
        column, row = self.at % _COLUMNS, self.at // _COLUMNS
        x, y = column * _WIDTH + left, self.height - _HEAD - row * _HEIGHT - _TOP - height
        box = (x / self.width, y / self.height, width / self.width, height / self.height)
        return self._figure.add_axes(box)

    def axes(self, title: str, values: Floats, *, left: float = _LEFT) -> Any:
        """The axes of a new panel; None, with words in their place, where there are no values."""
        axes = self._place(left, _WIDTH - left - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
        axes.set_title(_words(label(title)), x=(_LEFT - left) / (_WIDTH - left - _RIGHT), pad=5)
        self.at += 1
        if len(values):
            return axes
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
        return None

    def label(
        self,
        axes: Any,
        across: str,
        up: str,
        *,
        x: Callable[[float], str] | None = None,
        y: Callable[[float], str] | None = None,
        about: int = 4,
    ) -> None:
        """Names of both axes, and their ticks as numbers in few characters."""
        # At places that are known: matplotlib would lay out every number twice to find them.
        left, bottom = (of * 72 / _DPI for of in (axes.bbox.width, axes.bbox.height))
        axes.set_xlabel(across)
        axes.xaxis.set_label_coords(0.5, -16 / bottom)
        axes.set_ylabel(up)
        axes.yaxis.set_label_coords(-30 / left, 0.5)
        for axis, told in ((axes.xaxis, x), (axes.yaxis, y)):
            if told is not None:
                axis.set_major_formatter(lambda number, _, told=told: told(number))
                if axis.get_scale() == "linear":
                    axis.get_major_locator().set_params(nbins=about)

    def map(self, title: str, across: float, down: float) -> Any:
        """The axes of a map with these sides, in a new panel."""
        room = (_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
        across, down = max(across, down / 4), max(down, across / 4)
        unit = min(room[0] / across, room[1] / down)
        axes = self._place(_LEFT, across * unit, down * unit)
        axes.set_title(_words(title), pad=5)
        axes.grid(False)
        self.at += 1
        return axes

    def ramp(self, low: str, high: str) -> None:
        """What the colours of the newest map mean, below it."""
        import matplotlib

        column, row = (self.at - 1) % _COLUMNS, (self.at - 1) // _COLUMNS
        x, y = column * _WIDTH + _LEFT + 70, self.height - _HEAD - (row + 1) * _HEIGHT + 6
        colours = np.tile(matplotlib.colormaps[_COLOURS](np.linspace(0, 1, 90)), (11, 1, 1))
        self._figure.figimage(colours, round(x * _DPI / 72), round(y * _DPI / 72))
        self._text((x - 4) / self.width, (y + 1) / self.height, low, ha="right")
        self._text((x + 90 * 72 / _DPI + 4) / self.width, (y + 1) / self.height, high)

    def png(self) -> bytes:
        """The picture, and all its words as the description of the file: for who cannot see it."""
        from matplotlib.text import Text
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        self._canvas.draw()
        drawn = Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3].copy())
        colours = Image.new("P", (1, 1))
        colours.putpalette(_palette())
        words: list[Any] = self._figure.findobj(Text)
        info = PngInfo()
        info.add_itxt(
            "Description", "\n".join(dict.fromkeys(filter(None, (one.get_text() for one in words))))
        )
        file = io.BytesIO()
        small = drawn.quantize(palette=colours, dither=Image.Dither.NONE)
        small.save(file, "PNG", compress_level=8, pnginfo=info)
        return file.getvalue()


@cache
def _palette() -> bytes:
    """The colours of all pictures: those of maps, and what is drawn with, fading into what it is drawn on."""
    import matplotlib
    from matplotlib.colors import to_rgb

    shades = matplotlib.colormaps[_COLOURS](np.linspace(0, 1, _SHADES))[:, :3]
    grounds = np.array([to_rgb("white"), to_rgb(_EMPTY)])
    inks = np.array([to_rgb(ink) for ink in (_BLUE, _ORANGE, _INK, _LAND)])
    shares = np.linspace(0, 1, 5)[:, None, None, None]
    faded = (inks[None, :, None] * shares + grounds[None, None] * (1 - shares)).reshape(-1, 3)
    found = np.unique(np.concatenate([shades, faded, [to_rgb(_EDGE)]]), axis=0)
    return (found * 255).round().astype(np.uint8).tobytes()


@contextmanager
def _sheet(title: str, panels: int, legend: Sequence[tuple[str, str]] = ()) -> Iterator[_Sheet]:
    """A sheet for so many panels, in our style whatever a user's own settings of matplotlib are."""
    import matplotlib
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    style: Any = {**_STYLE, "font.family": [name for name in _FONTS if name in there]}
    with _DRAWING, matplotlib.rc_context(), warnings.catch_warnings():
        # A letter that no font has is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        yield _Sheet(title, panels, legend)


# --- maps ------------------------------------------------------------------------------------------


def _points_map(sheet: _Sheet, lat: Floats, lng: Floats, land: Land | None) -> None:
    west, east = _range(lng, margin=0.04, least=0.5)
    south, north = _range(lat, margin=0.04, least=0.5)
    axes = sheet.map("Where points are", east - west, north - south)
    sides = max(east - west, north - south)
    for cells in (_MAP_CELLS, _MAP_CELLS // 2):
        rows, columns = (max(int(cells * side / sides), 1) for side in (north - south, east - west))
        counts, _, _ = np.histogram2d(lat, lng, (rows, columns), ((south, north), (west, east)))
        if np.count_nonzero(counts) > _FEW:
            break
    most = float(counts.max())
    with np.errstate(divide="ignore"):
        shares = np.where(counts > 0, np.log10(counts) / (math.log10(most) or 1.0), np.nan)
    extent = (west, east, south, north)
    axes.imshow(
        shares,
        _COLOURS,
        vmin=0,
        vmax=1,
        extent=extent,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    _outlines(axes, land, lambda lng, lat: (lng, lat))
    sheet.label(axes, "", "", x=_degrees, y=_degrees, about=3)
    sheet.ramp("points: 1", short(most))


def _outlines(
    axes: Any, land: Land | None, placed: Callable[[Floats, Floats], tuple[Floats, Floats]]
) -> None:
    """Coasts and borders, as far as they are on the map."""
    if land is not None:
        (left, right), (low, high) = (sorted(of) for of in (axes.get_xlim(), axes.get_ylim()))
        x, y = placed(*land)
        room_x, room_y = (right - left) / 2, (high - low) / 2
        seen = (x > left - room_x) & (x < right + room_x) & (y > low - room_y) & (y < high + room_y)
        # Nor what goes round the back of the world.
        seen[1:] &= np.abs(np.diff(land[0])) < 180
        y = np.where(seen, y, np.nan)
        axes.plot(x, y, color=_LAND, linewidth=0.4, scalex=False, scaley=False)


def _degrees(number: float) -> str:
    return f"{number:g}°"


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

    def draw(self, axes: Any, share: Floats, land: Land | None) -> None:
        """Cells of these shares of the colours, coasts and borders, and degrees along the axes."""
        size = 2.0 ** (MAX_PRECISION - self.shift)
        extent = (0.0, self.across, self.down, 0.0)
        axes.imshow(share, _COLOURS, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")

        def placed(lng: Floats, lat: Floats) -> tuple[Floats, Floats]:
            with np.errstate(invalid="ignore"):
                up = np.arcsinh(np.tan(np.radians(np.clip(lat, -85.0511, 85.0511)))) / np.pi
            return (lng + 180.0) / 360.0 * size - self.x, (1.0 - up) / 2.0 * size - self.y

        _outlines(axes, land, placed)
        precision = MAX_PRECISION - self.shift
        west, east = west_edges(np.array([self.x, self.x + self.across]), precision)
        north, south = north_edges(np.array([self.y, self.y + self.down]), precision)
        across, up = (_round(low, high) for low, high in ((west, east), (south, north)))
        axes.set_xticks(placed(across, across * 0)[0], list(map(_degrees, across.tolist())))
        axes.set_yticks(placed(up * 0, up)[1], list(map(_degrees, up.tolist())))


def _round(low: float, high: float) -> Floats:
    """Some round numbers from low to high."""
    from matplotlib.ticker import MaxNLocator

    ticks: Floats = np.asarray(MaxNLocator(3).tick_values(low, high), dtype=np.float64)
    return ticks[(ticks >= low) & (ticks <= high)]

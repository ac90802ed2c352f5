"""What the tests of the kernels share: a whole datacube from a few rows, its objects read back as a
reader reads them, and an independent reference in plain Python of
docs/specification/from-rows-to-figures.md.

Test data and comparisons belong here; no assertion about one behaviour does.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import strategies as st

from datacube_assets.kernels import grid, keys, spatial, views
from datacube_assets.kernels.encode import Objects
from datacube_assets.kernels.normalize import normalize
from datacube_assets.kernels.parts import Part
from datacube_assets.kernels.plan import Options, Plan, plan
from datacube_assets.kernels.profile import merge_profiles, profile
from datacube_assets.kernels.qualifiers import Breakdowns, Thresholds, feature_regions, qualifier_values
from datacube_assets.kernels.raw_rows import join_rows, raw_rows
from datacube_assets.kernels.report import Report, check_values
from datacube_assets.kernels.schema import (
    REGION_LEVELS,
    RESOLUTIONS,
    Layout,
    Period,
    Resolution,
)
from datacube_assets.kernels.temporal import temporal_cells

Row = Mapping[str, Any]
Frame: TypeAlias = pa.Table | Mapping[str, Sequence[Any]] | Sequence[Row]
Figures = dict[str, float | None]

JAN_2020, FEB_2020 = 1577836800000, 1580515200000
DAY = 86_400_000

DEFAULTS = {"feature": "f", "timestamp": JAN_2020, "value": 1.0}
TYPES = {
    "timestamp": pa.int64(),
    **dict.fromkeys(REGION_LEVELS, pa.string()),
    "lat": pa.float64(),
    "lng": pa.float64(),
    "feature": pa.string(),
    "value": pa.float64(),
}


def ms(year: int, month: int = 1, day: int = 1) -> int:
    """Midnight UTC of a day, in milliseconds."""
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (dt.datetime(year, month, day, tzinfo=dt.UTC) - epoch) // dt.timedelta(milliseconds=1)


# --- from rows to a datacube -----------------------------------------------------------------------


def as_table(frame: Frame) -> pa.Table:
    """A part as Dojo writes it. Rows get feature `f` and January 2020 where they say nothing else."""
    if isinstance(frame, pa.Table):
        return frame
    if not isinstance(frame, Mapping):
        names = list(dict.fromkeys(name for row in frame for name in row))
        frame = {name: [row.get(name, DEFAULTS.get(name)) for row in frame] for name in names}
    columns = {
        name: values if isinstance(values, pa.Array) else pa.array(values, TYPES.get(name))
        for name, values in frame.items()
    }
    rows = len(next(iter(columns.values())))
    for name, default in DEFAULTS.items():
        columns.setdefault(name, pa.array([default] * rows, TYPES[name]))
    return pa.table(columns)


def as_part(frame: Frame, name: str = "part.1.parquet.gzip") -> Part:
    file = io.BytesIO()
    pq.write_table(as_table(frame), file, compression="gzip")
    return Part(cast(Any, io.BytesIO(file.getvalue())), name)


@dataclass(frozen=True)
class Points:
    """The points of some parts, with all that normalizing found out."""

    table: pa.Table
    plan: Plan
    report: Report
    raw: pa.Table

    @property
    def layout(self) -> Layout:
        return self.plan.layout

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.table[name].to_pylist()
        return values


def normalized(*frames: Frame, **options: Any) -> Points:
    """Parts written as Parquet, read back and normalized, one batch a part."""
    batches = [batch for frame in frames for batch in as_part(frame).batches()]
    what = plan(merge_profiles(profile(batch) for batch in batches), Options(**options))
    made = [normalize(batch, what) for batch in batches]
    report = sum((one for _, one in made), Report())
    check_values(report, what.options)
    raw = join_rows([raw_rows(batch, what) for batch in batches])
    table = pa.concat_tables([points for points, _ in made]).unify_dictionaries()
    return Points(table, what, report, raw)


@dataclass(frozen=True)
class Datacube:
    """All objects of a run, by key without the run's prefix."""

    points: Points
    objects: dict[str, bytes]

    @property
    def results(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.json("results/results.json"))

    @property
    def data_info(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.results["data_info"])

    @property
    def summary(self) -> dict[str, dict[str, float | None]]:
        """`output_agg_values` by feature."""
        return {one["name"]: one for one in self.results["output_agg_values"]}

    def keys(self, *parts: str) -> list[str]:
        """Keys that contain all these texts, sorted."""
        return sorted(key for key in self.objects if all(part in key for part in parts))

    def text(self, key: str) -> str:
        return self.objects[key].decode()

    def json(self, key: str) -> Any:
        return json.loads(self.objects[key], parse_constant=_refuse)

    def rows(self, key: str) -> list[dict[str, str]]:
        """A CSV object as a strict reader sees it: by header, every line of the same length."""
        lines = list(csv.reader(io.StringIO(self.text(key), newline=""), strict=True))
        return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]

    def line(self, key: str, first: object) -> str:
        """The line of a CSV object that begins with this cell."""
        (found,) = (line for line in self.text(key).split("\n") if line.startswith(f"{first},"))
        return found

    def row(self, key: str, first: object) -> dict[str, str]:
        """The line of a CSV object that begins with this cell, by header."""
        (found,) = (row for row in self.rows(key) if next(iter(row.values())) == str(first))
        return found

    def tile(self, key: str) -> Bins:
        return parse_tile(self.objects[key])[1]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def datacube(
    *frames: Frame,
    qualifiers: Mapping[str, Sequence[str]] | None = None,
    thresholds: Thresholds | None = None,
    indicator: bool = False,
    raw_count_threshold: int = 10_000,
    **options: Any,
) -> Datacube:
    """Every object of a run, by chaining the kernels as the assets do."""
    return datacube_of(
        normalized(*frames, **options),
        qualifiers=qualifiers,
        thresholds=thresholds,
        indicator=indicator,
        raw_count_threshold=raw_count_threshold,
    )


def datacube_of(
    points: Points,
    *,
    qualifiers: Mapping[str, Sequence[str]] | None = None,
    thresholds: Thresholds | None = None,
    indicator: bool = False,
    raw_count_threshold: int = 10_000,
) -> Datacube:
    """The same of points. Objects that would share a key are left out."""
    layout = points.layout
    values = qualifier_values(points.table, layout)
    features = sorted(set(points.column("feature")))
    by = Breakdowns.of(values, qualifiers or {}, thresholds or Thresholds())
    periods: tuple[Period, ...] = RESOLUTIONS if indicator else (*RESOLUTIONS, "all")
    cells = dict(temporal_cells([points.table], layout, periods))

    made: list[Objects] = [_raw(points, raw_count_threshold)]
    made.append(views.region_lists(feature_regions(points.table, layout), layout))
    made.append(views.qualifier_lists(values, features, by))
    sizes: dict[Resolution, dict[str, int]] = {}
    for resolution in RESOLUTIONS:
        table = spatial.global_aggregates(spatial.Cells(cells[resolution], layout))
        sizes[resolution] = views.timeseries_sizes(table)
        made.append(views.global_timeseries(resolution, table, layout))
        made += _regional(resolution, cells[resolution], layout, by)
        if layout.mappable:
            grid_table = grid.grid_cells(cells[resolution])
            made.append(views.grid_stats(resolution, grid_table))
            made += views.spatial_tiles(resolution, grid_table)
    times_made = Counter(key for batch in made for key in batch.keys)
    shared = [key for key, times in times_made.items() if times > 1]
    names = [
        features,
        *({str(name) for name in values[column].to_pylist()} for column in ("qualifier", "value")),
    ]
    regions = feature_regions(points.table, layout)
    names += [set(regions[level].to_pylist()) for level in layout.levels]
    if not any(keys.may_share(pa.array(list(some), pa.string())) for some in names):
        assert not shared, "no key is made twice"
    objects = {
        key: bytes(body)
        for batch in made
        for key, body in zip(batch.keys, batch.bodies(), strict=True)
        if times_made[key] == 1
    }
    objects["results/results.json"] = views.results(
        points.report,
        layout,
        features=features,
        raw_count_threshold=raw_count_threshold,
        timeseries_sizes=sizes,
        summary=None
        if indicator
        else spatial.global_aggregates(spatial.Cells(cells["all"], layout, ranges=True)),
    )
    return Datacube(points, objects)


def _raw(points: Points, threshold: int) -> Objects:
    few = [name for name, rows in points.report.num_rows_per_feature.items() if rows <= threshold]
    names = points.raw["feature"].cast(pa.string())
    return views.raw_data(points.raw.filter(pc.is_in(names, pa.array(few, pa.string()))))


def _regional(resolution: Resolution, cells: pa.Table, layout: Layout, by: Breakdowns) -> Iterable[Objects]:
    for breakdown in by.everywhere():
        table = spatial.global_aggregates(spatial.Cells(cells, layout), breakdown)
        yield from views.qualifier_timeseries(resolution, breakdown.qualifier, table, layout)
        for level, table in spatial.regional_aggregates(spatial.Cells(cells, layout), breakdown).items():
            yield from views.regional_maps(resolution, level, table, layout, breakdown.qualifier)
    for level, table in spatial.regional_aggregates(spatial.Cells(cells, layout)).items():
        yield from views.regional_timeseries(resolution, level, table, layout)
        yield from views.regional_maps(resolution, level, table, layout)
        yield views.regional_extrema(resolution, level, table, layout)
        for breakdown in by.in_timeseries(level):
            table = spatial.regional_aggregates(spatial.Cells(cells, layout), breakdown)[level]
            yield from views.regional_timeseries(resolution, level, table, layout, breakdown.qualifier)


# --- texts -----------------------------------------------------------------------------------------


def texts() -> st.SearchStrategy[str]:
    """Texts of all kinds, most of them hard to write as CSV."""
    odd = st.text(st.sampled_from("\",\n\rab é;\t'日"), max_size=6)
    return st.one_of(odd, st.text(st.characters(exclude_categories=["Cs"]), max_size=6))


def no_returns() -> st.SearchStrategy[str]:
    """Texts without the character that Python versions disagree about in CSV: a lone carriage return."""
    return texts().map(lambda text: text.replace("\r", ""))


# --- tiles -----------------------------------------------------------------------------------------

Bins = dict[int, tuple[float, float, float]]
"""s_sum_t_sum, s_sum_t_mean and weight by bin."""


def _tile_class() -> Any:
    """The message class of docs/objects.md#13-tiles, made at run time."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tile.proto", package="tiles", syntax="proto3")

    def message(parent: Any, name: str, *fields: tuple[str, int, int, str | None]) -> Any:
        made = parent.add(name=name)
        for field_name, number, type_, type_name in fields:
            made.field.add(
                name=field_name, number=number, type=type_, type_name=type_name, label=field.LABEL_OPTIONAL
            )
        return made

    message(
        file.message_type,
        "Tile",
        ("coord", 1, field.TYPE_MESSAGE, ".tiles.TileCoord"),
        ("bins", 2, field.TYPE_MESSAGE, ".tiles.TileBins"),
    )
    coordinates = [(name, i + 1, field.TYPE_UINT32, None) for i, name in enumerate("xyz")]
    message(file.message_type, "TileCoord", *coordinates, ("t", 4, field.TYPE_INT64, None))
    bins = message(file.message_type, "TileBins", ("totalBins", 2, field.TYPE_UINT32, None))
    entry = message(
        bins.nested_type,
        "StatsEntry",
        ("key", 1, field.TYPE_UINT32, None),
        ("value", 2, field.TYPE_MESSAGE, ".tiles.TileStats"),
    )
    entry.options.map_entry = True
    bins.field.add(
        name="stats",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tiles.TileBins.StatsEntry",
        label=field.LABEL_REPEATED,
    )
    doubles = ("sum", "avg", "s_sum_t_sum", "s_sum_t_mean", "weight")
    message(
        file.message_type,
        "TileStats",
        ("count", 1, field.TYPE_UINT64, None),
        *((name, i + 2, field.TYPE_DOUBLE, None) for i, name in enumerate(doubles)),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tiles.Tile"))


TILE = _tile_class()


def parse_tile(body: bytes) -> tuple[tuple[int, int, int], Bins]:
    """(z, x, y) and the bins of a tile, which must be one that the reader survives."""
    tile = TILE.FromString(body)
    assert tile.HasField("coord")
    assert tile.HasField("bins")
    assert tile.bins.totalBins == 4096
    bins = {}
    for number, stats in tile.bins.stats.items():
        assert (stats.count, stats.sum, stats.avg) == (0, 0.0, 0.0)
        bins[number] = (stats.s_sum_t_sum, stats.s_sum_t_mean, stats.weight)
    return (tile.coord.z, tile.coord.x, tile.coord.y), bins


def slippy(lat: float, lng: float, precision: int) -> tuple[int, int]:
    """Subtile of a point by the formula of docs/objects.md#13-tiles, in plain Python."""
    n = 2**precision
    y = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n
    return int((lng + 180) / 360 * n), int(y)


# --- reference -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A temporal cell of docs/specification/from-rows-to-figures.md#temporal-cells."""

    key: Mapping[str, Any]
    """Bucket as `timestamp`, feature, place and qualifiers."""
    t_sum: float
    t_mean: float | None
    t_wavg: float | None
    weight: float


def bucket_of(timestamp: int, period: Period) -> int:
    if period == "all":
        return 0
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=timestamp)
    return ms(moment.year, moment.month if period == "month" else 1)


def reference_cells(rows: Iterable[Row], period: Period, weight: str | None = None) -> list[Cell]:
    """The temporal step in plain Python, with differences 1 and 6 of docs/differences.md."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = {name: row[name] for name in row if name not in ("value", "timestamp", weight)}
        for name, value in key.items():
            if name not in ("lat", "lng") and value is None:
                key[name] = "None"
        key["timestamp"] = bucket_of(row["timestamp"], period)
        groups[tuple(sorted(key.items(), key=lambda item: item[0]))].append(row)
    cells = []
    for group, members in groups.items():
        present = [row for row in members if row["value"] is not None]
        t_sum = math.fsum(row["value"] for row in present)
        weights = {id(row): (row[weight] or 0.0) if weight else 0.0 for row in members}
        total = math.fsum(weights[id(row)] for row in present)
        weighted = math.fsum(row["value"] * weights[id(row)] for row in present)
        cells.append(
            Cell(
                dict(group),
                t_sum,
                t_sum / len(present) if present else None,
                weighted / total if total else None,
                math.fsum(weights.values()) / len(members),
            )
        )
    return cells


def reference_figures(cells: Sequence[Cell], weighted: bool = False) -> Figures:
    """The published figures of a set of cells (spatial step), and the summary's smallest and largest."""
    figures: Figures = {"s_count": float(sum(cell.t_mean is not None for cell in cells))}
    for name in ("t_sum", "t_mean", *(["t_wavg"] if weighted else [])):
        pairs = [(getattr(cell, name), cell.weight) for cell in cells if getattr(cell, name) is not None]
        values = [value for value, _ in pairs]
        figures[f"s_sum_{name}"] = math.fsum(values)
        figures[f"s_mean_{name}"] = math.fsum(values) / len(values) if values else None
        figures[f"s_min_{name}"] = min(values, default=None)
        figures[f"s_max_{name}"] = max(values, default=None)
        if weighted:
            weights = math.fsum(weight for _, weight in pairs)
            products = math.fsum(value * weight for value, weight in pairs)
            figures[f"s_wavg_{name}"] = products / weights if weights else None
    return figures


def grouped(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> dict[Any, list[Cell]]:
    groups: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[key(cell)].append(cell)
    return groups


def region_id(cell: Cell, level: str) -> str:
    depth = REGION_LEVELS.index(cast(Any, level)) + 1
    return "__".join(str(cell.key.get(name, "None")) for name in REGION_LEVELS[:depth])


# --- comparison ------------------------------------------------------------------------------------


def number(cell: str) -> float | None:
    """A cell of a CSV object: a finite number, or None where it is empty."""
    if cell == "":
        return None
    value = float(cell)
    assert math.isfinite(value), "the reader fails on words for infinity and not-a-number"
    return value


def same(a: float | None, b: float | None) -> bool:
    """Equal to 1e-9, or both missing."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


def check_figures(published: Mapping[str, str], expected: Figures) -> None:
    """The figures of a line of a CSV object are the expected ones."""
    names = [name for name in published if name.startswith("s_")]
    assert names, published
    wrong = {
        name: (published[name], expected[name])
        for name in names
        if not same(number(published[name]), expected[name])
    }
    assert not wrong

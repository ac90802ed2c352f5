"""What the pictures of materializations show: which features, which rows, and how many at most.

Each function reads a bounded part of a table of the lake and hands its columns to `kernels/pictures.py`,
which draws.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence, Set
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

import datacube_assets
from datacube_assets.kernels import pictures
from datacube_assets.kernels.grid_statistics import GRID_STATISTICS, grid_statistics
from datacube_assets.kernels.groups import Floats, Ints, column, encode_text, slices
from datacube_assets.kernels.morton import Quadkeys
from datacube_assets.kernels.pictures import MAX_MAPPED, MAX_PANELS, MAX_REGIONS, Cells, Land, Mean
from datacube_assets.kernels.schema import RESOLUTIONS
from datacube_assets.storage.lake import Lake, LakeTable, aggregate_folder
from datacube_assets.storage.points import shards_of
from datacube_assets.storage.run_info import RunInfo

MAX_ROWS = 1_000_000
"""Rows that are read for a picture, about."""
MAX_POINTS = 200_000
"""Points that are drawn."""
MAX_MEANS = 20
"""Features whose means are shown as figures."""
MAX_FILES = 4
"""Files of a table of grid cells that are read where it has more than `MAX_ROWS`."""
ATLAS = Path(datacube_assets.__file__).parent / "view/static/vendor/world-atlas/countries-50m.json"
"""Coasts and borders as TopoJSON, which the map page has too."""


def of_points(lake: Lake, table: LakeTable) -> bytes:
    """Places and values of the points; of many points a sample."""
    info = RunInfo.of(table)
    mapped = info.layout.mappable
    parts: list[pa.Table] = []
    columns = ["feature", "value", *(("lat", "lng") if mapped else ())]
    for part in itertools.chain.from_iterable(lake.batches(table, one, columns) for one in shards_of(table)):
        parts.append(part)
        if sum(part.num_rows for part in parts) >= MAX_ROWS:
            break
    points = pa.concat_tables(parts).unify_dictionaries()
    step = -(-points.num_rows // MAX_POINTS) or 1
    feature = encode_text(points["feature"])
    codes, value = feature.codes[::step], cast(Floats, column(points, "value"))[::step]
    names = feature.values.to_pylist()[: MAX_PANELS - mapped]
    lat = lng = None
    if mapped:
        lat, lng = (cast(Floats, column(points, name))[::step] for name in ("lat", "lng"))
        known = np.isfinite(lat) & np.isfinite(lng)
        lat, lng = lat[known], lng[known]
    drawn, every = len(codes), info.report.points
    told = f"{every:,} points" if drawn == every else f"A sample of {drawn:,} of {every:,} points"
    by_name = {
        name: value if len(info.features) == 1 else value[codes == code] for code, name in enumerate(names)
    }
    return pictures.points(lat, lng, by_name, told + _some(len(by_name), info), land())


def means_over_time(lake: Lake, table: LakeTable) -> dict[str, tuple[Mean, Mean]]:
    """The mean of some features over all places, per month and per year."""
    found: dict[str, list[Mean]] = {}
    for resolution in RESOLUTIONS:
        rows = _by_feature(
            lake, table, aggregate_folder(resolution), ["timestamp", "s_count", "s_sum_t_mean"]
        )
        for feature, part in rows.items():
            found.setdefault(feature, []).append((cast(Ints, column(part, "timestamp")), _means(part)))
    return {feature: (of[0], of[1]) for feature, of in found.items() if len(of) == len(RESOLUTIONS)}


def mean_figures(lake: Lake, table: LakeTable) -> dict[str, float]:
    """The mean of some features over all places and months, where it exists: a figure that plots."""
    columns = ["s_count", "s_sum_t_mean"]
    by_feature = _by_feature(lake, table, aggregate_folder("month"), columns, limit=MAX_MEANS)
    found = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for feature, rows in by_feature.items():
            counts, sums = (float(column(rows, name).sum()) for name in columns)
            if counts and np.isfinite(sums):
                found[f"mean of {feature}"] = sums / counts
    return found


def of_timeseries(lake: Lake, table: LakeTable) -> bytes:
    """The lines of month and year."""
    means = means_over_time(lake, table)
    return pictures.timeseries(means, "Mean over all places" + _some(len(means), RunInfo.of(table)))


def of_changes(lake: Lake, before: LakeTable, after: LakeTable, features: Sequence[str], title: str) -> bytes:
    """The monthly means of some features in two versions."""
    columns = ["timestamp", "s_count", "s_sum_t_mean"]
    old, new = (
        _features(lake, table, table.names(aggregate_folder("month")), columns, len(features), set(features))
        for table in (before, after)
    )
    nothing: Mean = (np.zeros(0, np.int64), np.zeros(0))

    def mean(rows: pa.Table | None) -> Mean:
        return nothing if rows is None else (cast(Ints, column(rows, "timestamp")), _means(rows))

    drawn = {name: (mean(old.get(name)), mean(new.get(name))) for name in features}
    return pictures.before_and_after(drawn, title)


def of_regions(lake: Lake, table: LakeTable) -> bytes | None:
    """The regions of the largest means, of the coarsest level that has several."""
    columns = ["region_id", "s_count", "s_sum_t_mean"]
    rows: dict[str, pa.Table] = {}
    shown = ""
    for level in RunInfo.of(table).layout.levels:
        rows, shown = _by_feature(lake, table, aggregate_folder("year", level), columns), level
        if any(len(part["region_id"].unique()) > 1 for part in rows.values()):
            break
    if not rows:
        return None
    largest = {feature: _largest(part) for feature, part in rows.items()}
    title = f"Largest means by {shown}, over all years" + _some(len(rows), RunInfo.of(table))
    return pictures.top_regions(largest, title)


def _largest(rows: pa.Table) -> tuple[list[str], Floats]:
    region = encode_text(rows["region_id"])
    size = len(region.values)
    counts, sums = (
        np.bincount(region.codes, column(rows, name), size) for name in ("s_count", "s_sum_t_mean")
    )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        means = sums / counts
    known = np.flatnonzero(np.isfinite(means))
    chosen = known[np.argsort(-means[known], kind="stable")][:MAX_REGIONS]
    return region.values.take(pa.array(chosen)).to_pylist(), means[chosen]


def of_tiles(lake: Lake, table: LakeTable) -> bytes | None:
    """The map of the first, the last and the busiest month."""
    features = _mapped(lake, table, ["quadkey", "s_count", "s_sum_t_mean"])
    if not features:
        return None
    maps = {feature: _first_last_busiest(rows) for feature, rows in features.items()}
    title = "Mean in each square of the map" + _some(len(maps), RunInfo.of(table))
    return pictures.heat_maps(maps, title, land())


def _first_last_busiest(rows: pa.Table) -> list[Cells]:
    cuts = slices(cast(Ints, column(rows, "timestamp")))
    busiest = int(np.argmax(np.diff(cuts)))
    roles: dict[int, str] = {}
    for month, role in ((0, "first"), (len(cuts) - 2, "last"), (busiest, "busiest")):
        roles[month] = f"{roles[month]}, {role}" if month in roles else role
    made = []
    for month, role in roles.items():
        part = rows.slice(int(cuts[month]), int(cuts[month + 1] - cuts[month]))
        time = np.datetime64(part["timestamp"][0].as_py(), "ms").astype("datetime64[M]")
        made.append(
            Cells(
                f"{time} ({role})",
                cast(Quadkeys, column(part, "quadkey")),
                cast(Ints, column(part, "s_count")),
                cast(Floats, column(part, "s_sum_t_mean")),
            )
        )
    return made


def of_grid_stats(lake: Lake, table: LakeTable) -> bytes | None:
    """The range of means and sums at every zoom, in the busiest month."""
    features = _mapped(lake, table, ["quadkey", "s_count", "s_sum_t_sum", "s_sum_t_mean"])
    if not features:
        return None
    ranges = {}
    for feature, rows in features.items():
        cuts = slices(cast(Ints, column(rows, "timestamp")))
        busiest = int(np.argmax(np.diff(cuts)))
        month = rows.slice(int(cuts[busiest]), int(cuts[busiest + 1] - cuts[busiest]))
        by_zoom = grid_statistics(month)[0][0]
        ranges[feature] = {
            told: (_statistic(by_zoom, f"min_{figure}"), _statistic(by_zoom, f"max_{figure}"))
            for told, figure in (("mean in a bin", "s_mean_t_mean"), ("sum in a bin", "s_sum_t_sum"))
        }
    title = "Range by zoom, in the busiest month" + _some(len(ranges), RunInfo.of(table))
    return pictures.ranges_by_zoom(ranges, title)


def _statistic(by_zoom: Floats, name: str) -> Floats:
    figures: Floats = by_zoom[:, GRID_STATISTICS.index(name)]
    return figures


def prepare() -> None:
    """Have everything at hand that the first picture of a process would wait for."""
    land()
    pictures.top_regions({"": ([""], np.ones(1))}, "")


# --- reading ---------------------------------------------------------------------------------------


@functools.cache
def land() -> Land:
    """Coasts and borders of the world, each of them once."""
    atlas = json.loads(ATLAS.read_bytes())
    arcs = atlas["arcs"]
    # An arc is steps on a grid of whole numbers, from its first point on.
    steps = np.array([step for arc in arcs for step in arc], np.float64)
    ends = np.cumsum([len(arc) for arc in arcs])
    places = np.cumsum(steps, axis=0)
    before = np.concatenate([np.zeros((1, 2)), places[ends[:-1] - 1]])
    places -= np.repeat(before, np.diff(ends, prepend=0), axis=0)
    degrees = places * atlas["transform"]["scale"] + atlas["transform"]["translate"]
    lng, lat = np.insert(degrees, ends[:-1], np.nan, axis=0).T
    return lng, lat


def _by_feature(
    lake: Lake, table: LakeTable, folder: str, columns: Sequence[str], *, limit: int = MAX_PANELS
) -> dict[str, pa.Table]:
    """The rows of some features, from as few files as have them: the files are in order of features."""
    return _features(lake, table, table.names(folder), columns, limit)


def _mapped(lake: Lake, table: LakeTable, columns: Sequence[str]) -> dict[str, pa.Table]:
    """Monthly grid cells of some features, in order of time."""
    folder = aggregate_folder("month")
    files = [file for file in table.files if file.name.startswith(folder)]
    names = [file.name for file in files]
    if sum(file.rows for file in files) > MAX_ROWS:
        # A large feature is cut by time: some files from its whole length.
        chosen = np.linspace(0, len(names) - 1, min(MAX_FILES, len(names))).astype(int)
        names = [names[number] for number in sorted(set(chosen.tolist()))]
    return _features(lake, table, names, ["timestamp", *columns], MAX_MAPPED)


def _features(
    lake: Lake,
    table: LakeTable,
    names: Sequence[str],
    columns: Sequence[str],
    limit: int,
    wanted: Set[str] | None = None,
) -> dict[str, pa.Table]:
    parts: dict[str, list[pa.Table]] = {}
    for name in names:
        part = lake.read(table, name, ["feature", *columns])
        feature = encode_text(part["feature"])
        before = sum(map(len, parts.values()))
        for start, end in itertools.pairwise(slices(feature.codes).tolist()):
            named = feature.values[int(feature.codes[start])].as_py()
            if wanted is not None and named not in wanted:
                continue
            if named in parts or len(parts) < limit:
                parts.setdefault(named, []).append(part.slice(start, end - start))
        if wanted is None and sum(map(len, parts.values())) == before:
            # Files are in order of features: there are enough, and what follows is of others.
            break
    return {
        feature: some[0] if len(some) == 1 else pa.concat_tables(some).unify_dictionaries()
        for feature, some in parts.items()
    }


def _means(rows: pa.Table) -> Floats:
    counts, sums = cast(Ints, column(rows, "s_count")), cast(Floats, column(rows, "s_sum_t_mean"))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        means: Floats = sums / counts
    return means


def _some(shown: int, info: RunInfo) -> str:
    """Says of a picture's title that there are more features."""
    every = len(info.features)
    return f" ({shown} of {every} features)" if shown < every else ""

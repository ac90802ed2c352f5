"""The object families of a datacube, each as a view over a lake table (docs/objects.md).

One function a family: which rows and columns of the table make which object. Bytes are made in
`encode.py`, keys in `keys.py`; how objects reach a bucket is the business of `storage/`. Functions that
may make many objects are generators of batches, so that memory does not grow with their number.

Rows are sorted: regions and qualifier values by name, timestamps ascending.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels import keys
from datacube_assets.kernels.columns import shortest
from datacube_assets.kernels.encode import (
    CSV,
    JSON,
    Objects,
    Offsets,
    csv_header,
    csv_lines,
    csv_objects,
    float_cells,
    json_body,
    quote,
    text_cells,
    tile_objects,
)
from datacube_assets.kernels.grid_statistics import GRID_STATISTICS, grid_statistics
from datacube_assets.kernels.groups import (
    Coded,
    Floats,
    Ints,
    column,
    encode_ints,
    encode_text,
    group_by,
    slices,
)
from datacube_assets.kernels.morton import PRECISIONS, deinterleave
from datacube_assets.kernels.pyramid import Level, pyramid
from datacube_assets.kernels.qualifiers import Breakdowns
from datacube_assets.kernels.regions import Regions, answerable
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.runs import bucket_starts
from datacube_assets.kernels.schema import (
    REGION_LEVELS,
    Layout,
    RegionLevel,
    Resolution,
    published_columns,
    summary_columns,
)
from datacube_assets.kernels.spatial import Measures, finish, published, table_measures

BATCH_ROWS = 250_000
"""Rows formatted at once; a few hundred bytes each while they are."""
BATCH_OBJECTS = 25_000
"""Objects of a batch."""
BATCH_BYTES = 32_000_000
"""Bytes of a batch of objects that were made in smaller ones."""
MAX_EXTREMA = 20
"""Items in a list of extrema."""


# --- raw rows and lists ----------------------------------------------------------------------------


def raw_data(rows: pa.Table) -> Objects:
    """raw.csv of each feature in `rows` (as `raw_rows.py` gives them), rows in file order."""
    feature = encode_text(rows["feature"])
    groups = group_by([feature])
    names = [name for name in rows.column_names if name != "feature"]
    columns = [_raw_cells(rows[name]) for name in names]
    if groups.order is not None:
        order = pl.Series(groups.order)
        columns = [cells.gather(order) for cells in columns]
    cuts = np.append(groups.starts, rows.num_rows)
    made = [keys.raw(name) for name in feature.take(groups.first).to_arrow().to_pylist()]
    return csv_objects(pa.array(made, pa.string()), names, columns, cuts)


def _raw_cells(values: pa.ChunkedArray) -> pl.Series:
    type_ = values.type
    if pa.types.is_floating(type_):
        return float_cells(shortest(values))
    if pa.types.is_integer(type_):
        return cast(pl.Series, pl.from_arrow(values))
    if pa.types.is_boolean(type_):
        return cast(pl.Series, pl.from_arrow(pc.if_else(values, "True", "False")))
    if pa.types.is_dictionary(type_):
        values = values.cast(pa.string())
    texts = values.cast(pa.string()).combine_chunks()
    encoded = (texts.chunk(0) if isinstance(texts, pa.ChunkedArray) else texts).dictionary_encode()
    return cast(pl.Series, pl.from_arrow(quote(encoded.dictionary).take(encoded.indices)))


def region_lists(regions: pa.Table, layout: Layout) -> Objects:
    """region_lists.json of each feature, from its distinct regions; none when no level survived.

    Without the ids that stop the reader when it is asked for them: nobody is to choose one.
    """
    if not layout.levels or not regions.num_rows:
        return Objects.of([], JSON)
    known = Regions.of(regions, layout.levels)
    tuples = known.tuples.codes
    ids = {level: known.level(level).take(tuples) for level in layout.levels}
    feature = encode_text(regions["feature"])
    readable = {level: answerable(coded.values) for level, coded in ids.items()}
    bodies = []
    for start, end in _runs(feature.codes):
        lists: dict[str, list[str]] = {level: [] for level in REGION_LEVELS}
        for level, coded in ids.items():
            distinct = np.unique(coded.codes[start:end])
            distinct = distinct[readable[level][distinct]]
            lists[level] = coded.values.take(pa.array(distinct)).to_pylist()
        bodies.append((keys.region_lists(_name(feature, start)), json_body(lists)))
    return Objects.of(bodies, JSON)


def qualifier_lists(values: pa.Table, features: Sequence[str], breakdowns: Breakdowns) -> Objects:
    """Lists of values of every qualifier per feature, and the counts of every feature."""
    bodies: list[tuple[str, bytes]] = []
    feature, qualifier = encode_text(values["feature"]), encode_text(values["qualifier"])
    for start, end in _runs(feature.codes * qualifier.radix + qualifier.codes):
        key = keys.qualifier_list(_name(feature, start), _name(qualifier, start))
        bodies.append((key, json_body(values["value"].slice(start, end - start).to_pylist())))
    limits = breakdowns.thresholds
    thresholds = {
        "max_count": limits.max_count,
        "regional_timeseries_count": limits.regional_timeseries_count,
        "regional_timeseries_max_level": limits.regional_timeseries_max_level,
    }
    for name in features:
        document = {"thresholds": thresholds, "counts": breakdowns.counts.get(name, {})}
        bodies.append((keys.qualifier_counts(name), json_body(document)))
    return Objects.of(bodies, JSON)


# --- timeseries ------------------------------------------------------------------------------------


def global_timeseries(resolution: Resolution, table: pa.Table, layout: Layout) -> Objects:
    """global.csv of each feature."""
    feature = encode_text(table["feature"])
    cuts = slices(feature.codes)
    cells = [pl.Series(column(table, "timestamp")), *figure_cells(published(table, layout))]
    made = [keys.global_timeseries(resolution, _name(feature, start)) for start in cuts[:-1]]
    return csv_objects(
        pa.array(made, pa.string()), ("timestamp", *published_columns(layout.weighted)), cells, cuts
    )


def qualifier_timeseries(
    resolution: Resolution, qualifier: str, table: pa.Table, layout: Layout
) -> Iterator[Objects]:
    """One file per feature and figure: a line per timestamp, a column per value of the qualifier."""
    feature, value = encode_text(table["feature"]), encode_text(table["value"])
    figures = published(table, layout)
    times = cast(Ints, column(table, "timestamp"))
    for start, end in _runs(feature.codes):
        rows = slice(start, end)
        names, time = np.unique(value.codes[rows]), encode_ints(times[rows])
        position = (time.codes, np.searchsorted(names, value.codes[rows]))
        shape = (len(time.values), len(names))
        header = csv_header(["timestamp", *value.values.take(pa.array(names)).to_pylist()])
        first = pl.Series(time.values.to_numpy())
        bodies = []
        for name, figure in figures.items():
            pivoted = np.full(shape, np.nan)
            pivoted[position] = figure[rows]
            cells = [_pivoted_cells(pivoted[:, i], whole=name == "s_count") for i in range(shape[1])]
            buffer, _ = csv_lines([first, *cells])
            key = keys.qualifier_timeseries(resolution, _name(feature, start), qualifier, name)
            bodies.append((key, header + buffer.tobytes()))
        yield Objects.of(bodies, CSV)


def _pivoted_cells(values: Floats, *, whole: bool) -> pl.Series:
    if not whole:
        return float_cells(values)
    return pl.Series(np.nan_to_num(values).astype(np.int64)).set(pl.Series(np.isnan(values)), None)


def regional_timeseries(
    resolution: Resolution, level: RegionLevel, table: pa.Table, layout: Layout, qualifier: str | None = None
) -> Iterator[Objects]:
    """One file per feature, region [and qualifier value]: a line per timestamp.

    None of regions that the reader cannot be asked for.
    """
    region, time = encode_text(table["region_id"]), encode_ints(cast(Ints, column(table, "timestamp")))
    parts = {"feature": encode_text(table["feature"]), "region": region}
    if qualifier is not None:
        parts["value"] = encode_text(table["value"])
    order = group_by([*parts.values(), time])
    parts = {name: coded.take(order.first) for name, coded in parts.items()}
    rows_in_order = order.first
    cuts = group_by(list(parts.values())).starts
    cuts = np.append(cuts, table.num_rows)
    asked = answerable(region.values)[parts["region"].codes]
    left_out = int(np.count_nonzero(~asked[cuts[:-1]]))
    if left_out:
        sizes = np.diff(cuts)[asked[cuts[:-1]]]
        cuts = np.append(0, np.cumsum(sizes))
        rows_in_order = rows_in_order[asked]
        parts = {name: Coded(coded.codes[asked], coded.values) for name, coded in parts.items()}
    figures = {name: values[rows_in_order] for name, values in published(table, layout).items()}
    stamps = cast(Ints, column(table, "timestamp"))[rows_in_order]
    named = {name: Coded(coded.codes, keys.segments(coded.values)) for name, coded in parts.items()}
    header = ("timestamp", *published_columns(layout.weighted))
    for objects, rows in _batches(cuts):
        first = cuts[objects]
        texts = {name: coded.values.take(pa.array(coded.codes[first[:-1]])) for name, coded in named.items()}
        if qualifier is None:
            made = keys.regional_timeseries(resolution, level, texts["feature"], texts["region"])
        else:
            made = keys.regional_qualifier_timeseries(
                resolution, level, texts["feature"], qualifier, texts["value"], texts["region"]
            )
        cells = [
            pl.Series(stamps[rows]),
            *figure_cells({name: values[rows] for name, values in figures.items()}),
        ]
        yield replace(csv_objects(made, header, cells, first - first[0]), left_out=left_out)
        left_out = 0
    if left_out:
        yield replace(Objects.of([], CSV), left_out=left_out)


# --- regional tables -------------------------------------------------------------------------------


def regional_maps(
    resolution: Resolution, level: RegionLevel, table: pa.Table, layout: Layout, qualifier: str | None = None
) -> Iterator[Objects]:
    """One file per feature and timestamp: a line per region [and qualifier value]."""
    feature, region = encode_text(table["feature"]), encode_text(table["region_id"])
    times = cast(Ints, column(table, "timestamp"))
    value = None if qualifier is None else encode_text(table["value"])
    features: list[str] = feature.values.to_pylist()
    figures = published(table, layout)
    cuts = group_by([feature, encode_ints(times)]).starts
    cuts = np.append(cuts, table.num_rows)
    names = ("id",) if value is None else ("id", "qualifier")
    header = (*names, *published_columns(layout.weighted))
    for objects, rows in _batches(cuts):
        first = cuts[objects]
        named = (region,) if value is None else (region, value)
        texts = [text_cells(Coded(coded.codes[rows], coded.values)) for coded in named]
        cells = [*texts, *figure_cells({name: values[rows] for name, values in figures.items()})]
        made = [
            keys.regional_map(resolution, level, features[code], time, qualifier)
            for code, time in zip(feature.codes[first[:-1]].tolist(), times[first[:-1]].tolist(), strict=True)
        ]
        yield csv_objects(pa.array(made, pa.string()), header, cells, first - first[0])


def regional_extrema(resolution: Resolution, level: RegionLevel, table: pa.Table, layout: Layout) -> Objects:
    """extrema.json of each feature.

    Items equal to the smallest or largest figure, newest first, regions by name, at most 20. A feature
    of which some figure exists nowhere is left out: an empty list stops the reader.
    """
    feature, region = encode_text(table["feature"]), encode_text(table["region_id"])
    times = cast(Ints, column(table, "timestamp"))
    figures = published(table, layout)
    del figures["s_count"]
    bodies: list[tuple[str, bytes]] = []
    left_out = 0
    for start, end in _runs(feature.codes):
        document: dict[str, dict[str, list[dict[str, Any]]]] = {"min": {}, "max": {}}
        for name, values in figures.items():
            here = cast(Floats, values[start:end])
            for side, choose in (("min", np.fmin), ("max", np.fmax)):
                rows = np.flatnonzero(here == choose.reduce(here)) + start
                rows = rows[np.argsort(-times[rows], kind="stable")][:MAX_EXTREMA]
                document[side][name] = [
                    {
                        "region_id": _name(region, row),
                        "timestamp": int(times[row]),
                        "value": float(values[row]),
                    }
                    for row in rows
                ]
        if all(document["min"].values()):
            bodies.append(
                (keys.regional_extrema(resolution, level, _name(feature, start)), json_body(document))
            )
        else:
            left_out += 1
    return replace(Objects.of(bodies, JSON), left_out=left_out)


# --- grid ------------------------------------------------------------------------------------------


def spatial_tiles(resolution: Resolution, table: pa.Table) -> Iterator[Objects]:
    """Tiles of zoom 8 to 0, per feature and timestamp.

    Subtiles none of whose cells has a value are left out: their weight is zero, and the reader divides by it.
    """
    count = cast(Ints, column(table, "s_count"))
    return _merged(_tiles(resolution, table if count.all() else table.filter(pa.array(count > 0))))


def _tiles(resolution: Resolution, table: pa.Table) -> Iterator[Objects]:
    starts = bucket_starts(table)
    feature = encode_text(table["feature"])
    features = keys.segments(feature.values).take(pa.array(feature.codes[starts]))
    times = pa.array(cast(Ints, column(table, "timestamp"))[starts]).cast(pa.string())
    waiting: dict[int, list[Level]] = {precision: [] for precision in PRECISIONS}
    for level in pyramid(table):
        pieces = waiting[level.precision]
        pieces.append(level)
        if sum(map(len, pieces)) >= BATCH_ROWS:
            whole = Level.concat(pieces)
            # The last tile may go on in the next piece.
            last = int(np.flatnonzero(whole.begins <= whole.zoom)[-1])
            yield from _tiles_of(resolution, whole.slice(0, last), features, times)
            waiting[level.precision] = [whole.slice(last, len(whole))]
    for pieces in waiting.values():
        if pieces:
            yield from _tiles_of(resolution, Level.concat(pieces), features, times)


def _tiles_of(resolution: Resolution, level: Level, features: pa.Array, times: pa.Array) -> Iterator[Objects]:
    """Objects of whole tiles; `features` and `times` are those of the buckets."""
    first = np.flatnonzero(level.begins <= level.zoom)
    cuts, bucket, tile = np.append(first, len(level)), level.bucket[first], level.tile[first]
    bins = level.bin
    figures: list[npt.NDArray[Any]] = [level.s_sum_t_sum, level.s_sum_t_mean, level.s_count]
    finite = np.isfinite(level.s_sum_t_sum) & np.isfinite(level.s_sum_t_mean)
    if not finite.all():
        # Sums that overflowed are left out: the reader cannot answer with infinity.
        kept = np.add.reduceat(finite.astype(np.int64), first)
        bins, figures = bins[finite], [values[finite] for values in figures]
        bucket, tile = bucket[kept > 0], tile[kept > 0]
        cuts = np.concatenate(([0], np.cumsum(kept[kept > 0])))
    for tiles, rows in _batches(cuts):
        here = slice(tiles.start, tiles.stop - 1)
        x, y = deinterleave(tile[here])
        names = keys.tiles(
            resolution,
            level.zoom,
            features.take(pa.array(bucket[here])),
            times.take(pa.array(bucket[here])),
            pa.array(x).cast(pa.string()),
            pa.array(y).cast(pa.string()),
        )
        # Adding 0.0 makes a negative zero positive, and a count a float.
        sums = [values[rows] + 0.0 for values in figures]
        yield tile_objects(names, level.zoom, x, y, cuts[tiles] - rows.start, bins[rows], sums)


def grid_stats(resolution: Resolution, table: pa.Table) -> Objects:
    """Grid statistics per feature and timestamp.

    A bucket without any value is left out: an empty cell stops the reader.
    """
    statistics, starts = grid_statistics(table)
    complete = np.isfinite(statistics).all(axis=(1, 2))
    statistics, starts = statistics[complete], starts[complete]
    feature = encode_text(table["feature"])
    times = cast(Ints, column(table, "timestamp"))
    buckets, precisions, _ = statistics.shape
    flat = statistics.reshape(buckets * precisions, len(GRID_STATISTICS))
    cells = [
        pl.Series(np.tile(np.array(PRECISIONS), buckets)),
        *(float_cells(flat[:, i]) for i in range(flat.shape[1])),
    ]
    made = [keys.grid_stats(resolution, _name(feature, row), int(times[row])) for row in starts]
    cuts = np.arange(buckets + 1) * precisions
    objects = csv_objects(pa.array(made, pa.string()), ("zoom", *GRID_STATISTICS), cells, cuts)
    return replace(objects, left_out=int((~complete).sum()))


# --- results ---------------------------------------------------------------------------------------


def results(
    report: Report,
    layout: Layout,
    *,
    features: Sequence[str],
    raw_count_threshold: int,
    timeseries_sizes: Mapping[Resolution, Mapping[str, int]],
    summary: pa.Table | None,
) -> bytes:
    """docs/objects.md#14-resultsjson; `summary` is the global table of the whole period, models only."""
    data_info = {
        "num_rows": report.num_rows,
        "num_rows_per_feature": dict(sorted(report.num_rows_per_feature.items())),
        "num_missing_ts": report.num_missing_ts,
        "num_invalid_ts": report.num_invalid_ts,
        "num_missing_val": report.num_missing_val,
        "region_levels": [*layout.levels, *(["grid data"] if report.has_tiles else [])],
        "features": list(features),
        "raw_count_threshold": raw_count_threshold,
        "has_tiles": report.has_tiles,
        "has_monthly": True,
        "has_annual": True,
        "has_weights": layout.weighted,
        "month_timeseries_size": dict(timeseries_sizes["month"]),
        "year_timeseries_size": dict(timeseries_sizes["year"]),
    }
    document: dict[str, object] = {"data_info": data_info}
    if summary is not None:
        figures = finish(table_measures(summary), summary_columns(layout.weighted))
        names = summary["feature"].to_pylist()
        document["output_agg_values"] = [
            {"name": name, **{key: _rounded(float(values[i])) for key, values in figures.items()}}
            for i, name in enumerate(names)
        ]
    return json_body(document)


def _rounded(value: float) -> float | None:
    # Ten decimals, as the original's data frame library wrote them.
    return round(value, 10) if math.isfinite(value) else None


def timeseries_sizes(table: pa.Table) -> dict[str, int]:
    """Rows of global.csv by feature."""
    counted = table.group_by("feature").aggregate([("timestamp", "count")]).to_pylist()
    return {row["feature"]: row["timestamp_count"] for row in sorted(counted, key=lambda row: row["feature"])}


# --- helpers ---------------------------------------------------------------------------------------


def figure_cells(figures: Measures) -> list[pl.Series]:
    """Figures as CSV cells, a column each."""
    return [
        float_cells(cast(Floats, values)) if values.dtype.kind == "f" else pl.Series(values)
        for values in figures.values()
    ]


def _runs(codes: npt.NDArray[np.integer]) -> list[tuple[int, int]]:
    """Start and end of each run of equal codes."""
    return list(itertools.pairwise(slices(codes).tolist()))


def _name(column: Coded, row: int | np.integer) -> str:
    name: str = column.values[int(column.codes[row])].as_py()
    return name


def _batches(cuts: Offsets) -> Iterator[tuple[slice, slice]]:
    """Cut objects into batches of about `BATCH_ROWS` rows and at most `BATCH_OBJECTS` objects.

    Yields slices of `cuts`, the end included, and of rows.
    """
    first = 0
    while first < len(cuts) - 1:
        last = int(np.searchsorted(cuts, cuts[first] + BATCH_ROWS, side="right")) - 1
        last = min(max(last, first + 1), first + BATCH_OBJECTS)
        yield slice(first, last + 1), slice(int(cuts[first]), int(cuts[last]))
        first = last


def _merged(batches: Iterable[Objects]) -> Iterator[Objects]:
    """The same objects in fewer batches: for each, the publisher has a file to write."""
    waiting: list[Objects] = []
    for objects in batches:
        if waiting and (
            sum(map(len, waiting)) + len(objects) > BATCH_OBJECTS
            or sum(batch.nbytes for batch in waiting) + objects.nbytes > BATCH_BYTES
        ):
            yield Objects.concat(waiting)
            waiting = []
        waiting.append(objects)
    if waiting:
        yield Objects.concat(waiting)

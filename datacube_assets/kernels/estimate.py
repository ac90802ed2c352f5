"""How many objects a datacube will have, and how large they will be, before any of them is made.

Objects are counted exactly, from the tables that they are views of. Bytes are those of a sample of lines, to
a few percent. Which rows make which object is in `views.py`; reading tables is somebody else's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels import views
from datacube_assets.kernels.encode import csv_header, csv_lines, text_cells
from datacube_assets.kernels.groups import Floats, Ints, column, encode_text, group_by, slices
from datacube_assets.kernels.morton import BIN_BITS, MAX_PRECISION, ZOOMS, Quadkeys
from datacube_assets.kernels.pyramid import first_differences
from datacube_assets.kernels.qualifiers import Breakdowns
from datacube_assets.kernels.regions import Regions, answerable
from datacube_assets.kernels.runs import bucket_starts
from datacube_assets.kernels.schema import Layout, RegionLevel, Resolution, published_columns
from datacube_assets.kernels.spatial import published

SAMPLED_ROWS = 2_000
"""Lines that are formatted to learn how long they are."""
SAMPLED_FEATURES = 50
SAMPLED_BUCKETS = 4


@dataclass(frozen=True)
class Estimate:
    """Objects, and about how many bytes they have. Estimates add up."""

    objects: int = 0
    bytes: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.objects + other.objects, self.bytes + other.bytes)


def total(estimates: Iterable[Estimate]) -> Estimate:
    return sum(estimates, Estimate())


# --- rows and lists --------------------------------------------------------------------------------


def raw_data(rows: Mapping[str, int], sample: pa.Table) -> Estimate:
    """raw.csv of features with so many rows; `sample` are some of these (`raw_rows.py`)."""
    if not sample.num_rows:
        return Estimate(len(rows), 0)
    some = some_rows(sample)
    header = len(csv_header([name for name in some.column_names if name != "feature"]))
    made = views.raw_data(some)
    feature = encode_text(some["feature"])
    groups = group_by([feature])
    names: list[str] = feature.take(groups.first).to_arrow().to_pylist()
    # Features differ in how long their lines are; those of which the sample has none are like the others.
    lines = (made.sizes() - header) / groups.sizes
    others = sum(rows.values()) - sum(rows[name] for name in names)
    line = (made.nbytes - header * len(made)) / some.num_rows
    body = np.dot(lines, [rows[name] for name in names]) + others * line
    return Estimate(len(rows), round(header * len(rows) + float(body)))


def region_lists(regions: pa.Table, layout: Layout) -> Estimate:
    """region_lists.json, from the distinct regions of each feature."""
    if not layout.levels or not regions.num_rows:
        return Estimate()
    feature = encode_text(regions["feature"])
    cuts = slices(feature.codes)
    some = _some_runs(regions, cuts)
    made = views.region_lists(some, layout)
    share = _length(some, *layout.levels) / _length(regions, *layout.levels)
    return Estimate(len(cuts) - 1, round(made.nbytes / share))


def qualifier_lists(values: pa.Table, features: Sequence[str], breakdowns: Breakdowns) -> Estimate:
    """Lists of values and their counts."""
    chosen = _evenly(len(features), SAMPLED_FEATURES).tolist()
    counts = views.qualifier_lists(values.slice(0, 0), [features[number] for number in chosen], breakdowns)
    of_counts = Estimate(len(features), round(counts.nbytes * len(features) / max(len(counts), 1)))
    if not values.num_rows:
        return of_counts
    feature, qualifier = encode_text(values["feature"]), encode_text(values["qualifier"])
    cuts = slices(feature.codes * qualifier.radix + qualifier.codes)
    some = _some_runs(values, cuts)
    lists = views.qualifier_lists(some, (), breakdowns)
    share = _length(some, "value") / _length(values, "value")
    return of_counts + Estimate(len(cuts) - 1, round(lists.nbytes / share))


# --- timeseries and regional tables ----------------------------------------------------------------


def global_timeseries(table: pa.Table, layout: Layout) -> Estimate:
    """global.csv of each feature of a table."""
    features = len(slices(encode_text(table["feature"]).codes)) - 1
    header = _header("timestamp", layout=layout)
    return Estimate(features, round(features * header + table.num_rows * _line(table, layout, "timestamp")))


def qualifier_timeseries(table: pa.Table, layout: Layout) -> Estimate:
    """The files by value of a qualifier, one for each figure."""
    if not table.num_rows:
        return Estimate()
    figures = len(published_columns(layout.weighted))
    feature, value = encode_text(table["feature"]), encode_text(table["value"])
    times = cast(Ints, column(table, "timestamp"))
    cells = table.num_rows * (_line(table, layout) - figures)
    files = 0
    around = 0.0
    for start, end in zip((cuts := slices(feature.codes))[:-1], cuts[1:], strict=True):
        names = value.values.take(pa.array(np.unique(value.codes[start:end])))
        stamps = np.unique(times[start:end])
        header = len(csv_header(["timestamp", *names.to_pylist()]))
        around += figures * (
            header + len(stamps) * (len(names) + 1) + sum(map(len, map(str, stamps.tolist())))
        )
        files += figures
    return Estimate(files, round(around + cells))


def regions_of_features(regions: pa.Table, layout: Layout) -> dict[RegionLevel, int]:
    """How many timeseries of regions there are at each level, for one resolution."""
    if not layout.levels:
        return {}
    known = Regions.of(regions, layout.levels)
    feature = encode_text(regions["feature"])
    counts: dict[RegionLevel, int] = {}
    for level in layout.levels:
        ids = known.level(level).take(known.tuples.codes)
        first = group_by([feature, ids]).first
        counts[level] = int(np.count_nonzero(answerable(ids.values)[ids.codes[first]]))
    return counts


def regions_of_values(table: pa.Table, features: frozenset[str]) -> int:
    """How many timeseries by qualifier value a table of regions by year or month makes."""
    feature, region, value = (encode_text(table[name]) for name in ("feature", "region_id", "value"))
    first = group_by([feature, region, value]).first
    mapped = np.array([name in features for name in feature.values.to_pylist()], np.bool_)
    kept = answerable(region.values)[region.codes[first]] & mapped[feature.codes[first]]
    return int(np.count_nonzero(kept))


def regional_timeseries(objects: int, rows: int, sample: pa.Table, layout: Layout) -> Estimate:
    """Timeseries of regions [and qualifier values]: so many, of so many lines altogether."""
    if sample.num_rows:
        region = encode_text(sample["region_id"])
        askable = answerable(region.values)
        if not askable.all():
            # Regions that the reader cannot be asked for have lines in the table, and no timeseries.
            kept = askable[region.codes]
            rows, sample = round(rows * float(kept.mean())), sample.filter(pa.array(kept))
    header = _header("timestamp", layout=layout)
    return Estimate(objects, round(objects * header + rows * _line(sample, layout, "timestamp")))


def regional_maps(objects: int, rows: int, sample: pa.Table, layout: Layout) -> Estimate:
    """Tables of regions [by qualifier value]: so many, of so many lines altogether."""
    texts = ("region_id", "value") if "value" in sample.column_names else ("region_id",)
    names = ("id", "qualifier")[: len(texts)]
    header = _header(*names, layout=layout)
    return Estimate(objects, round(objects * header + rows * _line(sample, layout, *texts)))


def regional_extrema(
    resolution: Resolution, level: RegionLevel, table: pa.Table, features: int, layout: Layout
) -> Estimate:
    """extrema.json of features, of which so many have all figures; `table` has all rows of some of them."""
    some = _some_runs(table, slices(encode_text(table["feature"]).codes))
    made = views.regional_extrema(resolution, level, some, layout)
    return Estimate(features, round(made.nbytes * features / max(len(made), 1)))


def complete_features(table: pa.Table, layout: Layout) -> frozenset[str]:
    """Features of a table of which every figure exists somewhere."""
    feature = encode_text(table["feature"])
    cuts = slices(feature.codes)
    if len(cuts) < 2:
        return frozenset()
    there = np.ones(len(cuts) - 1, np.bool_)
    for name, values in published(table, layout).items():
        if name != "s_count":
            there &= np.logical_or.reduceat(np.isfinite(cast(Floats, values)), cuts[:-1])
    names = feature.values.take(pa.array(feature.codes[cuts[:-1][there]]))
    return frozenset(names.to_pylist())


# --- grid ------------------------------------------------------------------------------------------


def spatial_tiles(table: pa.Table) -> Estimate:
    """Tiles of a table of grid cells, of whole features and times."""
    count = cast(Ints, column(table, "s_count"))
    sums = [cast(Floats, column(table, name)) for name in ("s_sum_t_sum", "s_sum_t_mean")]
    kept = (count > 0) & np.isfinite(sums[0]) & np.isfinite(sums[1])
    subtiles = _subtiles(table, kept)
    tiles, bins = subtiles[: len(ZOOMS)], subtiles[BIN_BITS:]
    # A sum of zero is not written; where it is not zero, some cell of it is not.
    written = sum(int(_subtiles(table, kept & (values != 0))[BIN_BITS:].sum()) for values in sums)
    zooms = np.arange(len(tiles))
    coordinates = np.where(zooms == 0, 0, np.where(zooms == len(tiles) - 1, 7, 6))
    body = _BIN_BYTES * bins.sum() + _FIGURE_BYTES * (bins.sum() + written)
    lengths = tiles * np.where(bins * 34 < 128 * tiles, 1, np.where(bins * 34 < 16_384 * tiles, 2, 3))
    around = (tiles * (_TILE_BYTES + coordinates)).sum() + lengths.sum()
    return Estimate(int(tiles.sum()), int(body + around))


_BIN_BYTES, _FIGURE_BYTES, _TILE_BYTES = 7, 9, 6
"""Of the wire format: what goes around a bin's figures, a figure, and what goes around bins and place."""


def _subtiles(table: pa.Table, kept: npt.NDArray[np.bool_]) -> Ints:
    """How many subtiles the kept cells are in, by precision from 0 on, each bucket counted for itself."""
    if not kept.all():
        table = table.filter(pa.array(kept))
    begins = first_differences(cast(Quadkeys, column(table, "quadkey")), bucket_starts(table))
    return np.cumsum(np.bincount(begins, minlength=MAX_PRECISION + 1)).astype(np.int64)


def grid_stats(resolution: Resolution, table: pa.Table) -> Estimate:
    """Grid statistics of a table of grid cells, of whole features and times."""
    if not table.num_rows:
        return Estimate()
    known = cast(Ints, column(table, "s_count")) > 0
    for name in ("s_sum_t_sum", "s_sum_t_mean"):
        known &= np.isfinite(cast(Floats, column(table, name)))
    starts = bucket_starts(table)
    complete = int(np.count_nonzero(np.logical_or.reduceat(known, starts)))
    some = _some_runs(table, np.append(starts, table.num_rows), SAMPLED_BUCKETS)
    made = views.grid_stats(resolution, some)
    return Estimate(complete, round(made.nbytes * complete / max(len(made), 1)))


# --- samples ---------------------------------------------------------------------------------------


def _header(*names: str, layout: Layout) -> int:
    return len(csv_header([*names, *published_columns(layout.weighted)]))


def _line(table: pa.Table, layout: Layout, *names: str) -> float:
    """Mean length of the lines of a table, with these columns before the figures."""
    some = some_rows(table)
    if not some.num_rows:
        return 0.0
    cells = [
        pl.Series(column(some, name)) if name == "timestamp" else text_cells(encode_text(some[name]))
        for name in names
    ]
    buffer, _ = csv_lines([*cells, *views.figure_cells(published(some, layout))])
    return float(len(buffer) / some.num_rows)


def some_rows(table: pa.Table) -> pa.Table:
    """Rows that stand for all, spread evenly."""
    if table.num_rows <= SAMPLED_ROWS:
        return table
    return table.take(pa.array(_evenly(table.num_rows, SAMPLED_ROWS)))


def _some_runs(table: pa.Table, cuts: npt.NDArray[np.integer], most: int = SAMPLED_FEATURES) -> pa.Table:
    """Some of the runs of rows between cuts."""
    chosen = _evenly(len(cuts) - 1, most)
    parts = [table.slice(int(cuts[run]), int(cuts[run + 1] - cuts[run])) for run in chosen]
    return pa.concat_tables(parts) if parts else table


def _length(table: pa.Table, *names: str) -> int:
    """Bytes of the texts of a table's columns as items of JSON, as far as none of them needs an escape.

    Lists differ in how long their texts are: rows alone do not tell how large they will be.
    """
    length: int = _AROUND_ITEM * table.num_rows
    for name in names:
        texts = encode_text(table[name])
        length += int(pc.binary_length(texts.values).to_numpy(zero_copy_only=False)[texts.codes].sum())
    return length


_AROUND_ITEM = len('"", ')


def _evenly(count: int, most: int) -> Ints:
    """Some of so many, spread evenly; all if there are no more than `most`."""
    if count <= most:
        return np.arange(count)
    return (np.arange(most) * count) // most

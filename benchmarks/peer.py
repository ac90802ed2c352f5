"""The peer: a script that somebody would write by hand for the benchmark's inputs, and nothing else.

Polars, NumPy, Arrow and two threads; no Dagster, no lake, no manifests, no checks, nothing that could be
repeated or taken back. It publishes every object that `datacube publish` publishes for such an input, and
`datacube compare` finds both the same. It takes for granted what the project has to find out: one part of few
rows with all columns of the right type, no weights, whole degrees of longitude, names that make no trouble as
keys, sums that do not overflow. It shares no code with the project.

    python -m benchmarks.peer PART --bucket FOLDER --model-id ID --run-id ID --qualifier-map JSON
"""

import argparse
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Array: TypeAlias = npt.NDArray[Any]
Texts: TypeAlias = list[str]

THREADS: Final = 2
LEVELS: Final = ("country", "admin1", "admin2", "admin3")
_NO_QUALIFIERS: Final = {
    "timestamp", "feature", "value", "lat", "lng", "__index_level_0__", *LEVELS
}  # fmt: skip
FIGURES: Final = ("s_sum_t_sum", "s_mean_t_sum", "s_sum_t_mean", "s_mean_t_mean", "s_count")
_MAX_COUNT, _REGIONAL_COUNT, _REGIONAL_LEVEL, _RAW_ROWS = 10_000, 100, 1, 10_000
_RESOLUTIONS: Final = (("month", "M"), ("year", "Y"))
_DEEPEST, _BIN_BITS = 14, 6
_NEWEST: Final = 20


@dataclass(frozen=True)
class Coded:
    """A column as codes into its sorted values."""

    codes: Ints
    values: Array

    @property
    def size(self) -> int:
        return max(len(self.values), 1)


@dataclass(frozen=True)
class Cells:
    """Sums of one period: of each feature, time, place and combination of qualifiers."""

    time: Ints
    """ms UTC of each bucket."""
    feature: Ints
    bucket: Ints
    place: Ints
    qualifiers: dict[str, Ints]
    total: Floats
    present: Ints

    @property
    def mean(self) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.where(self.present > 0, self.total / self.present, 0.0)


@dataclass(frozen=True)
class Sums:
    """Sums of cells per key; a key is mixed of feature, bucket, region and qualifier value."""

    key: Ints
    cells: Floats
    count: Floats
    total: Floats
    mean: Floats

    def to(self, key: Ints, size: int) -> "Sums":
        """Added up to coarser keys."""
        return Sums(*_grouped(key, size, (self.cells, self.count, self.total, self.mean)))

    def figures(self) -> list[pl.Series]:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.mean / self.count
        made = (self.total, self.total / self.cells, self.mean, means, self.count.astype(np.int64))
        return [
            pl.Series(name, values).fill_nan(None) if values.dtype.kind == "f" else pl.Series(name, values)
            for name, values in zip(FIGURES, made, strict=True)
        ]


def _grouped(key: Ints, size: int, columns: Sequence[Array]) -> tuple[Array, ...]:
    """The keys that occur, ascending, and the sum of each column per key."""
    if size <= 4 * len(key) + 65_536:
        counted = np.bincount(key, minlength=size)
        there = np.flatnonzero(counted)
        return there, *(np.bincount(key, column, size)[there] for column in columns)
    order, starts = _sorted(key, size)
    sums = (np.add.reduceat(column[order], starts) for column in columns)
    return key[order[starts]], *sums


def _sorted(key: Ints, size: int) -> tuple[Ints, Ints]:
    """Rows in order of their keys, and where each key begins."""
    bits = max(len(key) - 1, 1).bit_length()
    if bits + size.bit_length() <= 63:
        packed = key << bits | np.arange(len(key))
        packed.sort()
        order, key = packed & (1 << bits) - 1, packed >> bits
    else:
        order = np.argsort(key, kind="stable")
        key = key[order]
    return order, np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))


# --- reading -----------------------------------------------------------------------------------------


def _read(parts: Sequence[Path]) -> pa.Table:
    tables = []
    for part in parts:
        schema = pq.read_schema(part)
        names = [name for name in schema.names if name != "__index_level_0__"]
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        with pq.ParquetFile(part, read_dictionary=texts) as file:
            tables.append(file.read(names))
    return pa.concat_tables(tables, promote_options="permissive")


def _names(column: pa.ChunkedArray) -> Coded:
    """A text column, cleaned: what is missing reads `None`, and `//` vanishes."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    cleaned = [text.replace("//", "") for text in encoded.dictionary.to_pylist()] + ["None"]
    distinct, number = np.unique(np.array(cleaned, object), return_inverse=True)
    missing = len(cleaned) - 1
    codes = number[pc.fill_null(encoded.indices, missing).to_numpy()]
    if not encoded.null_count:
        used = np.unique(codes)
        distinct, codes = distinct[used], np.searchsorted(used, codes) if len(used) < len(distinct) else codes
    return Coded(codes.astype(np.int64), distinct)


def _numbers(column: pa.ChunkedArray) -> Coded:
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_numpy()
    order = np.argsort(values)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return Coded(rank[encoded.indices.to_numpy()], values[order])


def _tuples(columns: Sequence[Coded]) -> tuple[Ints, list[Ints]]:
    """The number of each row's combination, and the codes of each combination."""
    codes, members, size = columns[0].codes, [np.arange(columns[0].size)], columns[0].size
    for column in columns[1:]:
        key = codes * column.size + column.codes
        if size * column.size <= 8 * len(key) + 65_536:
            there = np.zeros(size * column.size, np.bool_)
            there[key] = True
            distinct = np.flatnonzero(there)
            codes = (np.cumsum(there) - 1)[key]
        else:
            distinct, codes = np.unique(key, return_inverse=True)
        members = [member[distinct // column.size] for member in members]
        members.append(distinct % column.size)
        size = len(distinct)
    return codes, members


@dataclass(frozen=True)
class Input:
    """The rows, coded."""

    table: pa.Table
    feature: Coded
    months: Ints
    """Months since 1970 that occur, ascending."""
    bucket: Ints
    """Of each row, its month among these."""
    values: Floats
    place: Ints
    leaf: Ints
    """The deepest region of each place."""
    leaves: list[Ints]
    levels: list[Coded]
    """The names of each level; codes are of no use."""
    lat: Floats
    """Of each place."""
    lng: Floats
    qualifiers: dict[str, Coded]

    @classmethod
    def of(cls, table: pa.Table, pool: ThreadPoolExecutor) -> "Input":
        there = [name for name in table.column_names if table[name].null_count < table.num_rows]
        levels = [name for name in LEVELS if name in there]
        others = [name for name in there if name not in _NO_QUALIFIERS]
        coded = {name: pool.submit(_names, table[name]) for name in ("feature", *levels, *others)}
        degrees = [pool.submit(_numbers, table[name]) for name in ("lat", "lng")]
        time = pool.submit(_months, table["timestamp"])
        of_levels = [coded[name].result() for name in levels]
        leaf, leaves = _tuples(of_levels)
        leaf_number = Coded(leaf, np.arange(len(leaves[0])))
        lat, lng = (found.result() for found in degrees)
        place, (leaf_of, lat_of, lng_of) = _tuples([leaf_number, lat, lng])
        months, bucket = time.result()
        return cls(
            table,
            coded["feature"].result(),
            months,
            bucket,
            table["value"].to_numpy(),
            place,
            leaf_of,
            leaves,
            of_levels,
            lat.values[lat_of],
            lng.values[lng_of],
            {name: coded[name].result() for name in others},
        )

    def ids(self, depth: int) -> Coded:
        """The id of each leaf at a level, as codes into the sorted ids."""
        names = [
            level.values[codes] for level, codes in zip(self.levels[: depth + 1], self.leaves, strict=False)
        ]
        joined = np.array(["__".join(parts) for parts in zip(*names, strict=True)], object)
        values, codes = np.unique(joined, return_inverse=True)
        return Coded(codes, values)


def _months(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    stamps = column.to_numpy()
    months = stamps.view("M8[ms]").astype("M8[D]").astype("M8[M]").astype(np.int64)
    first = int(months.min())
    there = np.zeros(int(months.max()) - first + 1, np.bool_)
    there[months - first] = True
    return np.flatnonzero(there) + first, (np.cumsum(there) - 1)[months - first]


# --- sums --------------------------------------------------------------------------------------------


def _cells_of_rows(rows: Input) -> Cells:
    values, present = rows.values, ~np.isnan(rows.values)
    time = rows.months.view("M8[M]").astype("M8[ms]").astype(np.int64)
    qualifiers = {name: coded.codes for name, coded in rows.qualifiers.items()}
    cells = Cells(
        time, rows.feature.codes, rows.bucket, rows.place, qualifiers, np.where(present, values, 0.0), present
    )
    return _regrouped(rows, cells, time, rows.bucket)


def _coarser(rows: Input, cells: Cells, unit: str) -> Cells:
    """The same of whole years, or of all time (no unit)."""
    if not unit:
        return _regrouped(rows, cells, np.zeros(1, np.int64), np.zeros(len(cells.bucket), np.int64))
    years, number = np.unique(cells.time.view("M8[ms]").astype(f"M8[{unit}]"), return_inverse=True)
    return _regrouped(rows, cells, years.astype("M8[ms]").astype(np.int64), number[cells.bucket])


def _regrouped(rows: Input, cells: Cells, time: Ints, bucket: Ints) -> Cells:
    parts = [(bucket, len(time)), (cells.place, len(rows.leaf))]
    parts += [(cells.qualifiers[name], coded.size) for name, coded in rows.qualifiers.items()]
    key, size = cells.feature, rows.feature.size
    for codes, radix in parts:
        key, size = key * radix + codes, size * radix
    order, starts = _sorted(key, size)
    first = order[starts]
    return Cells(
        time,
        cells.feature[first],
        bucket[first],
        cells.place[first],
        {name: codes[first] for name, codes in cells.qualifiers.items()},
        np.add.reduceat(cells.total[order], starts),
        np.add.reduceat(cells.present[order], starts, dtype=np.int64),
    )


# --- writing -----------------------------------------------------------------------------------------


class Bucket:
    """Writes files below a folder; each folder is made once."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._made: set[str] = set()
        self._counts: list[int] = []

    @property
    def objects(self) -> int:
        return sum(self._counts)

    def folder(self, name: str) -> str:
        path = f"{self.root}/{name}" if name else self.root
        if path not in self._made:
            os.makedirs(path, exist_ok=True)
            self._made.add(path)
        return path

    def put(self, folder: str, files: Iterable[tuple[str, Sequence[bytes | memoryview]]]) -> None:
        """Write files of some pieces each."""
        made = self.folder(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        count = 0
        for name, pieces in files:
            try:
                file = os.open(f"{made}/{name}", flags, 0o644)
            except FileNotFoundError:  # a name with a slash
                os.makedirs(os.path.dirname(f"{made}/{name}"), exist_ok=True)
                file = os.open(f"{made}/{name}", flags, 0o644)
            os.writev(file, pieces)
            os.close(file)
            count += 1
        self._counts.append(count)


def _quoted(texts: Array) -> pl.Series:
    """Names as CSV cells."""
    special = ',"\n\r'
    return pl.Series(
        [f'"{t.replace(chr(34), chr(34) * 2)}"' if any(c in t for c in special) else t for t in texts],
        dtype=pl.String,
    )


def _lines(columns: Sequence[pl.Series]) -> tuple[memoryview, Ints]:
    """CSV lines, and where each begins."""
    sink = io.BytesIO()
    frame = pl.DataFrame([column.alias(str(i)) for i, column in enumerate(columns)])
    frame.write_csv(sink, include_header=False, quote_style="never")
    buffer = sink.getbuffer()
    ends = np.flatnonzero(np.frombuffer(buffer, np.uint8) == ord("\n")) + 1
    return buffer, np.concatenate(([0], ends))


def _header(*names: str) -> bytes:
    return ",".join((*names, *FIGURES)).encode() + b"\n"


def _starts(key: Ints) -> Ints:
    """Where each run of equal keys begins, and the end."""
    return np.concatenate(([0], np.flatnonzero(key[1:] != key[:-1]) + 1, [len(key)]))


def _json(document: object) -> list[bytes]:
    return [json.dumps(document).encode()]


@dataclass(frozen=True)
class Script:
    """Everything that is published from the rows."""

    rows: Input
    bucket: Bucket
    mapped: Mapping[str, Sequence[str]]
    pool: ThreadPoolExecutor
    is_dataset: bool

    @property
    def features(self) -> Texts:
        found: Texts = self.rows.feature.values.tolist()
        return found

    def run(self) -> None:
        rows = self.rows
        counts = self._lists()
        todo: list[Future[Any]] = [self.pool.submit(self._raw_rows)]
        months = _cells_of_rows(rows)
        ids = [rows.ids(depth) for depth in range(len(rows.levels))]
        years = self.pool.submit(_coarser, rows, months, "Y")
        sizes: dict[str, dict[str, int]] = {}
        for resolution, _ in _RESOLUTIONS:
            cells = months if resolution == "month" else years.result()
            todo += [self.pool.submit(self._grid, resolution, cells)]
            breakdowns = {
                name: {f for f in self.features if name in self.mapped.get(f, ()) and n[f] <= _MAX_COUNT}
                for name, n in counts.items()
            }
            todo += [
                self.pool.submit(self._regional, resolution, cells, ids, name, counts)
                for name in [*(name for name, features in breakdowns.items() if features), ""]
            ]
            key = cells.feature * len(cells.time) + cells.bucket
            there = np.unique(key) // len(cells.time)
            of = np.bincount(there, minlength=rows.feature.size)
            sizes[resolution] = dict(zip(self.features, of.tolist(), strict=True))
        summary = None if self.is_dataset else self._summary(_coarser(rows, years.result(), ""))
        for one in todo:
            one.result()
        self._results(sizes, summary)

    # --- rows and lists --------------------------------------------------------------------------

    def _raw_rows(self) -> None:
        rows = self.rows
        order, starts = _sorted(rows.feature.codes, rows.feature.size)
        sizes = np.diff(np.append(starts, len(order)))
        if (sizes > _RAW_ROWS).all():
            return
        frame = cast(pl.DataFrame, pl.from_arrow(rows.table.drop_columns(["feature"])))
        texts = [name for name, type_ in frame.schema.items() if type_ == pl.Categorical]
        frame = frame.with_columns(pl.col(texts).cast(pl.String)) if texts else frame
        for feature, start, size in zip(self.features, starts, sizes, strict=True):
            if size <= _RAW_ROWS:
                sink = io.BytesIO()
                frame[order[start : start + size]].fill_nan(None).write_csv(sink)
                self.bucket.put(f"raw/{feature}/raw", [("raw.csv", [sink.getbuffer()])])

    def _lists(self) -> dict[str, dict[str, int]]:
        """Lists of regions and values; returns the number of values by qualifier and feature."""
        rows, place_count = self.rows, len(self.rows.leaf)
        key = np.zeros(rows.feature.size * place_count, np.bool_)
        key[rows.feature.codes * place_count + rows.place] = True
        ids = [rows.ids(depth) for depth in range(len(rows.levels))]
        for number, feature in enumerate(self.features):
            leaf = np.unique(rows.leaf[key[number * place_count : (number + 1) * place_count]])
            lists: dict[str, Texts] = {level: [] for level in LEVELS}
            for level, coded in zip(LEVELS, ids, strict=False):
                lists[level] = coded.values[np.unique(coded.codes[leaf])].tolist()
            self.bucket.put(f"raw/{feature}/info", [("region_lists.json", _json(lists))])
        counts: dict[str, dict[str, int]] = {}
        for name, coded in sorted(rows.qualifiers.items()):
            there = np.zeros(rows.feature.size * coded.size, np.bool_)
            there[rows.feature.codes * coded.size + coded.codes] = True
            for feature, mask in zip(self.features, there.reshape(-1, coded.size), strict=True):
                values = coded.values[mask].tolist()
                counts.setdefault(name, {})[feature] = len(values)
                self.bucket.put(f"raw/{feature}/info/qualifiers", [(f"{name}.json", _json(values))])
        limits = {
            "max_count": _MAX_COUNT,
            "regional_timeseries_count": _REGIONAL_COUNT,
            "regional_timeseries_max_level": _REGIONAL_LEVEL,
        }
        for feature in self.features:
            document = {"thresholds": limits, "counts": {name: n[feature] for name, n in counts.items()}}
            self.bucket.put(f"raw/{feature}/info", [("qualifier_counts.json", _json(document))])
        return counts

    # --- regions and timeseries ------------------------------------------------------------------

    def _regional(
        self,
        resolution: str,
        cells: Cells,
        ids: Sequence[Coded],
        qualifier: str,
        counts: Mapping[str, Mapping[str, int]],
    ) -> None:
        """All tables and timeseries, as a whole or by one qualifier."""
        rows, times = self.rows, len(cells.time)
        leaves = len(rows.leaves[0])
        value = rows.qualifiers[qualifier] if qualifier else Coded(np.zeros(0, np.int64), np.array([""]))
        key = (cells.feature * times + cells.bucket) * leaves + rows.leaf[cells.place]
        columns = [np.ones(len(key)), (cells.present > 0).astype(np.float64), cells.total, cells.mean]
        if qualifier:
            mapped = np.array([qualifier in self.mapped.get(feature, ()) for feature in self.features])
            key = key * value.size + cells.qualifiers[qualifier]
            if not mapped.all():
                kept = mapped[cells.feature]
                key, columns = key[kept], [column[kept] for column in columns]
        size = rows.feature.size * times * leaves * value.size
        sums = Sums(*_grouped(key, size, columns))
        rest, at = np.divmod(sums.key, value.size)
        bucket, leaf = np.divmod(rest, leaves)
        for depth in range(len(ids) - 1, -1, -1):
            regions = ids[depth]
            level = (bucket * regions.size + regions.codes[leaf]) * value.size + at
            level_sums = sums.to(level, rows.feature.size * times * regions.size * value.size)
            rest, at_value = np.divmod(level_sums.key, value.size)
            of_bucket, region = np.divmod(rest, regions.size)
            folder = [f"{resolution}/{feature}/regional/{LEVELS[depth]}" for feature in self.features]
            figures = level_sums.figures()
            self._maps(folder, cells, of_bucket, regions, region, qualifier, value, at_value, figures)
            few = [
                not qualifier or counts[qualifier][feature] <= _REGIONAL_COUNT for feature in self.features
            ]
            if not qualifier or (depth <= _REGIONAL_LEVEL and any(few)):
                self._timeseries(
                    folder, cells, of_bucket, regions, region, qualifier, value, at_value, figures, few
                )
            if not qualifier:
                self._extrema(folder, cells, of_bucket, regions, region, figures)
        whole = sums.to(bucket * value.size + at, rows.feature.size * times * value.size)
        self._global(resolution, cells, whole, qualifier, value)

    def _maps(
        self,
        folders: Texts,
        cells: Cells,
        bucket: Ints,
        regions: Coded,
        region: Ints,
        qualifier: str,
        value: Coded,
        at: Ints,
        figures: Sequence[pl.Series],
    ) -> None:
        columns = [_quoted(regions.values).gather(pl.Series(region))]
        if qualifier:
            columns.append(_quoted(value.values).gather(pl.Series(at)))
        buffer, lines = _lines([*columns, *figures])
        header = _header("id", "qualifier") if qualifier else _header("id")
        cuts = _starts(bucket)
        ends = lines[cuts].tolist()
        feature, time = np.divmod(bucket[cuts[:-1]], len(cells.time))
        for number, stamp, (start, end) in zip(
            feature.tolist(), cells.time[time].tolist(), pairwise(ends), strict=True
        ):
            last = "qualifiers" if qualifier else "default"
            name = f"{qualifier}.csv" if qualifier else "default.csv"
            self.bucket.put(f"{folders[number]}/aggs/{stamp}/{last}", [(name, (header, buffer[start:end]))])

    def _timeseries(
        self,
        folders: Texts,
        cells: Cells,
        bucket: Ints,
        regions: Coded,
        region: Ints,
        qualifier: str,
        value: Coded,
        at: Ints,
        figures: Sequence[pl.Series],
        few: Sequence[bool],
    ) -> None:
        times = len(cells.time)
        feature, time = np.divmod(bucket, times)
        file = (feature * value.size + at) * regions.size + region
        order, _ = _sorted(file * times + time, self.rows.feature.size * value.size * regions.size * times)
        if not all(few):
            order = order[np.array(few)[feature[order]]]
        rows = pl.Series(order)
        stamps = pl.Series(cells.time[time[order]])
        buffer, lines = _lines([stamps, *(figure.gather(rows) for figure in figures)])
        file = file[order]
        cuts = _starts(file)
        ends = lines[cuts].tolist()
        header = _header("timestamp")
        folder, name = np.divmod(file[cuts[:-1]], regions.size)
        names = regions.values[name].tolist()
        folder_cuts = _starts(folder).tolist()
        for start, end in pairwise(folder_cuts):
            number, chosen = divmod(int(folder[start]), value.size)
            last = f"qualifiers/{qualifier}/{value.values[chosen]}" if qualifier else "default"
            self.bucket.put(
                f"{folders[number]}/timeseries/{last}",
                [(f"{names[i]}.csv", (header, buffer[ends[i] : ends[i + 1]])) for i in range(start, end)],
            )

    def _extrema(
        self,
        folders: Texts,
        cells: Cells,
        bucket: Ints,
        regions: Coded,
        region: Ints,
        figures: Sequence[pl.Series],
    ) -> None:
        feature, time = np.divmod(bucket, len(cells.time))
        for number, folder in enumerate(folders):
            start, end = np.searchsorted(feature, [number, number + 1])
            document: dict[str, dict[str, list[dict[str, Any]]]] = {"min": {}, "max": {}}
            for figure in figures[:-1]:
                here = figure[int(start) : int(end)].to_numpy()
                for side, extreme in (("min", np.fmin), ("max", np.fmax)):
                    found = np.flatnonzero(here == extreme.reduce(here)) + start
                    found = found[np.argsort(-cells.time[time[found]], kind="stable")][:_NEWEST]
                    document[side][figure.name] = [
                        {
                            "region_id": regions.values[region[row]],
                            "timestamp": int(cells.time[time[row]]),
                            "value": float(figure[int(row)]),
                        }
                        for row in found
                    ]
            if all(document["min"].values()):
                self.bucket.put(f"{folder}/stats/default", [("extrema.json", _json(document))])

    def _global(self, resolution: str, cells: Cells, sums: Sums, qualifier: str, value: Coded) -> None:
        bucket, at = np.divmod(sums.key, value.size)
        feature, time = np.divmod(bucket, len(cells.time))
        figures = sums.figures()
        cuts = _starts(feature)
        if not qualifier:
            buffer, lines = _lines([pl.Series(cells.time[time]), *figures])
            for start, end in pairwise(cuts.tolist()):
                folder = f"{resolution}/{self.features[feature[start]]}/timeseries/global"
                body = buffer[lines[start] : lines[end]]
                self.bucket.put(folder, [("global.csv", (_header("timestamp"), body))])
            return
        for start, end in pairwise(cuts.tolist()):
            names, column = np.unique(at[start:end], return_inverse=True)
            times, line = np.unique(time[start:end], return_inverse=True)
            header = ",".join(["timestamp", *_quoted(value.values[names]).to_list()]).encode() + b"\n"
            folder = f"{resolution}/{self.features[feature[start]]}/timeseries/qualifiers/{qualifier}"
            for figure in figures:
                pivoted = np.full((len(names), len(times)), np.nan)
                pivoted[column, line] = figure[start:end].cast(pl.Float64).fill_null(np.nan).to_numpy()
                whole = figure.dtype == pl.Int64
                made = [
                    one.cast(pl.Int64) if whole else one
                    for one in (pl.Series(values).fill_nan(None) for values in pivoted)
                ]
                buffer, _ = _lines([pl.Series(cells.time[times]), *made])
                self.bucket.put(folder, [(f"{figure.name}.csv", (header, buffer))])

    # --- the map ---------------------------------------------------------------------------------

    def _grid(self, resolution: str, cells: Cells) -> None:
        """Tiles and statistics of every zoom."""
        rows, times = self.rows, len(cells.time)
        on = np.abs(rows.lat) < 85.0511287798066
        x = ((rows.lng + 180) / 360 * 2**_DEEPEST).astype(np.int64)
        with np.errstate(invalid="ignore"):
            turned = np.arcsinh(np.tan(np.radians(np.where(on, rows.lat, 0.0))))
        y = ((1 - turned / np.pi) / 2 * 2**_DEEPEST).astype(np.int64)
        code = np.zeros(len(x), np.int64)
        for bit in range(_DEEPEST):
            code |= (x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1
        bucket = cells.feature * times + cells.bucket
        subtile = code[cells.place]
        key = bucket << 2 * _DEEPEST | subtile
        present = (cells.present > 0).astype(np.float64)
        columns = [present, cells.total, cells.mean]
        if not on.all():
            kept = on[cells.place]
            key, columns = key[kept], [column[kept] for column in columns]
        order, starts = _sorted(key, rows.feature.size * times << 2 * _DEEPEST)
        key = key[order[starts]]
        columns = [np.add.reduceat(column[order], starts) for column in columns]
        buckets = _starts(key >> 2 * _DEEPEST)
        statistics = np.empty((len(buckets) - 1, _DEEPEST - _BIN_BITS + 1, 8))
        of = key[buckets[:-1]] >> 2 * _DEEPEST
        feature, time = np.divmod(of, times)
        stamps = cells.time[time].tolist()
        writing: list[Future[None]] = []
        for precision in range(_DEEPEST, _BIN_BITS - 1, -1):
            if precision < _DEEPEST:
                parent = key >> 2
                firsts = _starts(parent)[:-1]
                key = parent[firsts]
                columns = [np.add.reduceat(column, firsts) for column in columns]
            count, total, mean = columns
            begins = _starts(key >> 2 * precision)[:-1]
            with np.errstate(invalid="ignore", divide="ignore"):
                figures = (total, mean, total / count, mean / count)
            for number, values in enumerate(figures):
                known = np.where(np.isfinite(values), values, np.nan)
                statistics[:, precision - _BIN_BITS, 2 * number] = np.fmin.reduceat(known, begins)
                statistics[:, precision - _BIN_BITS, 2 * number + 1] = np.fmax.reduceat(known, begins)
            self._tiles(resolution, precision, key, columns, feature, stamps, of)
        for one in writing:
            one.result()
        flat = statistics.reshape(-1, 8)
        zoom = pl.Series(np.tile(np.arange(_BIN_BITS, _DEEPEST + 1), len(statistics)))
        buffer, lines = _lines([zoom, *(pl.Series(flat[:, i]) for i in range(8))])
        ends = lines[:: _DEEPEST - _BIN_BITS + 1].tolist()
        names = [f"{extreme}_{figure}" for figure in FIGURES_OF_GRID for extreme in ("min", "max")]
        header = ",".join(("zoom", *names)).encode() + b"\n"
        finite = np.isfinite(statistics).all(axis=(1, 2))
        for number, name in enumerate(self.features):
            chosen = np.flatnonzero((feature == number) & finite).tolist()
            self.bucket.put(
                f"{resolution}/{name}/stats/grid",
                [(f"{stamps[i]}.csv", (header, buffer[ends[i] : ends[i + 1]])) for i in chosen],
            )

    def _tiles(
        self,
        resolution: str,
        precision: int,
        key: Ints,
        columns: Sequence[Floats],
        feature: Ints,
        stamps: Sequence[int],
        of: Ints,
    ) -> None:
        count, total, mean = columns
        if not count.all():
            kept = count > 0
            key, count, total, mean = key[kept], count[kept], total[kept], mean[kept]
        zoom = precision - _BIN_BITS
        cuts = _starts(key >> 2 * _BIN_BITS)
        tile = key[cuts[:-1]] >> 2 * _BIN_BITS
        x, y = _pair(tile & (1 << 2 * zoom) - 1, zoom)
        bin_x, bin_y = _pair(key & (1 << 2 * _BIN_BITS) - 1, _BIN_BITS)
        buffer, offsets = encode_tiles(zoom, x, y, cuts, bin_y << _BIN_BITS | bin_x, (total, mean, count))
        bucket = np.searchsorted(of, tile >> 2 * zoom)
        view, ends = buffer.data, offsets.tolist()
        names = [
            f"{stamps[b]}-{zoom}-{i}-{j}.tile"
            for b, i, j in zip(bucket.tolist(), x.tolist(), y.tolist(), strict=True)
        ]
        for start, end in pairwise(_starts(feature[bucket]).tolist()):
            self.bucket.put(
                f"{resolution}/{self.features[feature[bucket[start]]]}/tiles",
                ((names[i], (view[ends[i] : ends[i + 1]],)) for i in range(start, end)),
            )

    # --- results ---------------------------------------------------------------------------------

    def _summary(self, cells: Cells) -> list[dict[str, Any]]:
        found = []
        starts = _starts(cells.feature)
        mean = np.where(cells.present > 0, cells.mean, np.nan)
        for name, (start, end) in zip(self.features, pairwise(starts.tolist()), strict=True):
            one: dict[str, Any] = {"name": name}
            for measure, values in (("t_sum", cells.total[start:end]), ("t_mean", mean[start:end])):
                reductions: tuple[tuple[str, Callable[[Floats], Any]], ...] = (
                    ("min", np.nanmin), ("max", np.nanmax), ("sum", np.nansum), ("mean", np.nanmean)
                )  # fmt: skip
                for reduction, reduce in reductions:
                    one[f"s_{reduction}_{measure}"] = round(float(reduce(values)), 10)
            found.append(one)
        return found

    def _results(self, sizes: Mapping[str, Mapping[str, int]], summary: list[dict[str, Any]] | None) -> None:
        rows = self.rows
        per_feature = np.bincount(rows.feature.codes, minlength=rows.feature.size)
        info = {
            "num_rows": rows.table.num_rows,
            "num_rows_per_feature": dict(zip(self.features, per_feature.tolist(), strict=True)),
            "num_missing_ts": 0,
            "num_invalid_ts": 0,
            "num_missing_val": int(np.isnan(rows.values).sum()),
            "region_levels": [*LEVELS[: len(rows.levels)], "grid data"],
            "features": self.features,
            "raw_count_threshold": _RAW_ROWS,
            "has_tiles": True,
            "has_monthly": True,
            "has_annual": True,
            "has_weights": False,
            "month_timeseries_size": sizes["month"],
            "year_timeseries_size": sizes["year"],
        }
        document: dict[str, object] = {"data_info": info}
        if summary is not None:
            document["output_agg_values"] = summary
        self.bucket.put("results", [("results.json", _json(document))])


FIGURES_OF_GRID: Final = ("s_sum_t_sum", "s_sum_t_mean", "s_mean_t_sum", "s_mean_t_mean")


def _pair(code: Ints, bits: int) -> tuple[Ints, Ints]:
    x, y = np.zeros_like(code), np.zeros_like(code)
    for bit in range(bits):
        x |= (code >> 2 * bit & 1) << bit
        y |= (code >> 2 * bit + 1 & 1) << bit
    return x, y


_TAGS: Final = (4 << 3 | 1, 5 << 3 | 1, 6 << 3 | 1)
_HEAD, _ENTRY = 14, 34


def encode_tiles(
    zoom: int, x: Ints, y: Ints, cuts: Ints, bins: Ints, figures: Sequence[Floats]
) -> tuple[npt.NDArray[np.uint8], Ints]:
    """Tiles in protobuf, one after the other: a matrix of bytes, of which those not needed are left out.

    A row of it is a bin; the first of a tile has the tile's head before it, the last its end behind it.
    """
    rows, first, last = len(bins), cuts[:-1], cuts[1:] - 1
    matrix = np.zeros((rows, _HEAD + _ENTRY + 3), np.uint8)
    keep = np.zeros(matrix.shape, np.bool_)
    entry, kept = matrix[:, _HEAD:], keep[:, _HEAD:]
    filled = [values != 0 for values in figures]
    long = bins >= 128
    inner = 9 * (filled[0].astype(np.int64) + filled[1] + filled[2])
    size = 4 + long + inner
    entry[:, 0], entry[:, 1], entry[:, 2] = 0x0A, size, 0x08
    entry[:, 3], entry[:, 4] = np.where(long, bins & 127 | 128, bins), bins >> 7
    entry[:, 5], entry[:, 6] = 0x12, inner
    kept[:, :7] = True
    kept[:, 4] = long
    for number, (values, there) in enumerate(zip(figures, filled, strict=True)):
        at = 7 + 9 * number
        entry[:, at] = _TAGS[number]
        entry[:, at + 1 : at + 9] = (values + 0.0).view(np.uint8).reshape(rows, 8)
        kept[:, at : at + 9] = there[:, None]
    entry[last, _ENTRY : _ENTRY + 3] = (0x10, 0x80, 0x20)
    kept[last, _ENTRY : _ENTRY + 3] = True
    ends = np.cumsum(size + 2)
    body = np.diff(ends[last], prepend=0) + 3
    head, head_kept = np.zeros((len(first), _HEAD), np.uint8), np.zeros((len(first), _HEAD), np.bool_)
    coord = np.zeros(len(first), np.int64)
    at = 2
    for tag, whole in ((0x08, x), (0x10, y), (0x18, np.full(len(x), zoom))):
        there, wide = whole > 0, whole >= 128
        head[:, at], head[:, at + 1] = tag, np.where(wide, whole & 127 | 128, whole)
        head_kept[:, at] = head_kept[:, at + 1] = there
        if tag != 0x18:
            head[:, at + 2], head_kept[:, at + 2] = whole >> 7, wide
        coord += np.where(there, 2 + wide, 0)
        at += 3 if tag != 0x18 else 2
    head[:, 0], head[:, 1] = 0x0A, coord
    head[:, at], head_kept[:, at], head_kept[:, :2] = 0x12, True, True
    head[:, at + 1] = np.where(body >= 1 << 7, body & 127 | 128, body)
    head[:, at + 2] = np.where(body >= 1 << 14, body >> 7 & 127 | 128, body >> 7 & 127)
    head[:, at + 3] = body >> 14
    head_kept[:, at + 1] = True
    head_kept[:, at + 2], head_kept[:, at + 3] = body >= 1 << 7, body >= 1 << 14
    matrix[first, :_HEAD], keep[first, :_HEAD] = head, head_kept
    sizes = body + head_kept.sum(axis=1)
    return matrix[keep], np.concatenate(([0], np.cumsum(sizes)))


def publish(
    parts: Sequence[Path], bucket: Path, model_id: str, run_id: str, mapped: Mapping[str, Sequence[str]]
) -> int:
    """Publish the objects of an input; returns their number."""
    target = Bucket(bucket / model_id / run_id)
    # Threads that format wait for none that write, so both share a pool; one more waits for them.
    with ThreadPoolExecutor(THREADS) as pool:
        rows = Input.of(_read(parts), pool)
        Script(rows, target, mapped, pool, run_id == "indicator").run()
    return target.objects


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description="Publish by hand.")
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART")
    parser.add_argument("--bucket", type=Path, required=True, help="the folder to write below")
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--run-id", default="run-1")
    parser.add_argument("--indicator", action="store_const", const="indicator", dest="run_id")
    parser.add_argument("--qualifier-map", type=json.loads, default={})
    options = parser.parse_args()
    start = perf_counter()
    objects = publish(options.parts, options.bucket, options.model_id, options.run_id, options.qualifier_map)
    print(json.dumps({"objects": objects, "seconds": perf_counter() - start}))


if __name__ == "__main__":
    _main()

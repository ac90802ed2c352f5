"""The synthetic input of the benchmarks: one run of any size in the form in which Dojo stores it.

Here belongs only the generator. Running and timing belong to the other modules of the package; the small
sample for demonstrations is `datacube_assets.development.sample`.

    python -m benchmarks.synthetic --rows 1000000 OUT.parquet.gzip

Every cell is a pure function of the seed and the row's number, so the same call writes the same bytes, the
split into parts and row groups changes no row, and memory is bounded by one row group. With the defaults and
a million rows the published datacube has about 55,000 objects.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.development.sample import INDEX_COLUMN, dojo_schema

Ints: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]

SUFFIX: Final = ".parquet.gzip"
MISSING_SHARE: Final = 0.01
_DAY: Final = 86_400_000  # milliseconds

# East Africa on a 0.1 degree grid: 12 S to 15 N, 29 E to 48 E.
_SOUTH, _WEST, _GRID_ROWS, _GRID_COLUMNS = -12.0, 29.0, 270, 190
_COUNTRIES: Final = (
    "Zambia", "Mozambique", "Rwanda", "Tanzania", "Uganda", "Kenya", "South Sudan", "Ethiopia", "Sudan",
    "Eritrea",
)  # fmt: skip
# Grid rows and columns of everything, a country, and the three levels of regions inside it.
_REGION_SIZES: Final = ((_GRID_ROWS, _GRID_COLUMNS), (54, 95), (18, 24), (9, 12), (3, 4))
_SYLLABLES: Final = ("ba", "dé", "go", "ki", "la", "mu", "n'do", "re", "sha", "to", "wa", "zi")


def feature_names(features: int) -> list[str]:
    return [f"feature {number}" for number in range(1, features + 1)]


def qualifier_names(qualifiers: int) -> list[str]:
    return ["crop", "market", *(f"qualifier {n}" for n in range(3, qualifiers + 1))][:qualifiers]


def write_synthetic(
    path: Path,
    rows: int,
    *,
    features: int = 2,
    months: int = 24,
    places: int = 2000,
    seed: int = 0,
    qualifier_sizes: Sequence[int] = (6, 40),
    parts: int = 1,
    row_group_rows: int = 1 << 19,
) -> list[Path]:
    """Write the input and return its files: `path` itself, or NAME.1, NAME.2, ... for several parts."""
    world = _World.make(rows, features, months, places, seed, qualifier_sizes)
    schema = _encoded(dojo_schema({name: pa.string() for name in qualifier_names(len(qualifier_sizes))}))
    paths = _part_paths(path, parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    for part, part_path in enumerate(paths):
        first, last = rows * part // parts, rows * (part + 1) // parts
        with pq.ParquetWriter(
            part_path,
            schema,
            compression="gzip",
            compression_level=1,
            use_dictionary=[name for name in schema.names if name not in ("value", INDEX_COLUMN)],
            store_schema=False,  # or readers would see dictionaries where Dojo has plain strings
        ) as writer:
            for start in range(first, last, row_group_rows):
                writer.write_table(world.table(schema, start, min(start + row_group_rows, last)))
            writer.add_key_value_metadata(schema.metadata)  # without a stored schema nobody else does
    return paths


def _encoded(schema: pa.Schema) -> pa.Schema:
    """The schema with its strings as dictionaries, so that writing touches each distinct string once."""
    code = pa.dictionary(pa.int32(), pa.string())
    fields = [field.with_type(code) if pa.types.is_string(field.type) else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _part_paths(path: Path, parts: int) -> list[Path]:
    if parts == 1:
        return [path]
    stem = path.name.removesuffix(SUFFIX)
    return [path.with_name(f"{stem}.{number}{SUFFIX}") for number in range(1, parts + 1)]


@dataclass(frozen=True)
class _World:
    """What the rows draw from: the places with their regions, the months, the names."""

    rows: int
    seed: int
    month_starts: Ints  # milliseconds
    latitudes: npt.NDArray[np.float64]
    longitudes: npt.NDArray[np.float64]
    regions: tuple[pa.DictionaryArray, ...]  # per level, one entry per place
    means: npt.NDArray[np.float64]  # mean value per (month, place)
    features: pa.Array
    qualifiers: tuple[pa.Array, ...]

    @classmethod
    def make(
        cls, rows: int, features: int, months: int, places: int, seed: int, qualifier_sizes: Sequence[int]
    ) -> "_World":
        grid = _GRID_ROWS * _GRID_COLUMNS
        if not 0 < places <= grid:
            raise ValueError(f"places must be between 1 and {grid}, not {places}")
        cells = np.sort(np.argsort(_hash(np.arange(grid), seed, "places"), kind="stable")[:places])
        row, column = cells // _GRID_COLUMNS, cells % _GRID_COLUMNS
        moments = np.datetime64("2020-01", "M") + np.arange(months)
        season = np.sin(2 * np.pi * (np.arange(months)[:, None] / 12 + row / _GRID_ROWS))
        return cls(
            rows=rows,
            seed=seed,
            month_starts=moments.astype("M8[ms]").astype(np.int64),
            latitudes=np.round(_SOUTH + row / 10, 1),
            longitudes=np.round(_WEST + column / 10, 1),
            regions=_regions(row, column),
            means=(20 + 10 * column / _GRID_COLUMNS) * (1 + 0.5 * season),
            features=pa.array(feature_names(features)),
            qualifiers=tuple(
                pa.array([f"{name} {number:02d}" for number in range(1, size + 1)])
                for name, size in zip(qualifier_names(len(qualifier_sizes)), qualifier_sizes, strict=True)
            ),
        )

    def table(self, schema: pa.Schema, start: int, stop: int) -> pa.Table:
        """The rows from `start` up to `stop`; like Dojo's, they are grouped by feature."""
        numbers = np.arange(start, stop)
        feature = numbers * len(self.features) // self.rows
        month = _draw(numbers, self.seed, "month", len(self.month_starts))
        place = _draw(numbers, self.seed, "place", len(self.latitudes))
        day = _draw(numbers, self.seed, "day", 28)
        noise = _draw(numbers, self.seed, "value", 1000) / 1000
        missing = _draw(numbers, self.seed, "missing", 10_000) < 10_000 * MISSING_SHARE
        value = np.round(self.means[month, place] * (0.5 + noise) * (1 + feature), 2)
        codes = pa.array(place)
        qualifiers = [
            _dictionary(_draw(numbers, self.seed, f"qualifier {index}", len(names)), names)
            for index, names in enumerate(self.qualifiers)
        ]
        columns = [
            pa.array(self.month_starts[month] + day * _DAY),
            *(regions.take(codes) for regions in self.regions),
            pa.array(self.latitudes[place]),
            pa.array(self.longitudes[place]),
            _dictionary(feature, self.features),
            pa.array(value, mask=missing),
            *qualifiers,
            pa.array(numbers),
        ]
        return pa.Table.from_arrays(columns, schema=schema)


def _hash(numbers: Ints, seed: int, purpose: str) -> Hashes:
    """Well mixed 64 bits per number (SplitMix64), independent between seeds and purposes."""
    salt = int.from_bytes(hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest(), "little")
    state = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _draw(numbers: Ints, seed: int, purpose: str, choices: int) -> Ints:
    """A whole number below `choices` for each row number."""
    high_half = _hash(numbers, seed, purpose) >> np.uint64(32)
    return ((high_half * np.uint64(choices)) >> np.uint64(32)).astype(np.int64)


def _dictionary(codes: Ints, names: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names)


def _regions(row: Ints, column: Ints) -> tuple[pa.DictionaryArray, ...]:
    """The nested rectangles of the grid in which the places lie; within its level a name is unique."""
    region = np.zeros_like(row)
    levels: list[pa.DictionaryArray] = []
    for (height, width), (inner_height, inner_width) in pairwise(_REGION_SIZES):
        row, column = row % height, column % width
        down, across = -(-height // inner_height), -(-width // inner_width)
        region = (region * down + row // inner_height) * across + column // inner_width
        distinct, codes = np.unique(region, return_inverse=True)
        names = [_region_name(number) for number in distinct.tolist()] if levels else _COUNTRIES
        levels.append(_dictionary(codes if levels else region, pa.array(names)))
    return tuple(levels)


def _region_name(number: int) -> str:
    """The number written in syllables, as a name on the map."""
    base = len(_SYLLABLES)
    syllables = [_SYLLABLES[number % base], _SYLLABLES[number // base % base]]
    number //= base * base
    while number:
        syllables.append(_SYLLABLES[number % base])
        number //= base
    return "".join(syllables).capitalize()


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic", description="Write a synthetic input."
    )
    parser.add_argument("out", type=Path, help="the file to write, NAME.parquet.gzip")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=2)
    parser.add_argument("--months", type=int, default=24)
    parser.add_argument("--places", type=int, default=2000)
    parser.add_argument("--qualifier-sizes", type=int, nargs="*", default=(6, 40), metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1, help="number of files: NAME.1.parquet.gzip, ...")
    options = parser.parse_args()
    paths = write_synthetic(
        options.out,
        options.rows,
        features=options.features,
        months=options.months,
        places=options.places,
        seed=options.seed,
        qualifier_sizes=options.qualifier_sizes,
        parts=options.parts,
    )
    for path in paths:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    _main()

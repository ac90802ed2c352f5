"""The floor: the least that any program must do to turn one input into as many published objects.

Here belong the three steps below and their measurement, in one process and without imports or start-up:
reading the file, one group-by at the temporal grain, and writing the same number of files with the same sizes
under the same relative paths. Nothing of the project's own code belongs here.

    python -m benchmarks.floor PART... --published FOLDER --target FOLDER
"""

import argparse
import importlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

importlib.import_module("pandas")  # Some Arrow calls import it on first use: that must not be timed.

# For each relative folder the names and sizes of its files.
Folders: TypeAlias = Mapping[str, Sequence[tuple[str, int]]]

_WRITERS: Final = 2
_NOT_KEYS: Final = frozenset({"timestamp", "value", "__index_level_0__"})


@dataclass(frozen=True)
class Floor:
    """Seconds of each step, and what the steps handled."""

    read: float
    group: float
    write: float
    rows: int
    cells: int
    objects: int
    bytes: int

    @property
    def seconds(self) -> float:
        return self.read + self.group + self.write


def measure_floor(parts: Sequence[Path], published_root: Path, target: Path) -> Floor:
    """Measure the floor for an input and the bucket folder that was published from it; `target` is fresh."""
    folders = list_objects(published_root)
    start = perf_counter()
    table = read_parts(parts)
    read = perf_counter()
    cells = group_cells(table)
    group = perf_counter()
    write_objects(folders, target)
    write = perf_counter()
    sizes = [size for files in folders.values() for _, size in files]
    return Floor(
        read=read - start,
        group=group - read,
        write=write - group,
        rows=table.num_rows,
        cells=cells.height,
        objects=len(sizes),
        bytes=sum(sizes),
    )


def list_objects(root: Path) -> Folders:
    """The names and sizes of all objects below `root`, by their folder; leases are none."""
    folders: dict[str, list[tuple[str, int]]] = defaultdict(list)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(os.path.join(folder, entry.name))
                elif not entry.is_symlink():
                    folders[folder].append((entry.name, entry.stat().st_size))
    return folders


def read_parts(parts: Sequence[Path]) -> pa.Table:
    """All rows, with every distinct string once."""
    return pa.concat_tables([_read(part) for part in parts], promote_options="permissive")


def _read(part: Path) -> pa.Table:
    schema = pq.read_schema(part)
    strings = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    with pq.ParquetFile(part, read_dictionary=strings) as file:
        return file.read()


def group_cells(table: pa.Table) -> pl.DataFrame:
    """The sum and count of each temporal cell: month, feature, place and qualifiers in one number."""
    stamps = pc.fill_null(table["timestamp"].cast(pa.int64()), 0).to_numpy()
    months = stamps.view("M8[ms]").astype("M8[M]").astype(np.int64)
    first = months.min(initial=0)
    key, span = (months - first).astype(np.uint64), int(months.max(initial=0) - first) + 1
    for name in table.column_names:
        if name in _NOT_KEYS:
            continue
        codes, size = _codes(table[name])
        if span * size >= 2**64:
            key, span = _codes(pa.chunked_array([key]))
        key, span = key * np.uint64(size) + codes, span * size
    frame = pl.DataFrame({"key": key, "value": pl.from_arrow(table["value"])})
    return frame.group_by("key").agg(sum=pl.col("value").sum(), count=pl.col("value").count())


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint64], int]:
    """A number for every distinct value of a column, and how many numbers there are."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no rows
        return np.zeros(0, np.uint64), 1
    size = len(encoded.dictionary)
    return pc.fill_null(encoded.indices, size).to_numpy().astype(np.uint64), size + 1


def write_objects(folders: Folders, target: Path) -> None:
    """Write files of the same names and sizes; two writers, who never meet in a folder."""
    heaviest_first = sorted(folders, key=lambda folder: -len(folders[folder]))
    shares: list[list[str]] = [[] for _ in range(_WRITERS)]
    loads = [0] * _WRITERS
    for folder in heaviest_first:
        lightest = loads.index(min(loads))
        shares[lightest].append(folder)
        loads[lightest] += len(folders[folder])
    content = memoryview(bytes(max((size for files in folders.values() for _, size in files), default=0)))

    def write(share: Sequence[str]) -> None:
        for folder in share:
            path = os.path.join(target, folder)
            os.makedirs(path, exist_ok=True)
            for name, size in folders[folder]:
                file = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                os.write(file, content[:size])
                os.close(file)

    with ThreadPoolExecutor(_WRITERS) as writers:
        list(writers.map(write, shares))


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description="Measure the floor.")
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART", help="the input's Parquet files")
    parser.add_argument("--published", type=Path, required=True, help="the bucket folder published from it")
    parser.add_argument("--target", type=Path, required=True, help="a fresh folder to write into")
    options = parser.parse_args()
    floor = measure_floor(options.parts, options.published, options.target)
    print(json.dumps({**asdict(floor), "seconds": floor.seconds}))


if __name__ == "__main__":
    _main()

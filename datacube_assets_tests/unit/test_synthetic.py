"""The generator of the benchmarks' input and the floor: what they promise, on small sizes."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.floor import list_objects, measure_floor
from benchmarks.synthetic import write_synthetic

ROWS = 20_000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "run.parquet.gzip"
    assert write_synthetic(path, ROWS, row_group_rows=8_000) == [path]
    return path


@pytest.fixture(scope="module")
def table(path: Path) -> pa.Table:
    return pq.read_table(path)


def test_the_same_call_writes_the_same_bytes_and_another_seed_does_not(path: Path, tmp_path: Path) -> None:
    (again,) = write_synthetic(tmp_path / "again.parquet.gzip", ROWS, row_group_rows=8_000)
    (other,) = write_synthetic(tmp_path / "other.parquet.gzip", ROWS, row_group_rows=8_000, seed=1)
    assert again.read_bytes() == path.read_bytes()
    assert other.read_bytes() != path.read_bytes()


def test_the_file_looks_as_if_dojo_had_written_it(path: Path, table: pa.Table) -> None:
    string, double, integer = pa.string(), pa.float64(), pa.int64()
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        "timestamp": integer,
        **dict.fromkeys(("country", "admin1", "admin2", "admin3"), string),
        **dict.fromkeys(("lat", "lng"), double),
        "feature": string,
        "value": double,
        "crop": string,
        "market": string,
        "__index_level_0__": integer,
    }
    metadata = pq.read_metadata(path)
    group = metadata.row_group(0)
    assert {group.column(column).compression for column in range(group.num_columns)} == {"GZIP"}
    assert "__index_level_0__" not in table.to_pandas().columns
    assert metadata.num_row_groups == 3


def test_all_features_months_places_and_qualifier_values_occur(table: pa.Table) -> None:
    months = pc.unique(pc.strftime(table["timestamp"].cast(pa.timestamp("ms")), "%Y-%m"))
    places = table.group_by(["lat", "lng"]).aggregate([])
    assert sorted(months.to_pylist())[:: len(months) - 1] == ["2020-01", "2021-12"]
    assert [len(months), places.num_rows] == [24, 2000]
    assert [len(table[name].unique()) for name in ("feature", "crop", "market")] == [2, 6, 40]
    assert 0.005 < table["value"].null_count / ROWS < 0.015


def test_timestamps_are_whole_days_and_coordinates_lie_on_the_grid(table: pa.Table) -> None:
    frame = table.to_pandas()
    assert (frame["timestamp"] % 86_400_000 == 0).all()
    assert frame["lat"].between(-12, 15).all()
    assert frame["lng"].between(29, 48).all()
    assert (frame[["lat", "lng"]] == frame[["lat", "lng"]].round(1)).all(axis=None)


def test_every_region_belongs_to_one_parent_and_every_place_to_one_region(table: pa.Table) -> None:
    places = table.group_by(["country", "admin1", "admin2", "admin3", "lat", "lng"]).aggregate([])
    assert places.num_rows == 2000
    sizes = []
    for depth in range(1, 5):
        path = ["country", "admin1", "admin2", "admin3"][:depth]
        sizes.append(places.group_by(path).aggregate([]).num_rows)
        assert sizes[-1] == len(places[path[-1]].unique())
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 10


def test_splitting_into_parts_and_row_groups_changes_no_row(table: pa.Table, tmp_path: Path) -> None:
    parts = write_synthetic(tmp_path / "run.parquet.gzip", ROWS, parts=3, row_group_rows=1_000)
    assert [part.name for part in parts] == [f"run.{number}.parquet.gzip" for number in (1, 2, 3)]
    assert pa.concat_tables([pq.read_table(part) for part in parts]).equals(table)


def test_sizes_are_parameters(tmp_path: Path) -> None:
    (path,) = write_synthetic(
        tmp_path / "run.parquet.gzip", 5_000, features=3, months=5, places=50, qualifier_sizes=(2, 3, 4)
    )
    table = pq.read_table(path)
    assert table.column_names[9:] == ["crop", "market", "qualifier 3", "__index_level_0__"]
    names = ("feature", "crop", "market", "qualifier 3")
    assert [len(table[name].unique()) for name in names] == [3, 2, 3, 4]
    assert table.group_by(["lat", "lng"]).aggregate([]).num_rows == 50


def test_more_places_than_the_grid_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="places must be between 1 and 51300"):
        write_synthetic(tmp_path / "run.parquet.gzip", 10, places=60_000)


def test_the_generator_is_a_command(tmp_path: Path) -> None:
    out = tmp_path / "run.parquet.gzip"
    command = [sys.executable, "-m", "benchmarks.synthetic", "--rows", "100", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    assert pq.read_metadata(out).num_rows == 100


def test_the_floor_writes_files_of_the_same_names_and_sizes(path: Path, tmp_path: Path) -> None:
    published = tmp_path / "published"
    for number in range(10):
        file = published / f"model/run {number % 3}" / f"{number}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * number)
    floor = measure_floor([path], published, tmp_path / "floor")
    assert list_objects(tmp_path / "floor") == list_objects(published)
    assert (floor.rows, floor.objects, floor.bytes) == (ROWS, 10, 45)


def test_the_floor_groups_by_the_temporal_cell(path: Path, table: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    month = pc.strftime(table["timestamp"].cast(pa.timestamp("ms")), "%Y-%m")
    keys = [name for name in table.column_names[1:-1] if name != "value"]
    cells = table.append_column("month", month).group_by(["month", *keys]).aggregate([])
    floor = measure_floor([path], tmp_path / "published", tmp_path / "floor")
    assert floor.cells == cells.num_rows

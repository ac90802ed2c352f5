"""What the original published is read as well: bins and rows in any order, counts with a fraction."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from datacube_assets.kernels.decode import read_tile
from datacube_assets.read import open_datacube
from datacube_assets_tests.integration.support import read_tile as read_by_library


@pytest.fixture(params=["geotemporal", "hopper"])
def archive(request: pytest.FixtureRequest, shared: Path) -> Mapping[str, bytes]:
    """Bodies by key after the prefix of the run."""
    table = pq.read_table(shared / "golden" / f"{request.param}.parquet")
    keys = (key.split("/", 2)[2] for key in table["key"].to_pylist())
    return dict(zip(keys, table["body"].to_pylist(), strict=True))


def test_every_tile_of_the_original_is_read_as_the_library_reads_it(archive: Mapping[str, bytes]) -> None:
    tiles = {key: body for key, body in archive.items() if key.endswith(".tile")}
    assert tiles
    for key, body in tiles.items():
        ours, theirs = read_tile(body), read_by_library(body)
        assert (ours.zoom, ours.x, ours.y) == (theirs.coord.z, theirs.coord.x, theirs.coord.y), key
        stats = [theirs.bins.stats[number] for number in ours.bin.tolist()]
        assert len(stats) == len(theirs.bins.stats), key
        assert ours.s_sum_t_sum.tolist() == [one.s_sum_t_sum for one in stats], key
        assert ours.s_sum_t_mean.tolist() == [one.s_sum_t_mean for one in stats], key
        assert ours.s_count.tolist() == [one.weight for one in stats], key


def test_a_datacube_of_the_original_answers_questions(archive: Mapping[str, bytes], tmp_path: Path) -> None:
    for key, body in archive.items():
        path = tmp_path / "model" / "run" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    cube = open_datacube(tmp_path, "model", "run")
    for feature in cube.features:
        line = cube.timeseries(feature)
        written = csv.DictReader(
            io.StringIO(archive[f"month/{feature}/timeseries/global/global.csv"].decode())
        )
        expected = {int(row["timestamp"]): float(row["s_sum_t_sum"]) for row in written}
        times = line["timestamp"].cast(pa.int64()).to_pylist()
        assert times == sorted(expected)
        assert line["s_sum_t_sum"].to_pylist() == [expected[time] for time in times]
        countries = cube.regions(feature, "country", times[0])
        assert pc.sum(countries["s_sum_t_sum"]).as_py() == pytest.approx(expected[times[0]], rel=1e-9)
        for zoom in (0, 5, 8):
            bins = cube.bins(feature, times[0], zoom=zoom)
            assert pc.sum(bins["s_sum_t_sum"]).as_py() == pytest.approx(expected[times[0]], rel=1e-9)
        assert (np.diff(bins["y"].to_numpy().astype(np.int64)) >= 0).all()
        for qualifier in cube.qualifiers(feature):
            by = cube.timeseries(feature, qualifier=qualifier)
            assert pc.sum(by["s_count"]).as_py() == pc.sum(line["s_count"]).as_py()
            assert by.schema.field("s_count").type == pa.int64()

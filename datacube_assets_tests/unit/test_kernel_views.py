"""Object families: for a small case, exactly these keys with exactly these bodies."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from inline_snapshot import snapshot

from datacube_assets.kernels import morton, pyramid, spatial, views
from datacube_assets.kernels.temporal import temporal_cells
from datacube_assets_tests.unit.kernel_helpers import (
    FEB_2020,
    JAN_2020,
    Datacube,
    Row,
    datacube,
    ms,
    normalized,
    parse_tile,
)


def small() -> Datacube:
    """Two regions, two months, a qualifier; the second month has no maize and a name that needs quotes."""
    kenya = {"country": "Kenya", "lat": 1.0, "lng": 37.0}
    congo = {"country": 'Congo, "DR"', "lat": -4.0, "lng": 22.0}
    return datacube(
        [
            {**kenya, "timestamp": JAN_2020, "value": 1.5, "crop": "maize"},
            {**kenya, "timestamp": FEB_2020, "value": 2.0, "crop": "rice, wet"},
            {**congo, "timestamp": FEB_2020, "value": 4.0, "crop": "rice, wet"},
        ],
        qualifiers={"f": ["crop"]},
    )


def test_every_key_of_a_small_datacube() -> None:
    made = small()
    months, year = (JAN_2020, FEB_2020), JAN_2020
    congo = 'Congo, "DR"'
    figures = list(made.rows("month/f/timeseries/global/global.csv")[0])[1:]
    expected = {
        "raw/f/raw/raw.csv",
        "raw/f/info/region_lists.json",
        "raw/f/info/qualifiers/crop.json",
        "raw/f/info/qualifier_counts.json",
        "results/results.json",
    }
    for resolution, times in (("month", months), ("year", (year,))):
        root = f"{resolution}/f"
        expected |= {f"{root}/timeseries/global/global.csv"}
        expected |= {f"{root}/timeseries/qualifiers/crop/{name}.csv" for name in figures}
        country = f"{root}/regional/country"
        expected |= {f"{country}/timeseries/default/{name}.csv" for name in ("Kenya", congo)}
        by_crop = f"{country}/timeseries/qualifiers/crop"
        expected |= {
            f"{by_crop}/maize/Kenya.csv",
            f"{by_crop}/rice, wet/Kenya.csv",
            f"{by_crop}/rice, wet/{congo}.csv",
        }
        expected |= {
            f"{country}/aggs/{time}/{last}.csv"
            for time in times
            for last in ("default/default", "qualifiers/crop")
        }
        expected |= {f"{country}/stats/default/extrema.json"}
        expected |= {f"{root}/stats/grid/{time}.csv" for time in times}
    tiles = set(made.keys(".tile"))
    assert set(made.objects) - tiles == expected
    zooms = {key: key.rsplit("-", 3)[1] for key in tiles}
    assert len([key for key in tiles if key.startswith(f"month/f/tiles/{JAN_2020}-")]) == 9
    assert set(zooms.values()) == {str(zoom) for zoom in range(9)}


def test_raw_rows_in_file_order_with_all_columns_but_the_feature() -> None:
    assert small().text("raw/f/raw/raw.csv") == (
        "country,lat,lng,timestamp,value,crop\n"
        f"Kenya,1.0,37.0,{JAN_2020},1.5,maize\n"
        f'Kenya,1.0,37.0,{FEB_2020},2.0,"rice, wet"\n'
        f'"Congo, ""DR""",-4.0,22.0,{FEB_2020},4.0,"rice, wet"\n'
    )


def test_lists() -> None:
    made = small()
    assert made.text("raw/f/info/region_lists.json") == (
        '{"country": ["Congo, \\"DR\\"", "Kenya"], "admin1": [], "admin2": [], "admin3": []}'
    )
    assert made.text("raw/f/info/qualifiers/crop.json") == '["maize", "rice, wet"]'
    assert made.text("raw/f/info/qualifier_counts.json") == (
        '{"thresholds": {"max_count": 10000, "regional_timeseries_count": 100, '
        '"regional_timeseries_max_level": 1}, '
        '"counts": {"crop": 2}}'
    )


def test_timeseries() -> None:
    made = small()
    assert made.text("month/f/timeseries/global/global.csv") == snapshot("""\
timestamp,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count
1577836800000,1.5,1.5,1.5,1.5,1
1580515200000,6.0,3.0,6.0,3.0,2
""")
    assert made.text("month/f/timeseries/qualifiers/crop/s_mean_t_sum.csv") == (
        f'timestamp,maize,"rice, wet"\n{JAN_2020},1.5,\n{FEB_2020},,3.0\n'
    )
    assert made.text("month/f/timeseries/qualifiers/crop/s_count.csv") == (
        f'timestamp,maize,"rice, wet"\n{JAN_2020},1,\n{FEB_2020},,2\n'
    )
    assert made.text("month/f/regional/country/timeseries/default/Kenya.csv") == snapshot("""\
timestamp,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count
1577836800000,1.5,1.5,1.5,1.5,1
1580515200000,2.0,2.0,2.0,2.0,1
""")
    by_crop = "year/f/regional/country/timeseries/qualifiers/crop"
    assert made.text(f"{by_crop}/rice, wet/Kenya.csv") == snapshot("""\
timestamp,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count
1577836800000,2.0,2.0,2.0,2.0,1
""")


def test_regional_maps() -> None:
    made = small()
    assert made.text(f"month/f/regional/country/aggs/{FEB_2020}/default/default.csv") == snapshot('''\
id,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count
"Congo, ""DR""",4.0,4.0,4.0,4.0,1
Kenya,2.0,2.0,2.0,2.0,1
''')
    assert made.text(f"year/f/regional/country/aggs/{JAN_2020}/qualifiers/crop.csv") == snapshot('''\
id,qualifier,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count
"Congo, ""DR""","rice, wet",4.0,4.0,4.0,4.0,1
Kenya,maize,1.5,1.5,1.5,1.5,1
Kenya,"rice, wet",2.0,2.0,2.0,2.0,1
''')


def test_extrema() -> None:
    made = small()
    document = made.json("month/f/regional/country/stats/default/extrema.json")
    names = set(made.rows("month/f/timeseries/global/global.csv")[0]) - {"timestamp", "s_count"}
    least = [{"region_id": "Kenya", "timestamp": JAN_2020, "value": 1.5}]
    most = [{"region_id": 'Congo, "DR"', "timestamp": FEB_2020, "value": 4.0}]
    assert document == {"min": dict.fromkeys(names, least), "max": dict.fromkeys(names, most)}


def test_grid_stats() -> None:
    text = small().text(f"month/f/stats/grid/{FEB_2020}.csv")
    header, *lines = text.splitlines()
    assert header == (
        "zoom,min_s_sum_t_sum,max_s_sum_t_sum,min_s_sum_t_mean,max_s_sum_t_mean,"
        "min_s_mean_t_sum,max_s_mean_t_sum,min_s_mean_t_mean,max_s_mean_t_mean"
    )
    assert lines == [f"{zoom},2.0,4.0,2.0,4.0,2.0,4.0,2.0,4.0" for zoom in range(6, 15)]


def test_results_of_a_model_run() -> None:
    assert small().results == {
        "data_info": {
            "num_rows": 3,
            "num_rows_per_feature": {"f": 3},
            "num_missing_ts": 0,
            "num_invalid_ts": 0,
            "num_missing_val": 0,
            "region_levels": ["country", "grid data"],
            "features": ["f"],
            "raw_count_threshold": 10000,
            "has_tiles": True,
            "has_monthly": True,
            "has_annual": True,
            "has_weights": False,
            "month_timeseries_size": {"f": 2},
            "year_timeseries_size": {"f": 1},
        },
        "output_agg_values": [
            {
                "name": "f",
                **dict.fromkeys(("s_min_t_sum", "s_min_t_mean"), 1.5),
                **dict.fromkeys(("s_max_t_sum", "s_max_t_mean"), 4.0),
                **dict.fromkeys(("s_sum_t_sum", "s_sum_t_mean"), 7.5),
                **dict.fromkeys(("s_mean_t_sum", "s_mean_t_mean"), 2.5),
            }
        ],
    }


def test_results_of_a_dataset_have_no_summary() -> None:
    assert set(datacube([{"country": "Kenya"}], indicator=True).results) == {"data_info"}


def test_the_summary_has_ten_decimals_and_weighted_figures_where_there_are_weights() -> None:
    rows = [{"country": "Kenya", "lat": float(i), "lng": 1.0, "value": i / 3, "wt": 1.0} for i in range(3)]
    summary = datacube(rows, weight_column="wt").summary["f"]
    assert summary["s_max_t_sum"] == 0.6666666667
    assert list(summary) == [
        "name",
        "s_min_t_sum", "s_max_t_sum", "s_sum_t_sum", "s_mean_t_sum",
        "s_min_t_mean", "s_max_t_mean", "s_sum_t_mean", "s_mean_t_mean",
        "s_min_t_wavg", "s_max_t_wavg", "s_sum_t_wavg", "s_mean_t_wavg",
        "s_wavg_t_sum", "s_wavg_t_mean", "s_wavg_t_wavg",
    ]  # fmt: skip


def test_without_region_columns_there_are_no_region_objects() -> None:
    made = datacube([{"lat": 1.0, "lng": 2.0}])
    assert made.keys("regional") == made.keys("region_lists") == []
    assert made.data_info["region_levels"] == ["grid data"]


def test_only_the_three_required_columns_give_a_datacube() -> None:
    made = datacube([{"timestamp": 0, "value": 1.0}])
    assert sorted(made.objects) == [
        "month/f/timeseries/global/global.csv",
        "raw/f/info/qualifier_counts.json",
        "raw/f/raw/raw.csv",
        "results/results.json",
        "year/f/timeseries/global/global.csv",
    ]
    points = normalized([{"timestamp": 0, "value": 1.0}])
    cells = dict(temporal_cells([points.table], points.layout, ("month",)))["month"]
    assert spatial.regional_aggregates(spatial.Cells(cells, points.layout)) == {}


def test_raw_rows_only_of_features_small_enough() -> None:
    rows: list[Row] = [{"feature": "big"}, {"feature": "big"}, {"feature": "small"}]
    made = datacube(rows, raw_count_threshold=1)
    assert made.keys("raw.csv") == ["raw/small/raw/raw.csv"]
    assert made.data_info["raw_count_threshold"] == 1


def test_a_feature_whose_rows_are_all_dropped_is_counted_but_has_no_objects() -> None:
    made = datacube([{"feature": "gone", "timestamp": 2**62}, {"country": "Kenya"}])
    assert made.keys("gone") == ["raw/gone/raw/raw.csv"]
    assert made.data_info["features"] == ["f"]
    assert made.data_info["num_rows_per_feature"] == {"f": 1, "gone": 1}


@pytest.mark.parametrize("name", ["a/b", "a//b", "..x", "%", 'q"u,o', "日本", "trailing ", "a\nb"])
def test_odd_names_give_keys_that_stay_inside_and_bodies_that_parse(name: str) -> None:
    made = datacube(
        [{"feature": name, "country": name, "crop": name, "lat": 1.0, "lng": 2.0}],
        qualifiers={name: ["crop"]},
    )
    assert all(part not in ("", ".", "..") for key in made.objects for part in key.split("/"))
    for key in made.keys(".csv"):
        assert made.rows(key)
    for key in made.keys(".json"):
        assert made.json(key)
    (line,) = made.rows(next(key for key in made.keys("month/", "aggs", "qualifiers/crop.csv")))
    assert (line["id"], line["qualifier"]) == (name.replace("//", ""), name)


def test_tied_extrema_are_the_newest_twenty_and_regions_by_name_within_a_time() -> None:
    rows = [
        {"country": f"c{i:02}", "timestamp": ms(2000 + year), "value": 5.0}
        for i in range(15)
        for year in (0, 1)
    ]
    items = datacube(rows).json("month/f/regional/country/stats/default/extrema.json")["max"]["s_sum_t_sum"]
    newest = [(f"c{i:02}", ms(2001)) for i in range(15)] + [(f"c{i:02}", ms(2000)) for i in range(5)]
    assert [(item["region_id"], item["timestamp"]) for item in items] == newest


def test_a_time_before_1970_gives_a_key_with_a_minus() -> None:
    made = datacube([{"country": "Kenya", "lat": 1.0, "lng": 2.0, "timestamp": ms(1960, 6, 15)}])
    assert "month/f/tiles/-302486400000-0-0-0.tile" in made.objects
    assert "month/f/stats/grid/-302486400000.csv" in made.objects
    assert "month/f/regional/country/aggs/-302486400000/default/default.csv" in made.objects


@pytest.mark.parametrize(
    ("name", "limit"), [("BATCH_ROWS", 3), ("BATCH_OBJECTS", 1), ("BATCH_OBJECTS", 7), ("BATCH_BYTES", 500)]
)
def test_many_objects_come_in_batches_that_are_the_same_objects(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    rows = [
        {
            "country": f"c{i % 5}",
            "lat": float(i),
            "lng": 2.0 * i,
            "timestamp": ms(2000, i % 12 + 1),
            "crop": str(i % 2),
        }
        for i in range(40)
    ]
    whole = datacube(rows, qualifiers={"f": ["crop"]}).objects
    monkeypatch.setattr(views, name, limit)
    assert datacube(rows, qualifiers={"f": ["crop"]}).objects == whole
    monkeypatch.setattr(pyramid, "PIECE_CELLS", 4)
    assert datacube(rows, qualifiers={"f": ["crop"]}).objects == whole


def grid_of(cells: int, buckets: int) -> pa.Table:
    """A square of neighbouring subtiles, again and again."""
    side = math.isqrt(cells)
    y, x = np.divmod(np.arange(side * side, dtype=np.uint32), np.uint32(side))
    codes = np.sort(morton.interleave(x + np.uint32(8000), y + np.uint32(8000)))
    rows = len(codes) * buckets
    return pa.table(
        {
            "feature": pa.array(["f"] * rows).dictionary_encode(),
            "timestamp": np.repeat(np.arange(buckets), len(codes)),
            "quadkey": np.tile(codes, buckets),
            "s_count": np.ones(rows, np.int64),
            "s_sum_t_sum": np.arange(1.0, rows + 1),
            "s_sum_t_mean": np.arange(1.0, rows + 1),
        }
    )


@pytest.mark.parametrize(
    "table", [grid_of(250_000, 1), grid_of(1, 60_000)], ids=["large tiles", "many tiles"]
)
def test_batches_of_tiles_are_bounded(monkeypatch: pytest.MonkeyPatch, table: pa.Table) -> None:
    monkeypatch.setattr(views, "BATCH_ROWS", 20_000)
    monkeypatch.setattr(views, "BATCH_BYTES", 500_000)
    keys: list[str] = []
    for batch in views.spatial_tiles("month", table):
        assert 0 < len(batch) <= views.BATCH_OBJECTS
        # A row is at most 51 bytes: its entry, and the rest of its tile. The last tile may be one too many.
        assert batch.nbytes <= (20_000 + 4096) * 51
        keys += batch.keys
    assert len(keys) == len(set(keys))
    assert len([key for key in keys if "-0-0-0.tile" in key]) == len(set(table["timestamp"].to_pylist()))


def test_tiles_leave_out_only_the_bins_whose_sums_overflow() -> None:
    table = grid_of(16, 3)
    sums = table["s_sum_t_sum"].to_numpy().copy()
    sums[0], sums[16:32] = 1.7e308, math.inf
    sums[1] = 1.7e308
    table = table.set_column(4, "s_sum_t_sum", pa.array(sums))
    bodies = {
        key: parse_tile(bytes(body))[1]
        for batch in views.spatial_tiles("month", table)
        for key, body in zip(batch.keys, batch.bodies(), strict=True)
    }
    assert {key.split("/")[3].split("-")[0] for key in bodies} == {"0", "2"}
    assert sum(len(bins) for key, bins in bodies.items() if "/0-8-" in key) == 16
    # At the next zoom the two largest are in one bin.
    assert sum(len(bins) for key, bins in bodies.items() if "/0-7-" in key) == 3
    assert sum(len(bins) for key, bins in bodies.items() if "/2-7-" in key) == 4

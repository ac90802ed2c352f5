"""The real inputs against what the original published for them: every difference has its rule.

The inputs, the archives and the comparison are not in this repository; without them the tests skip.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datacube_assets.development.s3_server import S3Server
from datacube_assets_tests.integration.dask_cluster import Cluster, cluster
from datacube_assets_tests.integration.support import Datacube, House, check_object, read_csv, read_json
from datacube_assets_tests.reader_model import ask_for_everything

FLOODS = ("Area", "Dead", "Displaced", "Ended", "Severity")


@dataclass(frozen=True)
class Differences:
    """Keys in which ours and the original's objects are not the same, and what differs."""

    missing: Sequence[str]
    unexpected: Sequence[str]
    differing: Mapping[str, tuple[bytes, str]]
    """The original's body and what the comparison says."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.differing)


Compare = Callable[[str, Datacube], Differences]


@pytest.fixture(scope="module")
def compare(shared: Path) -> Compare:
    """Compares a datacube with the archive of a name."""
    spec = importlib.util.spec_from_file_location(
        "compare_datacubes", shared / "tools" / "compare_datacubes.py"
    )
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    comparison = tool.Comparison(rtol=1e-9)

    def with_archive(name: str, ours: Datacube) -> Differences:
        archive = pq.read_table(shared / "golden" / f"{name}.parquet")
        keys = [key.split("/", 2)[2] for key in archive["key"].to_pylist()]
        golden = dict(zip(keys, archive["body"].to_pylist(), strict=True))
        differing: dict[str, tuple[bytes, str]] = {}
        for key in golden.keys() & ours.objects.keys():
            difference = comparison.one(f"model/run/{key}", golden[key], ours.objects[key])
            if difference:
                differing[key] = (golden[key], difference)
        return Differences(
            sorted(golden.keys() - ours.objects.keys()),
            sorted(ours.objects.keys() - golden.keys()),
            differing,
        )

    return with_archive


# --- where it is computed ------------------------------------------------------------------------


@dataclass
class Computed:
    """A house that computes in one of the modes and stores in one of the ways, and what others published."""

    house: House
    hashes: dict[str, str]
    server: S3Server | None = None
    """Where lake and buckets are; none for folders."""

    def publish(self, *parts: Path, model_id: str, run_id: str, **fields: Any) -> Datacube:
        """Publish parts; every mode publishes the same bytes wherever it stores them."""
        house = self.house
        if house.settings.dask_mode != "threads":
            rows = sum(pq.read_metadata(part).num_rows for part in parts)
            house = house.with_settings(shard_rows=-(-rows // SHARDS))
        house.publish(*map(str, parts), model_id=model_id, run_id=run_id, **fields)
        if self.server is not None:
            self._fetch(self.server)
        ours = house.datacube(model_id, run_id)
        assert self.hashes.setdefault(model_id, ours.hash) == ours.hash, "others publish other bytes"
        return ours

    def _fetch(self, server: S3Server) -> None:
        """Bring what is in the buckets into the folders that stand for them, with the time of writing."""
        client = server.client()
        for bucket in ("models", "indicators"):
            url = getattr(self.house.settings, f"{bucket}_bucket")
            prefix = url.removeprefix(f"s3://{bucket}/") + "/"
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for item in (item for page in pages for item in page.get("Contents", [])):
                path = self.house.folder / "buckets" / bucket / item["Key"].removeprefix(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
                written = item["LastModified"].timestamp()
                os.utime(path, (written, written))


SHARDS = 4
"""Shards in the modes with a cluster, so that partial results are merged there; there is one in threads."""


@pytest.fixture(scope="module")
def hashes() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), **s3_server.environment()) as started:
        yield started


@pytest.fixture
def computed(
    request: pytest.FixtureRequest, house: House, hashes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Computed:
    """A house in the mode that the test asks for."""
    mode, _, stored = request.param.partition("-")
    address = request.getfixturevalue("running").address if mode == "scheduler" else ""
    house = house.with_settings(dask_mode=mode, dask_workers=2, dask_scheduler=address)
    if stored != "s3":
        return Computed(house, hashes)
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    prefix = f"golden-{uuid.uuid4().hex[:8]}"
    buckets = {name: f"s3://{name}/{prefix}" for name in ("lake", "models", "indicators")}
    house = house.with_settings(
        lake=buckets["lake"],
        models_bucket=buckets["models"],
        indicators_bucket=buckets["indicators"],
        s3_endpoint=server.endpoint,
    )
    return Computed(house, hashes, server)


MODES = ["threads", "threads-s3", "local", "local-s3", "scheduler", "scheduler-s3"]
in_most_modes = pytest.mark.parametrize(
    "computed",
    [
        pytest.param(mode, marks=() if mode in ("threads", "scheduler-s3") else pytest.mark.slow)
        for mode in MODES
    ],
    indirect=True,
)
in_every_mode_if_slow = pytest.mark.parametrize(
    "computed",
    ["threads", *(pytest.param(mode, marks=pytest.mark.slow) for mode in MODES[1:])],
    indirect=True,
)
in_folders = pytest.mark.parametrize("computed", ["threads", "local", "scheduler"], indirect=True)


@in_most_modes
def test_hoppers_agree_with_the_original_in_every_object(
    computed: Computed, shared: Path, compare: Compare
) -> None:
    part = shared / "data" / "hopper_presence.1.parquet.gzip"
    ours = computed.publish(part, model_id="hopper", run_id="run-1")
    ours.check()
    assert not compare("hopper", ours)
    assert len(ours.objects) == 499


@in_every_mode_if_slow
def test_the_sample_of_dojos_documentation_agrees_in_every_object(
    computed: Computed, shared: Path, compare: Compare
) -> None:
    ours = computed.publish(
        shared / "data" / "geotemporal_example.parquet.gzip",
        model_id="geotemporal",
        run_id="run-1",
        qualifier_map={"feature1": ["qualifier_1"], "feature2": ["qualifier_1"]},
    )
    ours.check()
    assert not compare("geotemporal", ours)


@in_every_mode_if_slow
def test_a_census_in_a_numeric_and_a_text_part_agrees_in_every_object(
    computed: Computed, shared: Path, compare: Compare
) -> None:
    ours = computed.publish(
        *(shared / "data" / f"{name}.parquet.gzip" for name in ("census", "census_str")),
        model_id="census",
        run_id="indicator",
        is_indicator=True,
        qualifier_map={"pop": ["primary_industry"], "health_ind": ["primary_industry"]},
    )
    ours.check()
    assert not compare("census", ours)


@pytest.mark.slow
@in_folders
def test_floods_agree_but_for_which_of_many_equal_regions_are_listed_as_extremes(
    computed: Computed, shared: Path, compare: Compare
) -> None:
    ours = computed.publish(
        shared / "data" / "floods.parquet.gzip",
        model_id="floods",
        run_id="indicator",
        is_indicator=True,
        qualifier_map={feature: ["MainCause"] for feature in FLOODS},
    )
    assert len(ours.objects) > 315_000
    unasked = ask_for_everything(ours.objects, most_tiles=200)
    assert all(".tile" in key for key in unasked)
    differences = compare("floods", ours)
    # The archive was made without tiles: they are not in it, and neither is the mark of completion.
    assert not differences.missing
    left_out = {key.split("/")[2] for key in differences.unexpected if key != "results/results.json"}
    assert left_out == {"tiles", "stats"}
    assert not [key for key in differences.unexpected if "/stats/" in key and "/stats/grid/" not in key]
    assert ours.info["has_tiles"]
    # The other objects are the original's; of tiles a sample is parsed, as there are 235,000 of them.
    for key in differences.unexpected[::50]:
        check_object(key, ours.objects[key])
    assert set(differences.differing) == EXTREMA_WITH_MANY_TIES
    for key, (original, _) in differences.differing.items():
        assert_differs_only_among_ties(ours, key, read_json(original))


EXTREMA_WITH_MANY_TIES = {
    *(
        f"month/Severity/regional/{level}/stats/default/extrema.json"
        for level in ("country", "admin1", "admin2")
    ),
    *(
        f"year/{feature}/regional/{level}/stats/default/extrema.json"
        for feature in ("Dead", "Displaced", "Severity")
        for level in ("country", "admin1", "admin2")
    ),
}
"""Of more than 20 equals the original lists those that came first, we the first by name."""


def assert_differs_only_among_ties(ours: Datacube, key: str, original: dict[str, Any]) -> None:
    """Both list 20 genuine ties of one value, equally new; ours are first by name."""
    published = extremes(ours, key)
    document = ours.json(key)
    many = 0
    for side in ("min", "max"):
        assert document[side].keys() == original[side].keys()
        for column, items in document[side].items():
            theirs = original[side][column]
            if sorted(map(_entry, items)) == sorted(map(_entry, theirs)):
                continue
            many += 1
            value, ties = published[side, column]
            assert len(items) == len(theirs) == 20
            assert {item["value"] for item in [*items, *theirs]} == {value}
            assert {_entry(item) for item in [*items, *theirs]} <= ties
            assert len(ties) > 20
            newest_by_name = sorted(ties, key=lambda entry: (-entry[1], entry[0]))
            assert [_entry(item) for item in items] == newest_by_name[:20]
            assert sorted(item["timestamp"] for item in items) == sorted(item["timestamp"] for item in theirs)
    assert many


def _entry(item: dict[str, Any]) -> tuple[str, int]:
    return item["region_id"], item["timestamp"]


def extremes(ours: Datacube, key: str) -> dict[tuple[str, str], tuple[float, set[tuple[str, int]]]]:
    """Smallest and largest figure of each column in the published regional tables, and who has it."""
    tables = f"{key.partition('/stats/')[0]}/aggs/"
    figures: dict[str, list[tuple[float, tuple[str, int]]]] = {}
    for table in ours.keys(tables, "/default/default.csv"):
        timestamp = int(table.removeprefix(tables).split("/")[0])
        header, *lines = read_csv(ours.objects[table])
        for line in lines:
            for column, cell in zip(header[1:], line[1:], strict=True):
                if cell:
                    figures.setdefault(column, []).append((float(cell), (line[0], timestamp)))
    found = {}
    for column, entries in figures.items():
        for side, value in (("min", min(entries)[0]), ("max", max(entries)[0])):
            found[side, column] = (value, {entry for figure, entry in entries if figure == value})
    return found

"""Earlier versions in the read API: listed, opened from the tables they keep, and compared.

What a version says later is held to what its published objects said while they stood.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datacube_assets.development.s3_server import S3Server
from datacube_assets.read import Datacube, LakeDatacube, NoDataError, diff, open_datacube, open_tables
from datacube_assets_tests.integration.operating import Place, nothing_set
from datacube_assets_tests.integration.support import open_house, rows
from datacube_assets_tests.integration.test_s3 import use
from datacube_assets_tests.integration.versions import (
    AFTER,
    BEFORE,
    FEATURE,
    GONE,
    MODEL,
    RUN,
    VALUES,
    Versions,
    publish,
    upload,
)

Answers = dict[str, pa.Table]


def answers(cube: Datacube) -> Answers:
    """What both kinds of datacube can be asked, and answer."""
    found: Answers = {}
    for resolution, time in (("month", "2020-02"), ("year", "2020")):
        by: dict[str, Any] = {"resolution": resolution}
        found |= {
            f"{resolution} line": cube.timeseries(FEATURE, **by),
            f"{resolution} line of a region": cube.timeseries(FEATURE, region="Kenya__Nairobi", **by),
            f"{resolution} line by crop": cube.timeseries(FEATURE, qualifier="crop", **by),
            f"{resolution} regions": cube.regions(FEATURE, "admin1", time),
            f"{resolution} regions by crop": cube.regions(FEATURE, "country", time, qualifier="crop"),
            f"{resolution} statistics": cube.grid_stats(FEATURE, time),
            f"{resolution} tile": cube.tile(FEATURE, time, 4, 9, 8),
            f"{resolution} no tile": cube.tile(FEATURE, time, 8, 0, 0),
            f"{resolution} bounded": cube.bins(FEATURE, time, bounds=(30.0, -5.0, 38.0, 5.0)),
        }
        found |= {f"{resolution} bins {zoom}": cube.bins(FEATURE, time, zoom=zoom) for zoom in range(9)}
    # Published with ten decimals.
    summary = cube.summary()
    rounded = {name: pc.round(summary[name], 9) for name in summary.column_names if name != "feature"}
    return {**found, "summary": pa.table(rounded)}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions[Answers]]:
    with open_house(tmp_path_factory.mktemp("house") / "home") as house:
        house = house.with_settings(keep_versions=2)
        seen: Answers = {}
        for number, value in enumerate(VALUES, 1):
            publish(house, value)
            if number == BEFORE:
                seen = answers(open_datacube(house.bucket(), MODEL, RUN))
        yield Versions(house, seen)


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, versions: Versions[Answers]) -> Iterator[tuple[str, str]]:
    """Address of the lake, and of the S3 server it is on."""
    if request.param == "folder":
        yield str(versions.house.folder / "lake"), ""
        return
    server: S3Server = request.getfixturevalue("s3_server")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, server.environment())
        yield upload(versions.house, server, "read-versions").lake, server.endpoint


def opened(lake: tuple[str, str], version: int | None = None) -> LakeDatacube:
    return open_tables(lake[0], MODEL, RUN, version=version, s3_endpoint=lake[1])


def test_a_version_answers_as_its_objects_did_while_they_stood(
    lake: tuple[str, str], versions: Versions[Answers]
) -> None:
    found = answers(opened(lake, BEFORE))
    assert found.keys() == versions.seen.keys()
    assert [name for name in found if not found[name].equals(versions.seen[name])] == []
    # And is another one than what is published now.
    after = answers(opened(lake, AFTER))
    assert len([name for name in found if not found[name].equals(after[name])]) > 20
    now = answers(open_datacube(versions.house.bucket(), MODEL, RUN))
    assert [name for name in found if not now[name].equals(after[name])] == []


def test_versions_are_a_table(lake: tuple[str, str]) -> None:
    table = opened(lake).versions()
    assert table["number"].to_pylist() == [GONE, BEFORE, AFTER]
    assert table["state"].to_pylist() == ["replaced", "replaced", "published"]
    assert table["kept"].to_pylist() == [False, True, True]
    assert table["rows"].to_pylist() == [4, 4, 4]
    assert table["back_to"].to_pylist() == [None, None, None]
    published = table["published"].to_pylist()
    assert published == sorted(published)
    assert published[0].tzinfo is not None


def test_what_changed_is_told_as_by_the_command(lake: tuple[str, str], versions: Versions[Answers]) -> None:
    found = diff(opened(lake, BEFORE), opened(lake))
    with nothing_set():
        place = Place(versions.house.folder)
        said = place.json("diff", f"{MODEL}:{RUN}@{BEFORE}", f"{MODEL}:{RUN}")
    document = json.loads(json.dumps(found.document))
    assert document == {name: said[name] for name in document}
    assert found.figures["changed"] > 0
    assert (found.figures["came"], found.figures["went"]) == (0, 0)
    mover = found.movers.to_pylist()[0]
    assert (mover["month"], mover["before"], mover["after"]) == ("2020-02", 3.0, 30.0)
    assert set(found.by_feature["level"].to_pylist()) == {"global", "country", "admin1", "grid"}
    assert "figures, 0 came, 0 went" in repr(found)
    # A version and itself.
    assert diff(opened(lake, AFTER), opened(lake)).figures["changed"] == 0


def test_a_figure_of_a_version_leads_to_its_own_rows(lake: tuple[str, str]) -> None:
    values = {}
    for version in (BEFORE, AFTER):
        found = opened(lake, version).explain(FEATURE, "2020-02", region="Kenya")
        values[version] = found.value
        counted = [row["value"] for row in found.to_json()["rows"] if row["counted"]]
        assert counted == [found.value]
    assert values == {BEFORE: 3.0, AFTER: 30.0}


def test_tables_of_a_version_are_there_for_what_else_reads_parquet(lake: tuple[str, str]) -> None:
    import dask.dataframe as dd

    sums = {}
    for version in (BEFORE, AFTER):
        files = opened(lake, version).files("global_aggregates", "year/default/")
        read = dd.read_parquet(files.urls, storage_options=files.storage_options, columns=["s_sum_t_sum"])
        sums[version] = float(read.s_sum_t_sum.sum().compute())
    assert sums == {BEFORE: 10.0, AFTER: 37.0}


def test_a_version_without_tables_says_so(lake: tuple[str, str]) -> None:
    for version, words in (
        (GONE, "keeps no tables any more. Of 2, 3"),
        (7, "no version 7. There are 1 to 3"),
    ):
        cube = opened(lake, version)
        for question in (lambda cube=cube: cube.features, lambda cube=cube: diff(cube, opened(lake))):
            with pytest.raises(NoDataError, match=words):
                question()
    with pytest.raises(NoDataError, match="has no table"):
        diff(open_tables(lake[0], MODEL, "another", s3_endpoint=lake[1]), opened(lake))
    assert open_tables(lake[0], MODEL, "another", s3_endpoint=lake[1]).versions().num_rows == 0


def test_a_version_that_goes_while_it_is_read_says_so(tmp_path: Path) -> None:
    with open_house(tmp_path / "home") as house:
        house = house.with_settings(keep_versions=1)
        publish(house, VALUES[0])
        cube = open_tables(house.folder / "lake", MODEL, RUN, version=1)
        assert cube.features == [FEATURE]
        publish(house, VALUES[1])
        with pytest.raises(NoDataError, match="run@1 keeps no tables any more"):
            cube.timeseries(FEATURE)


def test_reading_versions_loads_neither_dagster_nor_pandas() -> None:
    program = (
        "import sys; from datacube_assets.read import diff, open_tables; "
        "print([name for name in ('dagster', 'pandas', 'dask') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_how_to_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The examples of docs/history.md, over a small run of the name that they have."""
    monkeypatch.chdir(tmp_path)
    with open_house(tmp_path / "datacube-home") as house:
        for value in VALUES[:2]:
            table = rows(value=value, feature=["yield"] * 4)
            house.publish(table, model_id="toy-crop-model", run_id="rainfall-low")
        page = (Path(__file__).parents[2] / "docs" / "history.md").read_text()
        examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        assert len(examples) == 2
        names: dict[str, Any] = {"__name__": "__main__"}
        for example in examples:
            exec(compile(example, "history.md", "exec"), names)
    said = capsys.readouterr().out
    assert "replaced" in said
    assert " figures changed" in said
    assert "9.0" in said, "what was before"
    assert Path(names["files"].urls[0]).is_file()

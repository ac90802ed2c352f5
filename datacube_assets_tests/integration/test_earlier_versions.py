"""Earlier versions of a datacube, in the read API and at the server of `datacube view`.

They are answered for by the tables that they keep. Every answer is held to what was said of the same version
while it was published: from its objects, kept when the second of three versions stood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datacube_assets.development.s3_server import S3Server
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.read import Datacube, LakeDatacube, NoDataError, diff, open_datacube, open_tables
from datacube_assets.settings import Settings
from datacube_assets.view.kept_version import Recent
from datacube_assets.view.server import application
from datacube_assets_tests.integration.operating import Place, nothing_set
from datacube_assets_tests.integration.support import FEBRUARY, JANUARY, open_house, rows
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
    ask,
    publish,
    upload,
)

Tables = dict[str, pa.Table]
Answers = dict[str, bytes]


@dataclass(frozen=True)
class Seen:
    """What was said of the second version while it was published."""

    tables: Tables
    answers: Answers


def tables_of(cube: Datacube) -> Tables:
    """What both kinds of datacube can be asked, and answer."""
    found: Tables = {}
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


KENYA = {"west": 30, "south": -5, "east": 38, "north": 5}


def questions() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every path of the page, and every file, with what is asked."""
    yield "api/run", {}
    yield "api/regions", {"feature": FEATURE}
    yield "api/qualifiers", {"feature": FEATURE}
    for level in ("country", "admin1"):
        yield "api/places", {"feature": FEATURE, "level": level}
    yield "api/place", {"feature": FEATURE, "z": 0, "x": 0, "y": 0, "bin": 2022}
    for resolution, timestamp in (("month", FEBRUARY), ("year", JANUARY), ("month", 0)):
        of: dict[str, Any] = {"feature": FEATURE, "resolution": resolution}
        yield "api/timeseries", of
        yield "api/timeseries", {**of, "level": "admin1", "region": "Kenya__Nairobi"}
        yield "api/timeseries", {**of, "level": "admin1", "region": "Kenya__Nowhere"}
        yield "api/timeseries", {**of, "qualifier": "crop", "value": "teff"}
        yield "api/timeseries", {**of, "qualifier": "crop", "value": "rice"}
        yield "api/regional", {**of, "level": "admin1", "timestamp": timestamp}
        broken_down = {"qualifier": "crop", "value": "maize"}
        yield "api/regional", {**of, "level": "country", "timestamp": timestamp, **broken_down}
        yield "api/ranges", of
        yield "api/ranges", {**of, "timestamp": timestamp}
        yield "api/area", {**of, **KENYA}
        for place in ("0/0/0", "4/9/8", "8/154/128", "8/0/0"):
            yield f"api/tiles/{place}", {**of, "timestamp": timestamp}
    for time in ("2020-02", "2020"):
        yield "api/explain", {"feature": FEATURE, "time": time, "level": "country", "region": "Kenya"}
        yield f"tiles/{MODEL}:{RUN}/{FEATURE}/{time}/4/9/8.png", {"palette": "magma"}
        regions: dict[str, Any] = {"feature": FEATURE, "level": "admin1", "time": time}
        for kind in ("csv", "geojson", "parquet"):
            yield f"download/regions.{kind}", {"key": f"{MODEL}:{RUN}", **regions}
    yield "api/table", {"table": "timeseries", "feature": FEATURE, "resolution": "month"}


def plain(body: bytes) -> bytes:
    """An answer without what tells the version."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    if isinstance(answer, dict):
        answer.pop("version", None)
        for row in answer.get("rows", ()):
            if isinstance(row, dict):
                row.pop("part", None)  # A part is where it lies.
    return json.dumps(answer, sort_keys=True).encode()


def answers(url: str, **more: object) -> Answers:
    found = {}
    for path, asked in questions():
        answer = ask(url, path, **asked, **more)
        found[f"{path} {asked}"] = b"%d %s" % (answer.status_code, plain(answer.content))
    return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Versions[Seen]]:
    with open_house(tmp_path_factory.mktemp("house") / "home") as house:
        house = house.with_settings(keep_versions=2)
        site.app = application(house.settings)
        seen = Seen({}, {})
        for number, value in enumerate(VALUES, 1):
            publish(house, value)
            if number == BEFORE:
                seen = Seen(tables_of(open_datacube(house.bucket(), MODEL, RUN)), answers(site.url))
        yield Versions(house, seen)


@pytest.fixture(scope="module")
def far(versions: Versions[Seen], s3_server: S3Server) -> Settings:
    """The same on a real S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        use(patch, s3_server.environment())
        return upload(versions.house, s3_server, "earlier-versions")


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, versions: Versions[Seen]) -> Iterator[Settings]:
    if request.param == "folder":
        yield versions.house.settings
        return
    settings: Settings = request.getfixturevalue("far")
    server: S3Server = request.getfixturevalue("s3_server")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, server.environment())
        yield settings


@pytest.fixture
def lake(settings: Settings) -> tuple[str, str]:
    """Address of the lake, and of the S3 server it is on."""
    return settings.lake, settings.s3_endpoint


@pytest.fixture
def url(settings: Settings, site: Site) -> str:
    site.app = application(settings)
    return site.url


# --- the read API ----------------------------------------------------------------------------------


def opened(lake: tuple[str, str], version: int | None = None) -> LakeDatacube:
    return open_tables(lake[0], MODEL, RUN, version=version, s3_endpoint=lake[1])


def test_a_version_answers_as_its_objects_did_while_they_stood(
    lake: tuple[str, str], versions: Versions[Seen]
) -> None:
    found = tables_of(opened(lake, BEFORE))
    assert found.keys() == versions.seen.tables.keys()
    assert [name for name in found if not found[name].equals(versions.seen.tables[name])] == []
    # And is another one than what is published now.
    after = tables_of(opened(lake, AFTER))
    assert len([name for name in found if not found[name].equals(after[name])]) > 20
    now = tables_of(open_datacube(versions.house.bucket(), MODEL, RUN))
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


def test_what_changed_is_told_as_by_the_command(lake: tuple[str, str], versions: Versions[Seen]) -> None:
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
        assert Path(names["files"].urls[0]).is_file()
        # Its tables go while somebody reads them.
        house = house.with_settings(keep_versions=1)
        house.publish(rows(feature=["yield"] * 4), model_id="toy-crop-model", run_id="rainfall-low")
        with pytest.raises(NoDataError, match="rainfall-low@1 keeps no tables any more"):
            names["before"].timeseries("yield")
    said = capsys.readouterr().out
    assert "replaced" in said
    assert " figures changed" in said
    assert "9.0" in said, "what was before"


# --- the server of `datacube view` -----------------------------------------------------------------


def test_an_earlier_version_answers_as_it_did_while_it_was_published(
    url: str, versions: Versions[Seen]
) -> None:
    found = answers(url, number=BEFORE)
    different = [f"{name}: {one!r} and {versions.seen.answers[name]!r}" for name, one in found.items()
                 if one != versions.seen.answers[name]]  # fmt: skip
    assert not different, "\n".join(different)


def test_the_published_version_by_its_number_answers_as_without(versions: Versions[Seen], site: Site) -> None:
    site.app = application(versions.house.settings)
    now, later = answers(site.url), answers(site.url, number=AFTER)
    assert [name for name in later if later[name] != now[name]] == []
    assert sum(versions.seen.answers[name] != now[name] for name in now) > 20


def test_answers_say_of_which_version_they_are_and_are_of_no_other(url: str) -> None:
    tokens = {number: ask(url, "api/version", number=number) for number in (BEFORE, AFTER)}
    tokens |= {0: ask(url, "api/version")}
    named = {number: answer.json()["version"] for number, answer in tokens.items()}
    assert len(set(named.values())) == 3
    assert tokens[BEFORE].headers["ETag"] == f'"{named[BEFORE]}"'
    of = {"feature": FEATURE, "resolution": "month", "timestamp": FEBRUARY}
    assert ask(url, "api/tiles/0/0/0", **of, number=BEFORE, version=named[BEFORE]).status_code == 200
    for number, version in ((BEFORE, named[AFTER]), (BEFORE, named[0]), (AFTER, named[0])):
        answer = ask(url, "api/tiles/0/0/0", **of, number=number, version=version)
        assert (answer.status_code, answer.json()["reason"]) == (409, "changed")
    assert ask(url, "api/tiles/0/0/0", **of, version=named[BEFORE]).json()["reason"] == "changed"


def test_a_version_without_tables_says_so_in_words(url: str) -> None:
    answer = ask(url, "api/run", number=GONE)
    assert (answer.status_code, answer.json()["reason"]) == (410, "gone")
    assert "version 1 keeps no tables any more. Of 2, 3 there are tables" in answer.json()["detail"]
    answer = ask(url, "api/run", number=9)
    assert (answer.status_code, answer.json()["reason"]) == (410, "gone")
    assert "it has no version 9. There are 1 to 3" in answer.json()["detail"]
    answer = ask(url, "api/run", number=1, run_id="never")
    assert (answer.status_code, answer.json()["reason"]) == (410, "gone")
    assert "Nothing of it was ever published" in answer.json()["detail"]
    for odd in ("0", "-1", "soon", "1.5", "9" * 40):
        assert ask(url, "api/run", number=odd).status_code == 400


@pytest.mark.parametrize("model", ["..", "a/../../b", "/etc", "a\0b"])
@pytest.mark.parametrize("path", ["api/run", "api/versions", "api/version"])
def test_no_name_leads_out_of_the_lake(site: Site, versions: Versions[Seen], path: str, model: str) -> None:
    site.app = application(versions.house.settings)
    assert ask(site.url, path, model_id=model, number=1).status_code == 400


def test_the_history_is_listed_with_what_can_be_compared(url: str) -> None:
    newest, before, gone = ask(url, "api/versions").json()["versions"]
    assert [one["number"] for one in (newest, before, gone)] == [AFTER, BEFORE, GONE]
    assert [one["kept"] for one in (newest, before, gone)] == [True, True, False]
    assert [one["before"] for one in (newest, before, gone)] == [BEFORE, None, None]
    assert newest["most"] == {"feature": FEATURE, "month": "2020-02"}
    assert newest["changed"]["changed"] > 0
    assert ask(url, "api/versions", run_id="never").json() == {"versions": []}


def test_what_only_objects_have_is_not_answered_from_others(url: str) -> None:
    assert ask(url, "api/about", number=BEFORE).status_code == 400
    for table in ("extrema", "rows"):
        of = {"table": table, "feature": FEATURE, "level": "country", "resolution": "month"}
        answer = ask(url, "api/table", **of, number=BEFORE)
        assert answer.status_code == 404
        assert "published version only" in answer.json()["detail"]
        assert ask(url, "api/table", **of).status_code == 200


def test_tilejson_leads_to_tiles_of_its_version(url: str) -> None:
    answer = ask(url, f"tiles/{MODEL}:{RUN}/{FEATURE}/2020-02.json", number=BEFORE).json()
    (address,) = answer["tiles"]
    assert f"number={BEFORE}" in address
    now = ask(url, f"tiles/{MODEL}:{RUN}/{FEATURE}/2020-02.json").json()
    assert "number" not in now["tiles"][0]
    assert now["bounds"] == answer["bounds"]


def test_the_memory_of_grids_is_bounded() -> None:
    recent = Recent(largest=1000)
    grids = {key: pa.table({"x": np.full(50, number)}) for number, key in enumerate("abc")}
    for key in "ab":
        recent.put(key, grids[key])
    assert recent.get("a") is grids["a"]
    recent.put("c", grids["c"])
    # The one that was used last stays.
    assert [recent.get(key) is not None for key in "abc"] == [True, False, True]
    recent.put("large", pa.table({"x": np.zeros(1000)}))
    assert recent.get("large") is None
    assert recent.get("c") is grids["c"]

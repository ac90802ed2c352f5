"""The server of `datacube view` about an earlier version: it answers from tables as it did from objects.

Every answer about the second version is kept while it is published, and asked for again by its number when
the third one stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datacube_assets.development.s3_server import S3Server
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.view.of_tables import Recent
from datacube_assets.view.server import application
from datacube_assets_tests.integration.support import FEBRUARY, JANUARY, open_house
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

Answers = dict[str, bytes]
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
def versions(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Versions[Answers]]:
    with open_house(tmp_path_factory.mktemp("house") / "home") as house:
        house = house.with_settings(keep_versions=2)
        site.app = application(house.settings)
        seen: Answers = {}
        for number, value in enumerate(VALUES, 1):
            publish(house, value)
            if number == BEFORE:
                seen = answers(site.url)
        yield Versions(house, seen)


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, versions: Versions[Answers], site: Site) -> Iterator[str]:
    """The page over a folder, and over a real S3 server."""
    settings = versions.house.settings
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            use(patch, server.environment())
            settings = upload(versions.house, server, "view-versions")
        site.app = application(settings)
        yield site.url


def test_an_earlier_version_answers_as_it_did_while_it_was_published(
    url: str, versions: Versions[Answers]
) -> None:
    found = answers(url, number=BEFORE)
    different = [f"{name}: {one!r} and {versions.seen[name]!r}" for name, one in found.items()
                 if one != versions.seen[name]]  # fmt: skip
    assert not different, "\n".join(different)
    now = answers(url)
    assert sum(found[name] != now[name] for name in found) > 20
    later = answers(url, number=AFTER)
    assert [name for name in later if later[name] != now[name]] == []


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
def test_no_name_leads_out_of_the_lake(
    site: Site, versions: Versions[Answers], path: str, model: str
) -> None:
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

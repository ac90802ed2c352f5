"""Keys of the published objects: what the reader asks for, and nothing that climbs."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datacube_assets.kernels import keys
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.key_safety import check_keys
from datacube_assets_tests.unit import kernel_helpers  # noqa: F401  (loads the profile of hypothesis)

NASTY = st.text(st.sampled_from("/.\x00\n\x1f\x7fa%2FE"), max_size=8)


def asked_for(region: str) -> str:
    """The key that the reader asks for: names as they are, its S3 client makes one `/` of several."""
    return re.sub("//+", "/", f"month/yield/regional/country/timeseries/default/{region}.csv")


def made(region: str) -> str:
    names = pa.array([keys.segment("yield")]), pa.array([keys.segment(region)])
    key = keys.regional_timeseries("month", "country", *names)
    assert key.to_pylist() == [
        keys.regional_timeseries("month", "country", *(one[0] for one in names)).as_py()
    ]
    return str(key[0].as_py())


def climbs(key: str) -> bool:
    return any(part in (".", "..") for part in key.split("/"))


@settings(max_examples=200)
@given(st.one_of(st.text(), NASTY))
def test_no_key_leaves_its_folder_or_has_an_empty_part(name: str) -> None:
    key = made(name)
    assert key.startswith("month/yield/regional/country/timeseries/default/")
    assert not climbs(key)
    assert "//" not in key
    check_keys([key])


@settings(max_examples=200)
@given(st.one_of(st.text(), NASTY))
def test_difference_19_a_key_is_what_the_reader_asks_for_unless_it_would_climb_or_nobody_can_ask(
    name: str,
) -> None:
    if name and "\x00" not in name and not climbs(asked_for(name)):
        assert made(name) == asked_for(name)


@settings(max_examples=200)
@given(st.lists(NASTY, unique=True))
def test_two_names_of_one_key_are_known_to_be_possible(names: list[str]) -> None:
    if not keys.may_share(pa.array(names, pa.string())):
        assert len({made(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Maize [t/ha] (50%)", "default/Maize [t/ha] (50%).csv"),
        ('Côte d\'Ivoire, "x"', 'default/Côte d\'Ivoire, "x".csv'),
        ("...", "default/....csv"),
        (".", "default/..csv"),
        ("..", "default/...csv"),
        ("a..b/..c", "default/a..b/..c.csv"),
        ("../../etc", "default/%2E%2E/%2E%2E/etc.csv"),
        ("a/./b", "default/a/%2E/b.csv"),
        ("./.", "default/%2E/..csv"),
        ("/a", "default/a.csv"),
        ("trail/", "default/trail/.csv"),
        ("a//b", "default/a/b.csv"),
        ("//", "default/.csv"),
        ("/../x", "default/%2E%2E/x.csv"),
        ("a\nb\r\t\x01\x7f", "default/a\nb\r\t\x01\x7f.csv"),
        ("nul\x00", "default/nul%00.csv"),
        ("", "default/%empty.csv"),
    ],
)
def test_a_key_is_changed_only_where_it_must_be(name: str, key: str) -> None:
    assert made(name).endswith(f"/timeseries/{key}")


def test_a_qualifier_value_called_as_a_folder_is_a_part_of_its_own_and_is_encoded() -> None:
    values = pa.array(["..", ".", "...", "a//b", "/lead", "trail/", ""])
    same = [pa.array([name] * len(values)) for name in ("f", "r")]
    found = keys.regional_qualifier_timeseries(
        "year", "country", same[0], "q", keys.segments(values), same[1]
    )
    prefix = "year/f/regional/country/timeseries/qualifiers/q/"
    assert [key.removeprefix(prefix) for key in found.to_pylist()] == [
        "%2E%2E/r.csv", "%2E/r.csv", ".../r.csv", "a/b/r.csv", "lead/r.csv", "trail/r.csv", "%empty/r.csv"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/", "a\\b", "a\nb", "a\x00"])
def test_an_id_that_leaves_its_folder_is_refused_with_its_name_and_a_remedy(name: str) -> None:
    with pytest.raises(InputError) as caught:
        keys.check_identity("model id", name)
    assert f"the model id {name!r}" in str(caught.value)
    assert "Give a model id that is not empty" in str(caught.value)


@pytest.mark.parametrize("name", ["..", "a/../b", "../../other/run", "./x", "x/."])
def test_a_feature_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="the feature") as caught:
        keys.check_feature(name)
    assert caught.value.column == "feature"


@pytest.mark.parametrize("name", ["yield", "t/ha", "a//b", 'Ünïcode, "quoted"', "..."])
def test_odd_but_legal_features_are_accepted(name: str) -> None:
    keys.check_feature(name)


@pytest.mark.parametrize("name", ["dssat", "2ddd2cbe-364b-4520-a28e-a5691227db39", ".x", "a b", "..."])
def test_plain_ids_are_accepted(name: str) -> None:
    keys.check_identity("run id", name)


def test_every_family_has_the_key_that_the_reader_asks_for() -> None:
    one = pa.array(["t/ha"]), pa.array(["maize"]), pa.array(["Kenya__Nairobi"])
    feature, value, region = one
    stamp, x, y = pa.array(["-302486400000"]), pa.array(["1"]), pa.array(["2"])
    made = [
        keys.run_prefix("dssat", "run-1"),
        keys.raw("t/ha"),
        keys.region_lists("t/ha"),
        keys.qualifier_list("t/ha", "crop"),
        keys.qualifier_counts("t/ha"),
        keys.global_timeseries("month", "t/ha"),
        keys.qualifier_timeseries("year", "t/ha", "crop", "s_count"),
        *keys.regional_timeseries("month", "admin1", feature, region).to_pylist(),
        *keys.regional_qualifier_timeseries("month", "admin1", feature, "crop", value, region).to_pylist(),
        keys.regional_map("year", "admin1", "t/ha", -5, None),
        keys.regional_map("year", "admin1", "t/ha", 0, "crop"),
        keys.regional_extrema("month", "admin3", "t/ha"),
        keys.grid_stats("month", "t/ha", 7),
        *keys.tiles("month", 8, feature, stamp, x, y).to_pylist(),
        keys.RESULTS,
    ]
    assert made == [
        "dssat/run-1/",
        "raw/t/ha/raw/raw.csv",
        "raw/t/ha/info/region_lists.json",
        "raw/t/ha/info/qualifiers/crop.json",
        "raw/t/ha/info/qualifier_counts.json",
        "month/t/ha/timeseries/global/global.csv",
        "year/t/ha/timeseries/qualifiers/crop/s_count.csv",
        "month/t/ha/regional/admin1/timeseries/default/Kenya__Nairobi.csv",
        "month/t/ha/regional/admin1/timeseries/qualifiers/crop/maize/Kenya__Nairobi.csv",
        "year/t/ha/regional/admin1/aggs/-5/default/default.csv",
        "year/t/ha/regional/admin1/aggs/0/qualifiers/crop.csv",
        "month/t/ha/regional/admin3/stats/default/extrema.json",
        "month/t/ha/stats/grid/7.csv",
        "month/t/ha/tiles/-302486400000-8-1-2.tile",
        "results/results.json",
    ]

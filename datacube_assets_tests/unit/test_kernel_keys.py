"""Keys of the published objects: names from outside can neither climb nor vanish."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datacube_assets.kernels import keys
from datacube_assets.kernels.errors import InputError
from datacube_assets_tests.unit import kernel_helpers  # noqa: F401  (loads the profile of hypothesis)

PLAIN = re.compile(r"[^\x00-\x1f\x7f]+")
NASTY = st.text(st.sampled_from("/.\x00\n\x1f\x7fa%2FE"), max_size=8)


def harmless(name: str) -> bool:
    return PLAIN.fullmatch(name) is not None and all(part not in ("", ".", "..") for part in name.split("/"))


@settings(max_examples=200)
@given(st.one_of(st.text(), NASTY))
def test_a_segment_never_climbs_vanishes_or_holds_control_characters(name: str) -> None:
    assert harmless(keys.segment(name))


@settings(max_examples=200)
@given(st.one_of(st.text(), NASTY))
def test_a_harmless_name_stands_in_a_key_as_it_is(name: str) -> None:
    if harmless(name):
        assert keys.segment(name) == name


@settings(max_examples=200)
@given(st.lists(NASTY, unique=True))
def test_names_that_had_to_be_changed_stay_different(names: list[str]) -> None:
    changed = [keys.segment(name) for name in names if not harmless(name)]
    assert len(set(changed)) == len(changed)


@settings(max_examples=200)
@given(NASTY)
def test_a_changed_name_can_be_read_back(name: str) -> None:
    if name and not harmless(name):
        assert unquote(keys.segment(name), errors="strict") == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Maize [t/ha] (50%)", "Maize [t/ha] (50%)"),
        ('Côte d\'Ivoire, "x"', 'Côte d\'Ivoire, "x"'),
        ("...", "..."),
        (".hidden", ".hidden"),
        ("a..b/..c", "a..b/..c"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("../../etc", "%2E%2E/%2E%2E/etc"),
        ("a/./b", "a/%2E/b"),
        ("/a", "%2Fa"),
        ("a/", "a%2F"),
        ("a//b", "a%2F/b"),
        ("//", "%2F%2F"),
        ("/../x", "%2F../x"),
        ("a\nb", "a%0Ab"),
        ("5%\t", "5%25%09"),
        ("", "%empty"),
    ],
)
def test_a_segment_is_changed_only_where_it_must_be(name: str, expected: str) -> None:
    assert keys.segment(name) == expected
    assert keys.segments(pa.array([name])).to_pylist() == [expected]


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

from __future__ import annotations

from typing import Any

import pytest

from datacube_assets.dojo.derive import request_for_indicator, request_for_run
from datacube_assets.dojo.documents import IndicatorDocument, ModelDocument, RunDocument
from datacube_assets.dojo.request import DatacubeRequest

NINE_COLUMNS = ("timestamp", "country", "admin1", "admin2", "admin3", "lat", "lng", "feature", "value")


PATHS = [
    "https://b/r1_m1.2.parquet.gzip",
    "https://b/r1_m1_str.1.parquet.gzip",
    "https://b/r1_m1.1.parquet.gzip",
]
RUN = RunDocument.model_validate(
    {"id": "r1", "model_id": "m1", "data_paths": PATHS, "attributes": {"status": "success"}}
)
OUTPUTS = [
    {"name": "yield", "type": "float"},
    {"name": "area", "type": "int"},
    {"name": "irrigated", "type": "boolean"},
    {"name": "harvest", "type": "datetime"},
    {"name": "variety", "type": "str"},
    {"name": "place", "type": "lat"},
]
NUMERIC = ["yield", "area", "irrigated", "harvest"]


def qualifier(name: str, *features: str, role: str | None = None) -> dict[str, Any]:
    return {"name": name, "related_features": list(features), "qualifier_role": role}


def of_model(qualifiers: list[dict[str, Any]] | None) -> DatacubeRequest:
    model = ModelDocument.model_validate({"id": "m1", "outputs": OUTPUTS, "qualifier_outputs": qualifiers})
    return request_for_run(RUN, model)


def of_dataset(qualifiers: list[dict[str, Any]] | None, **changes: Any) -> DatacubeRequest:
    raw = {"id": "d1", "data_paths": PATHS, "outputs": OUTPUTS, "qualifier_outputs": qualifiers}
    return request_for_indicator(IndicatorDocument.model_validate(raw | changes))


def test_a_model_run_is_asked_for_by_its_model_and_run_and_waits_for_itself() -> None:
    request = of_model(None)
    assert (request.model_id, request.run_id, request.is_indicator) == ("m1", "r1", False)
    assert request.doc_ids == ("r1",)


def test_a_dataset_is_asked_for_as_run_indicator_and_nobody_waits() -> None:
    request = of_dataset(None)
    assert (request.model_id, request.run_id, request.is_indicator) == ("d1", "indicator", True)
    assert request.doc_ids is None


def test_documents_that_wait_for_a_dataset_can_be_named() -> None:
    indicator = IndicatorDocument.model_validate({"id": "d1"})
    assert request_for_indicator(indicator, ["a", "b"]).doc_ids == ("a", "b")


@pytest.mark.parametrize("derive", [of_model, of_dataset])
def test_data_paths_are_passed_on_unchanged(derive: Any) -> None:
    assert derive(None).data_paths == tuple(PATHS)


@pytest.mark.parametrize("derive", [of_model, of_dataset])
def test_thresholds_are_the_constants_of_causemos(derive: Any) -> None:
    thresholds = derive(None).qualifier_thresholds
    assert thresholds.model_dump() == {
        "max_count": 10000,
        "regional_timeseries_count": 100,
        "regional_timeseries_max_level": 1,
    }


@pytest.mark.parametrize("derive", [of_model, of_dataset])
def test_what_causemos_never_sends_is_left_as_configured(derive: Any) -> None:
    request = derive(None)
    assert (request.fill_timestamp, request.raw_count_threshold) == (0, 10000)
    assert (request.selected_output_tasks, request.model_bucket, request.indicator_bucket) == (
        None,
        None,
        None,
    )


def test_the_request_carries_the_version_of_what_it_was_derived_from() -> None:
    assert of_model(None).source_version == RUN.version
    assert of_dataset(None).source_version != of_dataset([], data_paths=PATHS[:1]).source_version


def test_a_model_without_qualifiers_stated_has_no_map() -> None:
    assert of_model(None).qualifier_map == {}


def test_every_output_of_a_model_is_mapped_whatever_its_type() -> None:
    assert list(of_model([]).qualifier_map) == [output["name"] for output in OUTPUTS]


@pytest.mark.parametrize("qualifiers", [None, []])
def test_only_numeric_outputs_of_a_dataset_are_mapped(qualifiers: list[dict[str, Any]] | None) -> None:
    assert of_dataset(qualifiers).qualifier_map == dict.fromkeys(NUMERIC, ())


@pytest.mark.parametrize("derive", [of_model, of_dataset])
@pytest.mark.parametrize(
    ("qualifiers", "expected"),
    [
        pytest.param([qualifier("crop", "yield")], ("crop",), id="no role is a breakdown"),
        pytest.param([qualifier("crop", "yield", role="")], ("crop",), id="an empty role is a breakdown"),
        pytest.param([qualifier("crop", "yield", role="breakdown")], ("crop",), id="breakdown"),
        pytest.param([qualifier("crop", "yield", role="weight")], (), id="weight"),
        pytest.param([qualifier("crop", "yield", role="statistics")], (), id="statistics"),
        pytest.param([qualifier("crop", "yield", role="tooltip")], (), id="tooltip"),
        pytest.param([qualifier("crop", "area")], (), id="of another feature"),
        pytest.param([qualifier("crop")], (), id="of no feature"),
        pytest.param(
            [qualifier("b", "yield"), qualifier("a", "area", "yield")],
            ("b", "a"),
            id="in the document's order",
        ),
        *(
            pytest.param([qualifier(name, "yield", role="breakdown")], (), id=f"implicit {name}")
            for name in NINE_COLUMNS
        ),
    ],
)
def test_qualifiers_break_down_the_features_they_are_related_to(
    derive: Any, qualifiers: list[dict[str, Any]], expected: tuple[str, ...]
) -> None:
    assert derive(qualifiers).qualifier_map["yield"] == expected


@pytest.mark.parametrize("derive", [of_model, of_dataset])
@pytest.mark.parametrize(
    ("qualifiers", "expected"),
    [
        pytest.param(None, "", id="no qualifiers"),
        pytest.param([qualifier("crop", "yield")], "", id="no weight among them"),
        pytest.param([qualifier("w", "yield", role="weight")], "w", id="a weight"),
        pytest.param([qualifier("w", "variety", role="weight")], "w", id="whatever feature it is related to"),
        pytest.param([qualifier("w", role="weight")], "", id="related to no feature"),
        pytest.param([qualifier("value", "yield", role="weight")], "", id="implicit"),
        pytest.param(
            [
                qualifier("u", role="weight"),
                qualifier("w", "area", role="weight"),
                qualifier("v", "yield", role="weight"),
            ],
            "w",
            id="the first that qualifies",
        ),
    ],
)
def test_one_weight_column_serves_all_features(
    derive: Any, qualifiers: list[dict[str, Any]] | None, expected: str
) -> None:
    assert derive(qualifiers).weight_column == expected


def test_a_run_and_another_model_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="belongs to model m1, not to m2"):
        request_for_run(RUN, ModelDocument.model_validate({"id": "m2"}))

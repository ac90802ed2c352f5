from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacube_assets.dojo.documents import (
    IndicatorDocument,
    ModelDocument,
    RunDocument,
    is_string_part,
    parse_documents,
)

RUN: dict[str, Any] = {
    "id": "r1",
    "model_id": "m1",
    "model_name": "Toy",
    "created_at": 1672531200000,
    "data_paths": ["https://bucket/r1/r1_m1.1.parquet.gzip", "https://bucket/r1/r1_m1_str.1.parquet.gzip"],
    "attributes": {"status": "success", "executed_at": "2023-01-01 00:12:09"},
    "parameters": [{"name": "rainfall", "value": "0.7"}],
    "tags": [],
}
INDICATOR: dict[str, Any] = {
    "id": "d1",
    "name": "Toy prices",
    "created_at": 1672531200000,
    "data_paths": ["https://bucket/d1/d1.parquet.gzip"],
    "outputs": [{"name": "price", "type": "float", "unit": "USD"}],
    "qualifier_outputs": [{"name": "market", "related_features": ["price"]}],
    "published": True,
    "deprecated": False,
}


def run(**changes: Any) -> RunDocument:
    return RunDocument.model_validate(RUN | changes)


def indicator(**changes: Any) -> IndicatorDocument:
    return IndicatorDocument.model_validate(INDICATOR | changes)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://b/r_m.1.parquet.gzip", False),
        ("https://b/r_m.parquet.gzip", False),
        ("https://b/r_m_str.1.parquet.gzip", True),
        ("https://b/d_str.parquet.gzip", True),
        ("https://b/d_str_2.parquet.gzip", True),
        ("https://b/d_str_12.parquet.gzip", True),
        ("s3://b/d_str.parquet.gzip", True),
        ("https://b/d_strx.parquet.gzip", False),
        ("https://b/d_str.parquet.gzip.bak", False),
        ("https://b/_str.parquet.gzip/d.parquet.gzip", False),
    ],
)
def test_string_parts_are_known_by_their_name(path: str, expected: bool) -> None:
    assert is_string_part(path) is expected


@pytest.mark.parametrize("status", ["success", "Success", "SUCCESS"])
def test_a_run_is_ready_when_it_succeeded_in_any_case_of_letters(status: str) -> None:
    assert run(attributes={"status": status}).is_ready


@pytest.mark.parametrize(
    "changes",
    [
        {"attributes": None},
        {"attributes": {}},
        {"attributes": {"status": None}},
        {"attributes": {"status": "Running"}},
        {"attributes": {"status": "running"}},
        {"attributes": {"status": "failed"}},
        {"data_paths": []},
        {"data_paths": None},
        {"data_paths": ["https://b/r_m_str.1.parquet.gzip"]},
    ],
)
def test_a_run_is_not_ready_otherwise(changes: dict[str, Any]) -> None:
    assert not run(**changes).is_ready


def test_a_run_without_attributes_is_not_ready() -> None:
    assert not RunDocument.model_validate(
        {"id": "r", "model_id": "m", "data_paths": ["a.parquet.gzip"]}
    ).is_ready


@pytest.mark.parametrize(
    ("changes", "ready"),
    [
        ({}, True),
        ({"deprecated": None}, True),
        ({"published": False}, False),
        ({"published": None}, False),
        ({"deprecated": True}, False),
        ({"data_paths": []}, False),
        ({"data_paths": ["https://b/d_str.parquet.gzip"]}, False),
        ({"period": {"gte": 2, "lte": 1}, "qualifier_outputs": None}, True),
    ],
)
def test_a_dataset_is_ready_when_published_not_deprecated_and_with_numbers(
    changes: dict[str, Any], ready: bool
) -> None:
    assert indicator(**changes).is_ready is ready


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "r2"},
        {"attributes": {"status": "success", "executed_at": "2023-01-02 00:00:00"}},
        {"data_paths": ["https://bucket/r1/r1_m1.1.parquet.gzip"]},
    ],
)
def test_a_re_executed_run_has_another_version(changes: dict[str, Any]) -> None:
    assert run(**changes).version != run().version


@pytest.mark.parametrize(
    "changes",
    [
        {"tags": ["new"]},
        {"created_at": "1672531200000"},
        {"model_name": "Renamed"},
        {"data_paths": RUN["data_paths"][::-1]},
    ],
)
def test_other_changes_of_a_run_leave_its_version(changes: dict[str, Any]) -> None:
    assert run(**changes).version == run().version


@pytest.mark.parametrize(
    "changes",
    [
        {"data_paths": [*INDICATOR["data_paths"], "https://bucket/d1/d1_1.parquet.gzip"]},
        {"outputs": [{"name": "price", "type": "str"}]},
        {"outputs": [*INDICATOR["outputs"], {"name": "cost", "type": "float"}]},
        {"qualifier_outputs": []},
        {
            "qualifier_outputs": [
                {"name": "market", "related_features": ["price"], "qualifier_role": "weight"}
            ]
        },
    ],
)
def test_a_dataset_with_other_parts_features_or_qualifiers_has_another_version(
    changes: dict[str, Any],
) -> None:
    assert indicator(**changes).version != indicator().version


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "new"},
        {"outputs": [{"name": "price", "type": "float", "unit": "EUR"}]},
    ],
)
def test_other_changes_of_a_dataset_leave_its_version(changes: dict[str, Any]) -> None:
    assert indicator(**changes).version == indicator().version


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(17, 17), ("17", 17), (17.0, 17), (None, None), ("yesterday", None), ([], None), (float("nan"), None)],
)
def test_a_creation_time_that_cannot_be_read_is_unknown(raw: object, expected: int | None) -> None:
    assert run(created_at=raw).created_at == expected


def test_a_model_keeps_the_difference_between_no_qualifiers_and_none_stated() -> None:
    assert ModelDocument.model_validate({"id": "m", "qualifier_outputs": None}).qualifier_outputs is None
    assert ModelDocument.model_validate({"id": "m", "qualifier_outputs": []}).qualifier_outputs == ()


def test_a_malformed_document_is_reported_and_does_not_stop_the_others() -> None:
    raw = [
        RUN,
        RUN | {"id": "bad paths", "data_paths": "https://user:secret@host/a.parquet.gzip"},
        RUN | {"id": "no model", "model_id": None},
        RUN | {"id": 7},
        {},
        None,
        "text",
        RUN | {"id": "r2", "attributes": []},
        RUN | {"id": "r3"},
    ]
    runs, problems = parse_documents(RunDocument, raw)
    assert [r.id for r in runs] == ["r1", "r3"]
    assert [p.id for p in problems] == ["bad paths", "no model", "?", "?", "?", "?", "r2"]
    assert problems[0].reason.startswith("data_paths: ")
    assert problems[1].reason == "model_id: Field required"
    assert "secret" not in str(problems)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*RUN, "status"]), inner),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=5))
def test_whatever_dojo_lists_becomes_a_document_or_a_problem(raw: list[object]) -> None:
    runs, problems = parse_documents(RunDocument, raw)
    assert len(runs) + len(problems) == len(raw)


def test_a_dataset_published_again_under_the_same_addresses_has_another_version() -> None:
    assert indicator(created_at=1).version != indicator(created_at=2).version

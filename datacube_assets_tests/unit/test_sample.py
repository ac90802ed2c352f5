"""The sample: the same bytes every time, complete Dojo documents, files of Dojo's form, a plausible world."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from datacube_assets.development.sample import (
    FILES_PLACEHOLDER,
    SAMPLE_DATASET,
    SAMPLE_MODEL,
    SAMPLE_PARTITIONS,
    SAMPLE_RAINFALL,
    write_sample,
)

FIXED = ["timestamp", "country", "admin1", "admin2", "admin3", "lat", "lng", "feature", "value"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def document(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def tables(sample: Path, document: dict[str, Any]) -> list[pa.Table]:
    addresses = [path.replace(FILES_PLACEHOLDER, str(sample / "files")) for path in document["data_paths"]]
    return [pq.read_table(address) for address in addresses]


def run_table(sample: Path, run_id: str) -> pa.Table:
    return pa.concat_tables(tables(sample, document(sample / "runs" / f"{run_id}.json")))


def test_writing_again_changes_no_byte(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path)
    first = contents(tmp_path)
    write_sample(tmp_path)
    assert first == contents(tmp_path) == contents(sample)


def test_the_folder_holds_what_the_documents_name_and_nothing_else(sample: Path) -> None:
    names = sorted(contents(sample))
    assert [name for name in names if not name.startswith("files/")] == [
        f"indicators/{SAMPLE_DATASET}.json",
        f"models/{SAMPLE_MODEL}.json",
        *sorted(f"runs/{run_id}.json" for run_id in SAMPLE_RAINFALL),
    ]
    documents = [document(sample / name) for name in names if name.endswith(".json")]
    named = [path for found in documents for path in found.get("data_paths", [])]
    assert sorted(path.removeprefix(f"{FILES_PLACEHOLDER}/") for path in named) == [
        name.removeprefix("files/") for name in names if name.startswith("files/")
    ]


def test_partitions_name_every_run_and_the_dataset(sample: Path) -> None:
    runs = [document(path) for path in (sample / "runs").iterdir()]
    keys = {f"{run['model_id']}:{run['id']}" for run in runs} | {f"{SAMPLE_DATASET}:indicator"}
    assert keys == set(SAMPLE_PARTITIONS)


def test_run_documents_are_those_of_finished_runs(sample: Path) -> None:
    for run_id, rainfall in SAMPLE_RAINFALL.items():
        run = document(sample / "runs" / f"{run_id}.json")
        required = {"id", "model_name", "model_id", "created_at", "data_paths", "parameters", "tags"}
        assert required <= run.keys()
        assert run["attributes"] == {"status": "success", "executed_at": "2023-01-01 00:12:09"}
        assert run["parameters"] == [{"name": "rainfall", "value": rainfall}]
        assert run["is_default_run"] is (run_id == "rainfall-normal")


@pytest.mark.parametrize("name", [f"models/{SAMPLE_MODEL}", f"indicators/{SAMPLE_DATASET}"])
def test_documents_describe_the_columns_and_features_of_the_files(sample: Path, name: str) -> None:
    found = document(sample / f"{name}.json")
    required = {"id", "name", "family_name", "description", "maintainer", "image", "outputs", "period"}
    assert required <= found.keys()
    data = tables(sample, found) if "data_paths" in found else [run_table(sample, "rainfall-normal")]
    features = {output["name"] for output in found["outputs"]}
    assert set(data[0]["feature"].unique().to_pylist()) == features
    qualifiers = {qualifier["name"] for qualifier in found["qualifier_outputs"]}
    assert set(data[0].column_names) - set(FIXED) - {"__index_level_0__"} == qualifiers - {*FIXED, "date"}
    assert all(set(qualifier["related_features"]) == features for qualifier in found["qualifier_outputs"])
    countries = data[0]["country"].unique().to_pylist()
    assert found["geography"]["country"] == sorted(countries)


def test_roles_say_what_breaks_down_and_what_weighs(sample: Path) -> None:
    model = document(sample / "models" / f"{SAMPLE_MODEL}.json")
    dataset = document(sample / "indicators" / f"{SAMPLE_DATASET}.json")
    roles = {
        q["name"]: q["qualifier_role"] for q in model["qualifier_outputs"] + dataset["qualifier_outputs"]
    }
    assert (roles["crop"], roles["market"], roles["population"]) == ("breakdown", "breakdown", "weight")
    assert dataset["published"]
    assert not dataset["deprecated"]


def test_files_look_as_if_dojo_had_written_them(sample: Path) -> None:
    string, double, integer = pa.string(), pa.float64(), pa.int64()
    for path in sorted((sample / "files").iterdir()):
        table = pq.read_table(path)
        dataset = path.name.startswith(SAMPLE_DATASET)
        qualifiers = {"market": string, "population": integer} if dataset else {"crop": string}
        types = {"timestamp": integer, "feature": string} | dict.fromkeys(FIXED[1:4], string)
        types |= dict.fromkeys(("admin3", "lat", "lng", "value"), double)
        assert table.column_names == [*FIXED, *qualifiers, "__index_level_0__"]
        assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
            **types, **qualifiers, "__index_level_0__": integer,
        }  # fmt: skip
        group = pq.read_metadata(path).row_group(0)
        assert {group.column(column).compression for column in range(group.num_columns)} == {"GZIP"}
        assert "__index_level_0__" not in table.to_pandas().columns
        assert (table.to_pandas()["timestamp"] % 86_400_000 == 0).all()
        empty = {"admin3", "lat", "lng"} if dataset else {"admin3"}
        assert {name for name in table.column_names if table[name].null_count == len(table)} == empty


@pytest.mark.parametrize("run_id", SAMPLE_RAINFALL)
def test_a_run_has_two_features_three_crops_and_twenty_four_months_on_a_grid(
    sample: Path, run_id: str
) -> None:
    table = run_table(sample, run_id)
    assert set(table["feature"].unique().to_pylist()) == {"yield", "harvested area"}
    assert set(table["crop"].unique().to_pylist()) == {"maize", "teff", "sorghum"}
    assert len(table["timestamp"].unique()) == 24
    assert len(table) == 6_912
    frame = table.to_pandas()
    assert (frame[["lat", "lng"]] % 0.25 == 0).all(axis=None)
    assert not frame.duplicated(["timestamp", "lat", "lng", "feature", "crop"]).any()
    assert frame["value"].between(0.1, 20_000).all()


def test_drought_costs_harvest_but_sorghum_bears_it_best(sample: Path) -> None:
    means = {}
    for run_id in SAMPLE_RAINFALL:
        frame = run_table(sample, run_id).to_pandas().query("feature == 'yield'")
        means[run_id] = frame.groupby("crop")["value"].mean()
    loss = 1 - means["rainfall-low"] / means["rainfall-normal"]
    assert (loss > 0).all()
    assert loss.idxmin() == "sorghum"
    assert means["rainfall-high"]["maize"] > means["rainfall-normal"]["maize"]


def test_the_dataset_has_weekly_prices_of_twenty_markets_with_some_missing(sample: Path) -> None:
    (table,) = tables(sample, document(sample / "indicators" / f"{SAMPLE_DATASET}.json"))
    assert len(table) == 20 * 104
    assert len(table["market"].unique()) == 20
    assert 0 < table["value"].null_count < 42
    assert pc.min(table["population"]).as_py() > 0


def test_writing_the_sample_needs_no_dagster() -> None:
    code = "import sys, datacube_assets.development.sample; print('dagster' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"

"""`datacube compare` against what the original published: it finds them equal, and a changed number too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datacube_assets_tests.integration.operating import Place, nothing_set

CASES = {
    "hopper": (["hopper_presence.1"], "hopper", "run-1", "{}"),
    "geotemporal": (
        ["geotemporal_example"],
        "geotemporal",
        "run-1",
        '{"feature1": ["qualifier_1"], "feature2": ["qualifier_1"]}',
    ),
    "census": (
        ["census", "census_str"],
        "census",
        "indicator",
        '{"pop": ["primary_industry"], "health_ind": ["primary_industry"]}',
    ),
}


def unpacked(shared: Path, name: str, folder: Path) -> Path:
    """A bucket with the original's objects."""
    table = pq.read_table(shared / "golden" / f"{name}.parquet")
    for key, body in zip(table["key"].to_pylist(), table["body"].to_pylist(), strict=True):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


@pytest.fixture
def place(quick_folder: Path) -> Iterator[Place]:
    with nothing_set():
        yield Place(quick_folder / "home")


@pytest.mark.parametrize(
    "name", ["hopper", *(pytest.param(name, marks=pytest.mark.slow) for name in ("geotemporal", "census"))]
)
def test_the_originals_objects_are_found_equal(
    name: str, place: Place, shared: Path, quick_folder: Path
) -> None:
    files, model_id, run_id, qualifiers = CASES[name]
    theirs = unpacked(shared, name, quick_folder / "theirs")
    dataset = run_id == "indicator"
    kind = ["--indicator"] if dataset else ["--run-id", run_id]
    parts = [str(shared / "data" / f"{file}.parquet.gzip") for file in files]
    published = place.run(
        "publish", *parts, "--model-id", model_id, *kind, "--qualifier-map", qualifiers, "--quiet"
    )
    assert published.exit_code == 0, published.output
    ours = place.home / "buckets" / ("indicators" if dataset else "models")
    found = place.json("compare", str(ours), str(theirs))
    (run,) = found["runs"]
    assert found["agrees"]
    assert set(run["objects"]) <= {"same", "intended"}
    assert sum(run["objects"].values()) == pq.read_metadata(shared / "golden" / f"{name}.parquet").num_rows
    assert not run["intended differences"]
    # One digit in one object.
    changed = next(theirs.rglob("global.csv"))
    head, first, *rest = changed.read_text().splitlines()
    time, number, *others = first.split(",")
    changed.write_text("\n".join((head, ",".join((time, str(float(number) + 1), *others)), *rest)) + "\n")
    different = place.json("compare", str(ours), str(theirs), status=1)
    assert different["runs"][0]["objects"]["differs"] == 1
    assert "s_sum_t_sum" in different["runs"][0]["examples"]["differs"][0]

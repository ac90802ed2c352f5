"""The hand-written script of the benchmarks publishes what the project does: else its time says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peer import publish
from benchmarks.synthetic import write_synthetic
from datacube_assets_tests.integration.operating import Place, nothing_set

FLOODS = ("Area", "Dead", "Displaced", "Ended", "Severity")


def _agree(place: Place, part: Path, model_id: str, run_id: str, mapped: dict[str, list[str]]) -> int:
    """Publish by both, compare, and tell of how many objects."""
    kind = ["--indicator"] if run_id == "indicator" else ["--run-id", run_id]
    published = place.run(
        "publish", str(part), "--model-id", model_id, *kind, "--qualifier-map", json.dumps(mapped), "--quiet"
    )
    assert published.exit_code == 0, published.output
    theirs = place.home / "peer"
    objects = publish([part], theirs, model_id, run_id, mapped)
    ours = place.home / "buckets" / ("indicators" if run_id == "indicator" else "models")
    found = place.json("compare", str(ours), str(theirs))
    (run,) = found["runs"]
    assert found["agrees"], run["examples"]
    assert run["objects"] == {"same": objects}
    return objects


def test_the_script_of_the_benchmark_publishes_what_the_project_does(quick_folder: Path) -> None:
    (part,) = write_synthetic(quick_folder / "run.parquet.gzip", 2_000, months=6, places=40)
    mapped = {feature: ["crop", "market"] for feature in ("feature 1", "feature 2")}
    with nothing_set():
        assert _agree(Place(quick_folder / "home"), part, "synthetic", "run-1", mapped) > 1_000


@pytest.mark.slow
def test_it_does_for_floods_too(quick_folder: Path, shared: Path) -> None:
    mapped = {feature: ["MainCause"] for feature in FLOODS}
    part = shared / "data" / "floods.parquet.gzip"
    with nothing_set():
        assert _agree(Place(quick_folder / "home"), part, "floods", "indicator", mapped) > 300_000

from __future__ import annotations

import json
import multiprocessing
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datacube_assets.cli import main
from datacube_assets.development import dojo_simulator as simulator
from datacube_assets.development.causemos_simulator import CauseMosSimulator
from datacube_assets.development.dojo_simulator import DojoSimulator
from datacube_assets.development.simulator_http import LARGEST_BODY, Site, Switches, in_background
from datacube_assets.dojo.documents import RunDocument
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.stores import Store

RUN = {
    "id": "r1",
    "model_id": "m1",
    "model_name": "Toy",
    "created_at": 1,
    "data_paths": [],
    "parameters": [
        {"name": "rainfall", "value": "Heavy"},
        {"name": "years", "value": 3},
        {"name": "zero", "value": 0},
    ],
    "tags": [],
}


def store(folder: Path) -> Store:
    return open_store(folder.as_uri())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("runs", "models", "indicators", "files"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs" / "one.json").write_text(json.dumps(RUN))
    (tmp_path / "runs" / "more.json").write_text(
        json.dumps([{"id": f"x{i}", "model_id": "m2", "model_name": "Other"} for i in range(9)])
    )
    (tmp_path / "models" / "m1.json").write_text(json.dumps({"id": "m1", "name": "Toy"}))
    (tmp_path / "indicators" / "d1.json").write_text(
        json.dumps({"id": "d1", "data_paths": ["{files}/d1.parquet.gzip"]})
    )
    (tmp_path / "files" / "r1_m1.1.parquet.gzip").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "files" / "r1_m1_str.1.parquet.gzip").write_bytes(b"text")
    return tmp_path


@pytest.fixture
def dojo(folder: Path) -> DojoSimulator:
    return DojoSimulator.load(folder, prefix="/api/dojo/")


@pytest.fixture
def http(site: Site, dojo: DojoSimulator) -> Iterator[httpx.Client]:
    site.app = dojo.app()
    with httpx.Client(base_url=site.url) as http:
        yield http


def listed(http: httpx.Client, path: str = "/api/dojo/runs", **query: Any) -> dict[str, Any]:
    answer = http.get(path, params=query)
    assert answer.status_code == 200
    page: dict[str, Any] = answer.json()
    return page


def test_the_folder_is_served_in_a_stable_order_that_means_nothing(folder: Path, http: httpx.Client) -> None:
    page = listed(http)
    order = [run["id"] for run in page["results"]]
    assert page["hits"] == 10
    assert page["scroll_id"] is None
    assert order == [run["id"] for run in listed(http)["results"]]
    assert order not in (sorted(order), sorted(order, reverse=True))


def test_pages_without_a_size_hold_100_runs_and_10_of_the_others(http: httpx.Client) -> None:
    for collection, size in (("runs", 100), ("models", 10), ("indicators", 10)):
        http.post(f"/simulator/{collection}", json=[{"id": f"n{i}"} for i in range(150)])
        assert len(listed(http, f"/api/dojo/{collection}")["results"]) == size


def test_the_scroll_id_is_null_when_a_page_is_shorter_than_this_calls_size(http: httpx.Client) -> None:
    first = listed(http, size=5)
    assert len(first["results"]) == 5
    assert first["scroll_id"]
    second = listed(http, size=6, scroll_id=first["scroll_id"])
    assert len(second["results"]) == 5
    assert second["scroll_id"] is None


def test_an_exact_multiple_of_the_size_has_one_more_empty_page(http: httpx.Client) -> None:
    page, sizes = listed(http, size=5), [5]
    while page["scroll_id"]:
        page = listed(http, size=5, scroll_id=page["scroll_id"])
        sizes.append(len(page["results"]))
    assert sizes == [5, 5, 0]
    assert page["hits"] == 10


def test_an_unknown_scroll_id_is_a_server_error(http: httpx.Client) -> None:
    assert http.get("/api/dojo/runs", params={"scroll_id": "unknown"}).status_code == 500


def test_a_scroll_dies_when_it_is_left_alone_and_lives_when_it_is_used(http: httpx.Client) -> None:
    http.put("/simulator/switches", json={"scroll_seconds": 0.3})
    scroll_id = listed(http, size=2)["scroll_id"]
    for _ in range(3):
        time.sleep(0.15)
        assert listed(http, size=2, scroll_id=scroll_id)["results"]
    time.sleep(0.4)
    assert http.get("/api/dojo/runs", params={"size": 2, "scroll_id": scroll_id}).status_code == 500


def test_nothing_found_is_an_empty_page_even_with_a_scroll_id(http: httpx.Client) -> None:
    page = listed(http, model_id="absent", scroll_id="unknown")
    assert page == {"hits": 0, "scroll_id": None, "results": []}


@pytest.mark.parametrize("size", [0, -1, 10_001])
def test_a_size_elasticsearch_refuses_is_a_server_error(http: httpx.Client, size: int) -> None:
    assert http.get("/api/dojo/runs", params={"size": size}).status_code == 500


def test_the_model_name_wins_over_the_model_id(http: httpx.Client) -> None:
    assert listed(http, model_id="m1")["hits"] == 1
    assert listed(http, model_id="m1", model_name="Other")["hits"] == 9


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"rainfall": "heav"}, 1),
        ({"rainfall": "light"}, 0),
        ({"years": "3"}, 1),
        ({"years": "3", "rainfall": "HEAVY"}, 2),
        ({"zero": "0"}, 0),
    ],
)
def test_further_keys_filter_by_parameter_after_the_paging(
    http: httpx.Client, query: dict[str, str], found: int
) -> None:
    page = listed(http, **query)
    assert len(page["results"]) == found
    assert page["hits"] == 10


def test_an_unknown_id_is_not_found(http: httpx.Client) -> None:
    for collection in ("runs", "models", "indicators"):
        answer = http.get(f"/api/dojo/{collection}/absent")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


def test_a_run_lives_from_running_over_success_to_its_re_execution(http: httpx.Client) -> None:
    answer = http.post("/api/dojo/runs", json=RUN | {"id": "new", "created_at": 0})
    assert (answer.status_code, answer.text) == (201, "Created run with id = new")
    assert answer.headers["Location"] == "/api/v1/runs/new"
    created = http.get("/api/dojo/runs/new").json()
    assert created["attributes"] == {"status": "Running"}
    assert created["created_at"] > 1_600_000_000_000

    http.post("/simulator/runs/new/finish", json={"data_paths": ["{files}/a"], "executed_at": "t1"})
    first = RunDocument.model_validate(http.get("/api/dojo/runs/new").json())
    assert first.is_ready
    assert first.data_paths == (f"{http.base_url}/files/a",)

    http.post("/simulator/runs/new/finish", json={"data_paths": ["{files}/a"], "executed_at": "t2"})
    second = RunDocument.model_validate(http.get("/api/dojo/runs/new").json())
    assert second.version != first.version


def test_a_finished_run_has_the_files_named_after_it(http: httpx.Client) -> None:
    finished = http.post("/simulator/runs/r1/finish").json()
    assert finished["attributes"]["status"] == "success"
    assert [path.rsplit("/", 1)[1] for path in finished["data_paths"]] == [
        "r1_m1.1.parquet.gzip",
        "r1_m1_str.1.parquet.gzip",
    ]
    assert http.post("/simulator/runs/x1/finish").status_code == 409


def test_a_failed_run_keeps_its_paths(http: httpx.Client) -> None:
    failed = http.post("/simulator/runs/r1/fail").json()
    assert (failed["attributes"], failed["data_paths"]) == ({"status": "failed"}, [])
    assert http.post("/simulator/runs/absent/fail").status_code == 404


def test_a_put_overwrites_the_whole_run_and_moves_it_to_the_end(http: httpx.Client) -> None:
    answer = http.put("/api/dojo/runs", json=RUN | {"tags": ["new"], "parameters": []})
    assert (answer.status_code, answer.text) == (201, "Updated run with id = r1")
    assert listed(http)["results"][-1] == RUN | {"tags": ["new"], "parameters": []}
    assert http.put("/api/dojo/runs", json={"id": "r1"}).status_code == 422


def test_malformed_documents_can_be_added(http: httpx.Client) -> None:
    assert http.post("/simulator/runs", json=[{}, {"id": 7}, {"id": "z", "data_paths": 5}]).status_code == 201
    assert listed(http)["hits"] == 13
    assert http.post("/simulator/runs", json=[None]).status_code == 400


def test_a_shuffled_listing_comes_in_another_order_each_time(http: httpx.Client) -> None:
    http.put("/simulator/switches", json={"shuffle": True})
    orders = {tuple(run["id"] for run in listed(http)["results"]) for _ in range(5)}
    assert len(orders) > 1
    assert len({frozenset(order) for order in orders}) == 1


def test_files_come_whole_with_their_length_whatever_range_says(folder: Path, http: httpx.Client) -> None:
    answer = http.get("/files/r1_m1.1.parquet.gzip", headers={"Range": "bytes=0-9"})
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == "2560"
    assert answer.content == (folder / "files" / "r1_m1.1.parquet.gzip").read_bytes()


@pytest.mark.parametrize(
    "path", ["absent", "", "../runs/one.json", "%2e%2e/runs/one.json", "..%2fruns%2fone.json"]
)
def test_only_files_of_the_folder_are_served(http: httpx.Client, path: str) -> None:
    assert http.get(f"/files/{path}").status_code == 404


def test_the_address_of_the_files_is_the_one_the_caller_used(http: httpx.Client) -> None:
    path = http.get("/api/dojo/indicators/d1").json()["data_paths"][0]
    assert path == f"{http.base_url}/files/d1.parquet.gzip"


def test_a_truncated_file_ends_before_its_length(http: httpx.Client) -> None:
    http.put("/simulator/switches", json={"truncate_next": 1})
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/files/r1_m1.1.parquet.gzip")
    assert len(http.get("/files/r1_m1.1.parquet.gzip").content) == 2560


def test_switches_make_requests_fail_and_handles_work_all_the_same(http: httpx.Client) -> None:
    switched = http.put(
        "/simulator/switches", json={"error_rate": 1, "error_status": 429, "retry_after": "7"}
    )
    assert switched.json()["error_rate"] == 1
    answer = http.get("/api/dojo/runs")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert http.get("/files/r1_m1.1.parquet.gzip").status_code == 429
    assert http.put("/simulator/switches", json={"error_rate": 0}).json()["error_status"] == 429
    assert http.get("/api/dojo/runs").status_code == 200


@pytest.mark.parametrize("wrong", [{"error_rate": 2}, {"unknown": 1}, {"error_status": 200}])
def test_a_switch_that_makes_no_sense_is_refused(http: httpx.Client, wrong: dict[str, Any]) -> None:
    assert http.put("/simulator/switches", json=wrong).status_code == 422


def test_requests_are_counted(http: httpx.Client) -> None:
    http.get("/api/dojo/runs")
    http.get("/api/dojo/runs")
    http.get("/files/absent")
    assert http.get("/simulator/requests").json() == {"GET /api/dojo/runs": 2, "GET /files/absent": 1}
    http.delete("/simulator/requests")
    assert http.get("/simulator/requests").json() == {}


def test_dojo_may_insist_on_credentials_but_files_are_public(site: Site, folder: Path) -> None:
    site.app = DojoSimulator.load(folder, username="ann", password="s3cret").app()
    assert httpx.get(f"{site.url}/runs").status_code == 401
    assert httpx.get(f"{site.url}/runs", auth=("ann", "wrong")).status_code == 401
    assert httpx.get(f"{site.url}/runs", auth=("ann", "s3cret")).status_code == 200
    assert httpx.get(f"{site.url}/files/r1_m1.1.parquet.gzip").status_code == 200
    assert httpx.get(f"{site.url}/simulator/requests", auth=("ann", "s3cret")).status_code == 200


def test_dojo_is_served_as_a_process(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(
        target=simulator.serve, args=(folder, "127.0.0.1", port), daemon=True
    )
    process.start()
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as http:
            assert http.get(f"http://127.0.0.1:{port}/runs/r1").json() == RUN
    finally:
        process.terminate()
        process.join()


ABOUT = {"flow_id": "f1", "run_id": "r1", "data_id": "m1", "doc_ids": ["r1"], "is_indicator": False}
RESULTS = {"data_info": {"num_rows": 12}, "output_agg_values": [{"name": "yield"}], "else": 1}


@pytest.fixture
def causemos(tmp_path: Path) -> CauseMosSimulator:
    for bucket, key in (("models", "m1/r1"), ("indicators", "d1/indicator")):
        (tmp_path / bucket / key / "results").mkdir(parents=True)
        (tmp_path / bucket / key / "results" / "results.json").write_text(json.dumps(RESULTS))
    return CauseMosSimulator(store(tmp_path / "models"), store(tmp_path / "indicators"))


@pytest.fixture
def told(site: Site, causemos: CauseMosSimulator) -> Iterator[httpx.Client]:
    site.app = causemos.app()
    with httpx.Client(base_url=site.url) as http:
        yield http


def report(told: httpx.Client, call: str, **changes: Any) -> int:
    return told.put(f"/api/maas/pipeline-reporting/{call}", json=ABOUT | changes).status_code


def test_a_model_run_goes_from_queued_to_ready_with_its_results(told: httpx.Client) -> None:
    told.post("/simulator/documents", json={"data-model-run": [{"id": "r1", "status": "PROCESSING"}]})
    assert report(told, "queue-runtime", start_time=1, end_time=2) == 200
    assert report(told, "processing-succeeded", start_time=3, end_time=4) == 200
    assert told.get("/simulator/documents").json()["data-model-run"]["r1"] == {
        "id": "r1",
        "status": "READY",
        "flow_id": "f1",
        "runtimes": {
            "queued": {"start_time": 1, "end_time": 2},
            "post_processing": {"start_time": 3, "end_time": 4},
        },
        "data_info": {"num_rows": 12},
        "output_agg_values": [{"name": "yield"}],
    }


def test_a_default_run_describes_its_model(told: httpx.Client) -> None:
    documents = {"data-model-run": [{"id": "r1", "is_default_run": True}], "data-datacube": [{"id": "m1"}]}
    told.post("/simulator/documents", json=documents)
    report(told, "processing-succeeded")
    model = told.get("/simulator/documents").json()["data-datacube"]["m1"]
    assert model == {"id": "m1", "data_info": {"num_rows": 12}}


def test_a_dataset_is_read_from_the_indicators_bucket_and_all_its_documents_become_ready(
    told: httpx.Client,
) -> None:
    told.post("/simulator/documents", json={"data-datacube": [{"id": "a"}, {"id": "b"}]})
    dataset = {"run_id": "indicator", "data_id": "d1", "doc_ids": ["a", "b"], "is_indicator": True}
    assert report(told, "processing-succeeded", **dataset) == 200
    documents = told.get("/simulator/documents").json()["data-datacube"]
    assert [documents[name]["status"] for name in ("a", "b")] == ["READY", "READY"]


@pytest.mark.parametrize("run_id", ["absent", "indicator", "../../indicators/d1/indicator"])
def test_success_without_results_is_not_found_and_changes_nothing(told: httpx.Client, run_id: str) -> None:
    told.post("/simulator/documents", json={"data-model-run": [{"id": "r1", "status": "PROCESSING"}]})
    assert report(told, "processing-succeeded", run_id=run_id) == 404
    assert told.get("/simulator/documents").json()["data-model-run"]["r1"]["status"] == "PROCESSING"


def test_results_that_are_no_json_are_not_found(told: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "models/m1/r1/results/results.json").write_text("{")
    assert report(told, "processing-succeeded") == 404


def test_a_failure_is_noted(told: httpx.Client) -> None:
    told.post("/simulator/documents", json={"data-model-run": [{"id": "r1"}]})
    assert report(told, "processing-failed") == 200
    document = told.get("/simulator/documents").json()["data-model-run"]["r1"]
    assert (document["status"], document["flow_id"]) == ("PROCESSING FAILED", "f1")


def test_an_unknown_document_is_no_error_and_stays_unknown(told: httpx.Client) -> None:
    assert report(told, "processing-succeeded") == 200
    assert told.get("/simulator/documents").json() == {"data-model-run": {}, "data-datacube": {}}


def test_reports_are_kept_in_the_order_they_came_with_their_answers(told: httpx.Client) -> None:
    report(told, "processing-failed", doc_ids=None)
    report(told, "queue-runtime")
    reports = told.get("/simulator/reports").json()
    assert [(r["call"], r["status"]) for r in reports] == [("processing-failed", 400), ("queue-runtime", 200)]
    assert reports[1]["body"] == ABOUT


def test_causemos_knows_three_reports_of_one_kind(told: httpx.Client) -> None:
    assert report(told, "processing-paused") == 404
    assert told.put("/api/maas/pipeline-reporting/queue-runtime", content=b"{").status_code == 400


def test_the_page_for_people_shows_what_was_told(told: httpx.Client) -> None:
    assert "None yet." in told.get("/").text
    told.post("/simulator/documents", json={"data-model-run": [{"id": "r1"}]})
    report(told, "processing-succeeded", data_id="m1")
    report(told, "processing-failed", data_id="<b>")
    page = told.get("/").text
    assert "READY" not in page
    assert "PROCESSING FAILED" in page
    assert "&lt;b&gt;" in page


# --- what anybody may send ----------------------------------------------------------------------------


@pytest.fixture(params=["dojo", "causemos"])
def any_of_both(request: pytest.FixtureRequest, site: Site, folder: Path, tmp_path: Path) -> httpx.Client:
    simulator = (
        DojoSimulator.load(folder)
        if request.param == "dojo"
        else CauseMosSimulator(store(tmp_path), store(tmp_path))
    )
    site.app = simulator.app()
    return httpx.Client(base_url=site.url)


PATHS = (
    *("/runs", "/simulator/runs", "/simulator/models", "/simulator/indicators", "/simulator/switches"),
    *("/simulator/runs/r1/finish", "/simulator/runs/odd/finish", "/simulator/runs/none/fail"),
    *("/simulator/documents", "/api/maas/pipeline-reporting/processing-succeeded"),
    *("/api/maas/pipeline-reporting/queue-runtime", "/api/maas/pipeline-reporting/x"),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["odd", "\ud800"]),
)
FIELDS = st.sampled_from(
    [
        *("id", "model_id", "model_name", "created_at", "data_paths", "parameters", "tags", "attributes"),
        *("doc_ids", "data_id", "run_id", "is_indicator", "data-model-run", "data-datacube", "outputs"),
        *("executed_at", "error_rate", "retry_after", "latency_seconds", "scroll_seconds", "published"),
    ]
)
BODIES = st.one_of(
    st.binary(max_size=20),
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=10),
        max_leaves=12,
    ).map(lambda content: json.dumps(content).encode()),
    st.sampled_from([b"[" * 100_000, b"1e999", b'{"a": NaN}', b"9" * 5_000, b'{"doc_ids": [[]]}']),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    method=st.sampled_from(["POST", "PUT"]),
    path=st.sampled_from(PATHS),
    body=BODIES,
    listing=st.sampled_from(
        ["/runs?x=y", "/runs?size=5", "/models", "/simulator/reports", "/simulator/documents", "/"]
    ),
)
def test_whatever_is_sent_is_refused_or_taken_and_no_error_of_the_server(
    any_of_both: httpx.Client, method: str, path: str, body: bytes, listing: str
) -> None:
    answer = any_of_both.request(method, path, content=body)
    assert answer.status_code < 500
    assert "Traceback" not in answer.text
    any_of_both.put("/simulator/switches", json=Switches().model_dump()).raise_for_status()
    # Nor does what was taken spoil what is shown later.
    assert any_of_both.get(listing).status_code < 500, listing


@pytest.mark.parametrize("path", ["%00", "a%00b", "x" * 5_000, "%ff%fe", "..%2f..%2fetc/passwd", "a/%2e%2e"])
@pytest.mark.parametrize("start", ["/files/", "/runs/", "/simulator/runs/", "/api/maas/"])
def test_odd_paths_are_not_found(any_of_both: httpx.Client, start: str, path: str) -> None:
    assert 400 <= any_of_both.get(start + path).status_code < 500


def test_a_report_with_odd_ids_is_refused(any_of_both: httpx.Client) -> None:
    for data_id in ("a\0b", "x" * 5_000, "../..", 5, ["a"]):
        report = {"doc_ids": ["a"], "data_id": data_id, "run_id": "b"}
        answer = any_of_both.put("/api/maas/pipeline-reporting/processing-succeeded", json=report)
        assert answer.status_code == 404


@pytest.mark.parametrize("told", [True, False], ids=["told its length", "chunked"])
def test_a_body_that_is_too_large_is_refused_before_it_is_held(any_of_both: httpx.Client, told: bool) -> None:
    size, piece = LARGEST_BODY + 1, bytes(1_000_000)
    pieces = (piece for _ in range(size // len(piece) + 1))
    answer = any_of_both.put("/simulator/switches", content=bytes(size) if told else pieces)
    assert answer.status_code == 413


def test_with_a_user_name_everything_but_the_files_is_guarded(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    for guarded in (
        DojoSimulator.load(folder, username="ann", password="pass"),
        CauseMosSimulator(store(tmp_path), store(tmp_path), username="ann", password="pass"),
    ):
        site.app = guarded.app()
        http = httpx.Client(base_url=site.url)
        for method, path in (
            ("GET", "/simulator/switches"),
            ("PUT", "/simulator/switches"),
            ("POST", "/simulator/runs"),
            ("GET", "/simulator/reports"),
            ("GET", "/"),
            ("GET", "/runs"),
            ("PUT", "/api/maas/pipeline-reporting/queue-runtime"),
        ):
            assert http.request(method, path).status_code == 401, path
            assert http.request(method, path, auth=("ann", "wrong")).status_code == 401, path
        assert http.get("/simulator/switches", auth=("ann", "pass")).status_code == 200


def test_what_listens_does_so_on_loopback_unless_told_otherwise() -> None:
    for command in main.commands.values():
        for option in command.params:
            if option.name == "host":
                assert option.default == "127.0.0.1", command.name

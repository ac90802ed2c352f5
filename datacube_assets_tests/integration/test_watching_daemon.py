"""The sensors in the hands of Dagster's daemon: ticks are repeated, cursors get lost, two daemons meet.

What a single tick asks for is tried in `test_watching_dojo.py` and `test_requests.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import SensorInstigatorData

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.storage.run_info import request_key
from datacube_assets_tests.integration.system import MODEL, System, system, wait_for

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system(tmp_path_factory.mktemp("watched")) as opened:
        opened.start_daemon()
        yield opened


def ticks(instance: DagsterInstance) -> dict[str, int]:
    """How many ticks each sensor had."""
    return {
        state.name: len(instance.get_ticks(state.instigator_origin_id, state.selector_id))
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    }


def after_ticks(watched: System, count: int) -> None:
    """Wait until every sensor had so many further ticks."""
    before = ticks(watched.instance)

    def ticked() -> bool:
        now = ticks(watched.instance)
        return all(now[name] >= number + count for name, number in before.items())

    assert len(before) == 4
    wait_for(ticked, f"{count} ticks of every sensor")


def lose_cursors(instance: DagsterInstance) -> None:
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        emptied = SensorInstigatorData(
            last_tick_timestamp=data.last_tick_timestamp, min_interval=data.min_interval, cursor=None
        )
        instance.update_instigator_state(state.with_data(emptied))


def test_a_run_that_becomes_ready_is_told_to_causemos_without_anybodys_help(watched: System) -> None:
    watched.dojo.finish("first")
    wait_for(lambda: watched.causemos.documents().get("first", {}).get("status") == "READY", "the report")
    assert watched.published(f"{MODEL}:first")


def test_a_request_at_the_command_line_is_picked_up_by_the_next_tick(watched: System) -> None:
    key = f"{MODEL}:by-hand"
    watched.dojo.finish("by-hand")
    wait_for(lambda: watched.published(key) and watched.settled(), "the first run")
    thresholds = {"max_count": 1, "regional_timeseries_count": 1, "regional_timeseries_max_level": 0}
    answer = watched.command("reprocess", key, "--thresholds", json.dumps(thresholds))
    assert (answer.returncode, answer.stdout) == (0, f"Asked for {key}\n"), answer.stderr
    after_ticks(watched, 2)
    first, asked = watched.runs(key)
    assert asked.tags["datacube/source"] == "request"
    assert first.tags["datacube/source"] == "dojo"
    wait_for(watched.settled, "the run that was asked for")
    document = watched.lake.read_document(request_key(ModelRun.from_key(key))) or {}
    assert document["qualifier_thresholds"] == thresholds
    # Both were told, each once.
    wait_for(lambda: len(succeeded(watched, "by-hand")) == 2, "the reports")
    assert succeeded(watched, "by-hand") == [first.run_id, asked.run_id]


def succeeded(watched: System, run_id: str) -> list[str]:
    """The Dagster runs of which CauseMos was told that they succeeded."""
    return [
        report["body"]["flow_id"]
        for report in watched.causemos.reports()
        if report["call"] == "processing-succeeded" and report["body"]["run_id"] == run_id
    ]


def test_lost_cursors_start_and_tell_nothing_twice(watched: System) -> None:
    watched.dojo.finish("once")
    watched.command("reprocess", f"{MODEL}:once", "--fill-timestamp", "1")
    wait_for(lambda: len(watched.runs(f"{MODEL}:once")) == 2, "both runs")
    for _ in range(3):
        lose_cursors(watched.instance)
        after_ticks(watched, 1)
    for path in (watched.settings.home / "lake").rglob("known.json"):
        path.unlink()
    lose_cursors(watched.instance)
    after_ticks(watched, 2)
    wait_for(watched.settled, "all runs")
    after_ticks(watched, 1)
    assert len(watched.runs(f"{MODEL}:once")) == 2
    told = Counter(
        (report["call"], report["body"].get("flow_id"))
        for report in watched.causemos.reports()
        if report["call"] != "queue-runtime"
    )
    assert set(told.values()) == {1}
    assert {call for call, _ in told} == {"processing-succeeded"}


def test_two_daemons_start_and_tell_nothing_twice(watched: System) -> None:
    second = replace(watched.daemon, name="second-daemon", process=None)
    second.start()
    try:
        after_ticks(watched, 2)
        names = [f"between-{number}" for number in range(4)]
        for name in names:
            watched.dojo.finish(name)
        wait_for(lambda: all(watched.published(f"{MODEL}:{name}") for name in names), "the datacubes", 180)
        wait_for(watched.settled, "all runs", 180)
        wait_for(lambda: all(succeeded(watched, name) for name in names), "the reports")
        after_ticks(watched, 2)
        second.check()
        runs = Counter(run.tags["dagster/partition"] for run in watched.runs())
        assert {runs[f"{MODEL}:{name}"] for name in names} == {1}
        assert {len(succeeded(watched, name)) for name in names} == {1}
    finally:
        second.stop()

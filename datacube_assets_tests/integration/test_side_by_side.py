"""Steps of a run at the same time: what Dagster promises of one step after the other holds all the same."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRunStatus,
    In,
    JobDefinition,
    Nothing,
    OpExecutionContext,
    RetryPolicy,
    RetryRequested,
    build_init_resource_context,
    job,
    op,
)

from datacube_assets.orchestration import side_by_side
from datacube_assets.orchestration.side_by_side import AT_ONCE, LOOK_SECONDS, build_executor, execute_job
from datacube_assets.resources.dask import DaskResource

RUN = "0b5bfcfc-8d4e-4d5b-8f4c-52bb3c1d94a5"
MEETING = threading.Barrier(2)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@op
def meets_the_other() -> None:
    MEETING.wait(20)


@op
def fails() -> None:
    raise ValueError("it cannot be done")


@op
def takes_a_moment() -> None:
    time.sleep(0.5)


@op
def fails_in_the_end() -> None:
    time.sleep(1.0)
    fails()


@op(ins={"after": In(Nothing)})
def comes_after() -> None:
    return


@op(ins={"after": In(Nothing)})
def comes_after_the_other() -> None:
    return


@op(retry_policy=RetryPolicy(max_retries=1))
def fails_once(context: OpExecutionContext) -> None:
    if context.retry_number == 0:
        raise RetryRequested(max_retries=1)


@op
def works_for_ever() -> None:
    while True:
        time.sleep(0.01)


@op
def is_told_to_end() -> None:
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)


def execute(defined: JobDefinition, instance: DagsterInstance) -> None:
    execute_job(defined, instance, run_id=RUN, partition_key="", tags={}, run_config={})


def happened(instance: DagsterInstance, kind: DagsterEventType) -> list[str]:
    logged = instance.all_logs(RUN, of_type=kind)
    return sorted(str(one.step_key) for one in logged)


def test_two_steps_that_need_nothing_of_each_other_are_at_work_at_once(instance: DagsterInstance) -> None:
    @job(executor_def=build_executor())
    def meeting() -> None:
        meets_the_other.alias("one")()
        meets_the_other.alias("two")()

    execute(meeting, instance)
    assert happened(instance, DagsterEventType.STEP_SUCCESS) == ["one", "two"]


def test_a_step_that_fails_ends_the_run_but_not_what_is_at_work(instance: DagsterInstance) -> None:
    @job(executor_def=build_executor())
    def failing() -> None:
        comes_after(fails())
        comes_after_the_other(takes_a_moment())

    with pytest.raises(ValueError, match="it cannot be done"):
        execute(failing, instance)
    assert happened(instance, DagsterEventType.STEP_FAILURE) == ["fails"]
    assert happened(instance, DagsterEventType.STEP_SUCCESS) == ["takes_a_moment"]
    run = instance.get_run_by_id(RUN)
    assert run is not None
    assert run.status == DagsterRunStatus.FAILURE


class Slow(SimpleQueue[Any]):
    """Keeps a step waiting after it has told that it failed, before it raises the error."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        if isinstance(item, DagsterEvent) and item.is_step_failure:
            time.sleep(3 * LOOK_SECONDS)


def test_the_error_of_the_last_step_is_raised_however_late_it_comes(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(executor_def=build_executor())
    def failing() -> None:
        takes_a_moment()
        fails_in_the_end()

    monkeypatch.setattr(side_by_side, "SimpleQueue", Slow)
    with pytest.raises(ValueError, match="it cannot be done"):
        execute(failing, instance)


def test_a_step_that_asks_for_it_is_repeated(instance: DagsterInstance) -> None:
    @job(executor_def=build_executor())
    def repeating() -> None:
        comes_after(fails_once())
        comes_after_the_other(takes_a_moment())

    execute(repeating, instance)
    assert happened(instance, DagsterEventType.STEP_RESTARTED) == ["fails_once"]
    steps = ["comes_after", "comes_after_the_other", "fails_once", "takes_a_moment"]
    assert happened(instance, DagsterEventType.STEP_SUCCESS) == steps


def test_interrupting_stops_every_step_at_once(instance: DagsterInstance) -> None:
    @job(executor_def=build_executor())
    def endless() -> None:
        works_for_ever()
        comes_after(is_told_to_end())

    begun = time.monotonic()
    with pytest.raises(DagsterExecutionInterruptedError):
        execute(endless, instance)
    assert time.monotonic() - begun < 10
    assert "works_for_ever" in happened(instance, DagsterEventType.STEP_FAILURE)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step")]


@op
def waits_for_a_server() -> None:
    asked, silent = socket.socketpair()
    with asked, silent:
        asked.settimeout(60)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        asked.recv(1)


def test_a_step_that_waits_for_a_server_is_interrupted_at_once(instance: DagsterInstance) -> None:
    """In a thread it would go on until the server answers, or the time is up."""

    @job(executor_def=build_executor())
    def waiting() -> None:
        comes_after(waits_for_a_server())

    begun = time.monotonic()
    with pytest.raises(DagsterExecutionInterruptedError):
        execute(waiting, instance)
    assert time.monotonic() - begun < 10
    assert happened(instance, DagsterEventType.STEP_FAILURE) == ["waits_for_a_server"]


def test_steps_at_once_compute_no_more_pieces_at_a_time_than_one_would() -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def piece(_: int) -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        with lock:
            at_work -= 1

    dask = DaskResource(mode="threads", workers=3)
    with dask.yield_for_execution(build_init_resource_context()) as shared:
        steps = [
            threading.Thread(
                target=shared.map, args=(piece, range(9)), kwargs={"name": str(n), "run_id": RUN}
            )
            for n in range(AT_ONCE)
        ]
        for step in steps:
            step.start()
        for step in steps:
            step.join()
    assert most == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard")]

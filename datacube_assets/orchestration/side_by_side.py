"""Steps of a run that do not wait for each other, at the same time: in threads of the run's process.

One step at a time leaves a core idle while the step reads, waits for a picture, or has Dagster write down
what it did. Which step may begin is decided by Dagster's own state machine, what a step does is in `assets/`,
and how many pieces are computed at the same time does not change: see `resources/dask.py`. A step that is
alone is executed as Dagster does it, by the main thread: only there a signal ends what waits for a server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    ExecuteInProcessResult,
    ExecutorDefinition,
    JobDefinition,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context.system import (
    PlanExecutionContext,
    PlanOrchestrationContext,
    StepExecutionContext,
)
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.execute_in_process import core_execute_in_process, merge_run_tags
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.execute_plan import dagster_event_sequence_for_step
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._utils.error import serializable_error_info_from_exc_info

from datacube_assets.resources.stoppable import Stoppable

AT_ONCE: Final = 2
"""Steps. More of them only wait for each other, as each computes on all cores."""
LOOK_SECONDS: Final = 0.2
"""How often cancelling, and steps that are to be repeated, are looked for."""


def build_executor() -> ExecutorDefinition:
    """The executor of runs whose steps need no other process."""
    return ExecutorDefinition(
        name="in_process",
        description="Executes the steps of a run in its process, two at a time.",
        executor_creation_fn=lambda _: SideBySide(),
    )


def execute_job(
    job: JobDefinition,
    instance: DagsterInstance,
    *,
    run_id: str,
    partition_key: str,
    tags: Mapping[str, str],
    run_config: Mapping[str, object],
    assets: Sequence[AssetKey] = (),
) -> ExecuteInProcessResult:
    """Execute a job, or some assets of it, in this process; raises what a step raised.

    As Dagster's `execute_in_process` does, which always executes one step at a time.
    """
    ephemeral = job.as_ephemeral_job(resource_defs={}, input_values={}, asset_selection=assets)
    return core_execute_in_process(
        run_config=run_config,
        job=InMemoryJob(ephemeral.with_executor_def(build_executor())),
        instance=instance,
        output_capturing_enabled=False,
        raise_on_error=True,
        run_tags=merge_run_tags(job, partition_key, tags, assets, instance, run_config),
        run_id=run_id,
        asset_selection=frozenset(assets),
    )


class SideBySide(Executor):
    """Executes the steps of a run in threads of this process."""

    @property
    def retries(self) -> RetryMode:
        return RetryMode.ENABLED

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        keys, pid = execution_plan.step_keys_to_execute, os.getpid()
        about = EngineEventData.in_process(pid, keys)
        yield DagsterEvent.engine_event(plan_context, f"Executing steps in process (pid: {pid})", about)
        yield from ExecuteRunWithPlanIterable(
            execution_plan=execution_plan,
            iterator=_execute,
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                retry_mode=plan_context.retry_mode,
                execution_plan=execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
                step_dependency_config=self.step_dependency_config,
            ),
        )
        yield DagsterEvent.engine_event(plan_context, f"Finished steps in process (pid: {pid})", about)


def _execute(job_context: PlanExecutionContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
    slots = InstanceConcurrencyContext(job_context.instance, job_context.dagster_run)
    with (
        slots,
        execution_plan.start(
            retry_mode=job_context.retry_mode,
            instance_concurrency_context=slots,
            step_dependency_config=job_context.step_dependency_config,
        ) as active,
        ExitStack() as printed,
    ):
        yield _capture_what_is_printed(job_context, execution_plan, printed)
        with ThreadPoolExecutor(AT_ONCE, "step") as threads:
            steps = _Steps(threads)
            try:
                yield from _all(steps, job_context, active)
            except DagsterExecutionInterruptedError:
                yield from steps.stop()
                raise
            except GeneratorExit:
                steps.stop()
                raise
            except BaseException:
                # What another step is at is not in vain: the next run finds it made.
                yield from steps.rest(active)
                raise
        try:
            printed.close()
        except Exception:
            yield _unkept(job_context)


def _all(steps: _Steps, job_context: PlanExecutionContext, active: ActiveExecution) -> Iterator[DagsterEvent]:
    """Events of all steps as they come. Raises what a step raises, and when the run is interrupted."""
    # A step that has told of its end may have an error to raise yet.
    while steps.running or not active.is_complete:
        if active.check_for_interrupts():
            active.mark_interrupted()
            raise DagsterExecutionInterruptedError
        ready = active.get_steps_to_execute(limit=AT_ONCE - steps.running) if steps.running < AT_ONCE else ()
        contexts = [job_context.for_step(step, active.get_known_state()) for step in ready]
        yield from active.concurrency_event_iterator(job_context)
        if len(contexts) == 1 and not steps.running:
            yield from _alone(contexts[0], job_context, active)
            continue
        for context in contexts:
            steps.begin(context)
        for event in steps.news():
            if isinstance(event, DagsterEvent):
                active.handle_event(event)
                yield event
            else:
                event.done.result()
                active.verify_complete(job_context, event.key)
        yield from active.plan_events_iterator(job_context)


def _alone(
    context: StepExecutionContext, job_context: PlanExecutionContext, active: ActiveExecution
) -> Iterator[DagsterEvent]:
    for event in dagster_event_sequence_for_step(context):
        active.handle_event(event)
        yield event
    active.verify_complete(job_context, context.step.key)
    yield from active.plan_events_iterator(job_context)


def _capture_what_is_printed(
    job_context: PlanExecutionContext, execution_plan: ExecutionPlan, stack: ExitStack
) -> DagsterEvent:
    """Keep what the process prints, which the UI shows, until the stack is left."""
    manager = job_context.instance.compute_log_manager
    file: str = create_compute_log_file_key()  # type: ignore[no-untyped-call]
    log = manager.build_log_key_for_run(job_context.run_id, file)
    try:
        captured = stack.enter_context(manager.capture_logs(log))
    except Exception:
        return _unkept(job_context)
    keys = [step.key for step in execution_plan.get_steps_to_execute_in_topo_order()]
    event: DagsterEvent = DagsterEvent.capture_logs(job_context, keys, log, captured)
    return event


def _unkept(job_context: PlanExecutionContext) -> DagsterEvent:
    """The exception at hand as an event: a run is not lost for what it prints."""
    about = EngineEventData(error=serializable_error_info_from_exc_info(sys.exc_info()))
    return DagsterEvent.engine_event(job_context, "What this run prints cannot be kept", about)


class _Ended:
    """That a step is over."""

    def __init__(self, key: str, done: Future[None]) -> None:
        self.key = key
        self.done = done


class _Steps:
    """Steps at work, each in a thread of its own, and what happens in them."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._stoppable = Stoppable(DagsterExecutionInterruptedError)
        self._happened: SimpleQueue[DagsterEvent | _Ended] = SimpleQueue()
        self.running = 0
        """How many have begun and did not end."""

    def begin(self, context: StepExecutionContext) -> None:
        self.running += 1
        done = self._threads.submit(self._stoppable.call, partial(self._execute, context))
        # Called even where the step is stopped before it has begun.
        done.add_done_callback(lambda future: self._happened.put(_Ended(context.step.key, future)))

    def _execute(self, context: StepExecutionContext) -> None:
        for event in dagster_event_sequence_for_step(context):
            self._happened.put(event)

    def news(self) -> Iterator[DagsterEvent | _Ended]:
        """What has happened, if it has; waits for a moment where nothing has."""
        wait = True
        while True:
            try:
                event = self._happened.get(wait, LOOK_SECONDS)
            except Empty:
                return
            wait = False
            if isinstance(event, _Ended):
                self.running -= 1
            yield event

    def rest(self, active: ActiveExecution) -> Iterator[DagsterEvent]:
        """What happens until all that are at work are through, or stopped when the run is interrupted."""
        while self.running:
            if active.check_for_interrupts():
                yield from self.stop()
            yield from (event for event in self.news() if isinstance(event, DagsterEvent))

    def stop(self) -> list[DagsterEvent]:
        """Stop what is at work; what it tells of its end is given back."""
        self._stoppable.stop()
        told = []
        while self.running:
            told += [event for event in self.news() if isinstance(event, DagsterEvent)]
        return told

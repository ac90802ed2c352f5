"""Steps of a run as tasks of a Dask cluster: `dask_executor` of dagster-dask, repaired. An option.

With today's Dask the original fails on every partitioned run: Dask looks into the arguments of a task,
and Dagster's run does not let it. The tasks of two runs have the same keys, so that Dask takes the
second run's steps for done and never executes them. It also executes steps behind one that failed,
repeats none and cannot be cancelled. Here arguments are sealed, keys hold the run, and Dagster's own
state machine decides which step is next. What a step does is in `assets/`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagster import (
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    ExecutorDefinition,
    multiple_process_executor_requirements,
)
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.events import EngineEventData
from dagster._core.execution.api import create_execution_plan, execute_plan
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.execution.retries import RetryMode
from dagster._core.instance.ref import InstanceRef
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster_dask.executor import DaskExecutor, get_dask_resource_requirements

from datacube_assets.resources.dask import abandon, group_of, open_client, while_wanted
from datacube_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    from distributed import Client, Future

POLL_SECONDS = 0.5
"""How often cancelling, and steps that are to be repeated, are looked for while steps run."""
SAME_ON_WORKERS = (
    "lake", "models_bucket", "indicators_bucket", "s3_endpoint", "shard_rows", "dask_mode", "dask_scheduler",
    "environment", "dojo_url", "source_schemes", "source_hosts", "max_part_bytes", "check_limits",
)  # fmt: skip
"""Settings, by field, that say what steps do: workers read them from their own environment."""


def build_dask_executor(settings: Settings) -> ExecutorDefinition:
    """The executor for the scheduler of these settings. Raises SettingsError when there is none."""
    if settings.dask_mode != "scheduler":
        raise SettingsError("DATACUBE_EXECUTOR is `dask`: set DATACUBE_DASK_SCHEDULER to its scheduler")

    return ExecutorDefinition(
        name="dask",
        description="Executes every step as a task of the Dask cluster at DATACUBE_DASK_SCHEDULER.",
        requirements=multiple_process_executor_requirements(),
        executor_creation_fn=lambda _: StepsOnDask(settings),
    )


@dataclass(frozen=True)
class Step:
    """One step of a run, as it is sent to a worker. Dask does not look into it."""

    job: ReconstructableJob
    run: DagsterRun
    run_config: Mapping[str, object]
    key: str
    instance: InstanceRef
    known_state: KnownExecutionState
    load_data: RepositoryLoadData | None
    settings: Mapping[str, str]

    def execute(self) -> Sequence[DagsterEvent]:
        """Execute the step here; what happens is recorded in Dagster's storage, too."""
        check_settings(self.settings)
        with DagsterInstance.from_ref(self.instance) as instance:
            plan = create_execution_plan(
                self.job,
                run_config=self.run_config,
                step_keys_to_execute=[self.key],
                known_state=self.known_state,
                repository_load_data=self.load_data,
            )
            return execute_plan(
                plan,
                self.job,
                instance,
                self.run,
                run_config=self.run_config,
                # To be repeated is reported; when that is done is decided where all steps are known.
                retry_mode=RetryMode.ENABLED.for_inner_plan(),
            )


def execute_step(step: Step) -> Sequence[DagsterEvent]:
    """Execute a step in a task; interrupts it when the task is cancelled."""
    return while_wanted(step.execute, DagsterExecutionInterruptedError)


def relevant(settings: Settings) -> dict[str, str]:
    """What has to be the same for a run and its workers, by the names of the variables."""
    fields = type(settings).model_fields
    return {str(fields[name].alias): str(getattr(settings, name)) for name in SAME_ON_WORKERS}


def check_settings(of_run: Mapping[str, str]) -> None:
    """Raise SettingsError when this worker would do something else than the run is meant to do."""
    ours = relevant(Settings.from_environment())
    differing = [name for name in of_run if ours[name] != of_run[name]]
    if differing:
        raise SettingsError(
            f"a Dask worker has other settings than the run: {', '.join(sorted(differing))}. With "
            "DATACUBE_EXECUTOR=dask, start the workers with the environment of Dagster"
        )


class StepsOnDask(DaskExecutor):
    """Executes the steps of a run on an existing Dask cluster."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("existing", {"address": settings.dask_scheduler})  # type: ignore[no-untyped-call]
        self._settings = settings
        self._news = threading.Event()
        """Set when a step is over."""

    @property
    def retries(self) -> RetryMode:
        return RetryMode.ENABLED

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        client = open_client(self._settings.dask_scheduler)
        yield DagsterEvent.engine_event(
            plan_context, f"Executing steps on the Dask cluster {client.dashboard_link}", EngineEventData()
        )
        running: dict[str, Future[Any]] = {}
        try:
            yield from self._execute(client, running, plan_context, execution_plan)
        finally:
            abandon(client, list(running.values()), list(map(_group, running.values())))
            client.close()

    def _execute(
        self,
        client: Client,
        running: dict[str, Future[Any]],
        plan_context: PlanOrchestrationContext,
        execution_plan: ExecutionPlan,
    ) -> Iterator[DagsterEvent]:
        """`running` holds the futures of steps, by step; on leaving it holds those to be cancelled."""
        slots = InstanceConcurrencyContext(plan_context.instance, plan_context.dagster_run)
        with (
            slots,
            ActiveExecution(
                execution_plan, retry_mode=self.retries, instance_concurrency_context=slots
            ) as active,
        ):
            while not active.is_complete:
                if active.check_for_interrupts():
                    active.mark_interrupted()
                    raise DagsterExecutionInterruptedError
                for step in active.get_steps_to_execute():
                    known_state = active.get_known_state()
                    future = self._submit(client, plan_context, execution_plan, step, known_state)
                    future.add_done_callback(lambda _: self._news.set())
                    running[step.key] = future
                yield from active.concurrency_event_iterator(plan_context)
                self._news.wait(POLL_SECONDS)
                self._news.clear()
                for key in [key for key, future in running.items() if future.done()]:
                    for event in self._events(plan_context, active, key, running.pop(key)):
                        active.handle_event(event)
                        yield event
                    active.verify_complete(plan_context, key)
                yield from active.plan_events_iterator(plan_context)

    def _submit(
        self,
        client: Client,
        plan_context: PlanOrchestrationContext,
        execution_plan: ExecutionPlan,
        step: ExecutionStep,
        known_state: KnownExecutionState,
    ) -> Future[Any]:
        run = plan_context.dagster_run
        sealed = Step(
            plan_context.reconstructable_job,
            run,
            plan_context.run_config,
            step.key,
            plan_context.instance.get_ref(),
            known_state,
            execution_plan.repository_load_data,
            relevant(self._settings),
        )
        return client.submit(
            execute_step,
            sealed,
            key=(group_of(f"step-{step.key}", run.run_id), 0),
            pure=False,
            resources=get_dask_resource_requirements(step.tags) or None,
        )

    def _events(
        self, plan_context: PlanOrchestrationContext, active: ActiveExecution, key: str, future: Future[Any]
    ) -> Sequence[DagsterEvent]:
        """What happened in a step; its failure when the task failed instead."""
        try:
            events: Sequence[DagsterEvent] = future.result()
        except Exception:  # of whatever the task used: what it means for the run is Dagster's to say
            error = serializable_error_info_from_exc_info(sys.exc_info())
            step_context = plan_context.for_step(active.get_step_by_key(key))
            return [
                self.log_failure_or_retry_event_after_error(step_context, error, active.get_known_state())
            ]
        finally:
            future.release()
        return events


def _group(future: Future[Any]) -> str:
    key: Any = future.key
    group: str = key[0]
    return group

"""What modules outside this package need of Dagster, and Dagster does not offer publicly.

One function or name each, in our words. Private parts that only modules of this package use are imported
there. What each is for, and what would take its place, is in docs/dagster-internals.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dagster import DagsterInstance
from dagster._core.errors import DagsterAssetCheckFailedError as BlockingCheckFailed
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType, TickStatus

__all__ = ["BlockingCheckFailed", "SensorState", "sensor_states"]


@dataclass(frozen=True)
class SensorState:
    """A sensor that has ticked, or was started or stopped, and its last tick."""

    name: str
    on: bool
    last_tick: float | None
    """Seconds UTC; None when it has not ticked yet."""
    outcome: str | None
    failed: bool
    """Whether the last tick ended with an error."""
    error: str


def sensor_states(instance: DagsterInstance) -> Iterator[SensorState]:
    """All sensors that Dagster's storage knows of."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        last = ticks[0] if ticks else None
        yield SensorState(
            name=state.name,
            on=state.status != InstigatorStatus.STOPPED,
            last_tick=last.timestamp if last else None,
            outcome=last.status.value if last else None,
            failed=last is not None and last.status == TickStatus.FAILURE,
            error=last.error.message if last and last.error else "",
        )

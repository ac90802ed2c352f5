"""The four steps of a run that are checks, one for each asset group.

All checks of a group are one step, because a step costs as much as most checks. They need no input from
assets, so that they can be executed by themselves, too. Which checks a group has is in `points.py` to
`results.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, multi_asset_check

from datacube_assets.checks.aggregates import OF_AGGREGATES
from datacube_assets.checks.check import Check, LimitsResource, Subject
from datacube_assets.checks.datacube import OF_OBJECTS
from datacube_assets.checks.points import OF_POINTS
from datacube_assets.checks.results import OF_RESULTS
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.retries import retried_later
from datacube_assets.resources.storage import BucketsResource, LakeResource
from datacube_assets.storage.lake import MissingTableError
from datacube_assets.storage.refusals import note


def _step(
    name: str, checks: Sequence[Check], description: str, *, of_tables: bool = False
) -> AssetChecksDefinition:
    """Checks that are executed together; what those of tables refuse is written down."""

    @multi_asset_check(
        name=name, specs=[check.spec() for check in checks], can_subset=True, description=description
    )
    def step(
        context: AssetCheckExecutionContext,
        lake: LakeResource,
        buckets: BucketsResource,
        dask: DaskResource,
        limits: LimitsResource,
    ) -> Iterator[AssetCheckResult]:
        subject = Subject(context, lake.open().as_stored(), buckets, dask, limits)
        selected = [check for check in checks if check.key in context.selected_asset_check_keys]
        against = list[str]()
        for check in selected:
            with retried_later(context.instance, context.run, context.retry_number):
                result = check.result(subject)
                if of_tables and check.refuses(result):
                    against.append(f"{check.name}: {result.description}")
                    _note(subject, name, against)
            yield result
        if of_tables and not against and {one for one in checks if one.blocking} <= {*selected}:
            with retried_later(context.instance, context.run, context.retry_number):
                _note(subject, name, ())

    return step


def _note(subject: Subject, step: str, against: Sequence[str]) -> None:
    # Without a table there is nothing that could be published.
    with suppress(MissingTableError):
        note(subject.lake, subject.run, step, subject.points.version, "; ".join(against))


check_points = _step("check_points", OF_POINTS, "Checks of the asset group points.", of_tables=True)
check_aggregates = _step(
    "check_aggregates", OF_AGGREGATES, "Checks of the asset group aggregates.", of_tables=True
)
check_objects = _step(
    "check_objects", OF_OBJECTS, "Checks of the asset group datacube, before it is complete."
)
check_results = _step("check_results", OF_RESULTS, "Checks of the asset group results.")

CHECKS = [check_points, check_aggregates, check_objects, check_results]

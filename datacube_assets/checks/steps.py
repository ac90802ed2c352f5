"""The four steps of a run that are checks, one for each asset group.

All checks of a group are one step, because a step costs as much as most checks. They need no input from
assets, so that they can be executed by themselves, too. Which checks a group has is in `points.py` to
`results.py`.
"""

from collections.abc import Iterator, Sequence

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, multi_asset_check

from datacube_assets.checks.aggregates import OF_AGGREGATES
from datacube_assets.checks.check import Check, LimitsResource, Subject
from datacube_assets.checks.datacube import OF_OBJECTS
from datacube_assets.checks.points import OF_POINTS
from datacube_assets.checks.results import OF_RESULTS
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.retries import retried_later
from datacube_assets.resources.storage import BucketsResource, LakeResource


def _step(name: str, checks: Sequence[Check], description: str) -> AssetChecksDefinition:
    """Checks that are executed together."""

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
        subject = Subject(context, lake.open(), buckets, dask, limits)
        for check in checks:
            if check.key in context.selected_asset_check_keys:
                with retried_later(context.instance, context.run, context.retry_number):
                    result = check.result(subject)
                yield result

    return step


check_points = _step("check_points", OF_POINTS, "Checks of the asset group points.")
check_aggregates = _step("check_aggregates", OF_AGGREGATES, "Checks of the asset group aggregates.")
check_objects = _step(
    "check_objects", OF_OBJECTS, "Checks of the asset group datacube, before it is complete."
)
check_results = _step("check_results", OF_RESULTS, "Checks of the asset group results.")

CHECKS = [check_points, check_aggregates, check_objects, check_results]

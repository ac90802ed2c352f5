"""Steps that wait for what is not there just now: Dojo, a file server, a store, room on a disk, a cluster.

Dagster is asked to repeat such a step later. What has been done of it is not done again: tables that are
whole are handed on, objects that are published stay. Quick repetitions of single requests belong to the
clients (`http_client/`, `storage/s3_retries.py`); that a run whose process died is repeated, to Dagster.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from dagster import DagsterInstance, DagsterRun, RetryRequested

from datacube_assets.dojo.client import DojoUnavailable
from datacube_assets.dojo.fetch import FetchError
from datacube_assets.partitions import AT_COMMAND_LINE, SOURCE_TAG, WAITING_TAG
from datacube_assets.resources.dask import ClusterUnavailable
from datacube_assets.storage.stores import StoreUnavailable

RETRIES = 60
FIRST_RETRY, LAST_RETRY = 10.0, 300.0
"""How often a step is repeated, and after how many seconds: doubled from the first to the last. That is
more than four hours; only then is the run given up."""

Compute = TypeVar("Compute", bound=Callable[..., Any])


@contextmanager
def retried_later(instance: DagsterInstance, run: DagsterRun, tried: int) -> Iterator[None]:
    """Ask Dagster to repeat a step that failed because something outside was not there.

    `tried` is how often it was repeated already. Not in a run that a person waits for at the command
    line, who had rather know at once. What its own model run comes from concerns no other run, so meanwhile
    the run holds no place of the queue (`orchestration/run_queue.py`).
    """
    # A run that takes the place of one that died waiting has its tags.
    if tried or run.tags.get(WAITING_TAG) == "yes":
        _waits(instance, run, "no")
    try:
        yield
    except (DojoUnavailable, FetchError, StoreUnavailable, ClusterUnavailable) as error:
        if run.tags.get(SOURCE_TAG) == AT_COMMAND_LINE:
            raise
        if isinstance(error, (DojoUnavailable, FetchError)):
            _waits(instance, run, "yes")
        wait = min(FIRST_RETRY * 2 ** min(tried, 10), LAST_RETRY)
        raise RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error


def _waits(instance: DagsterInstance, run: DagsterRun, whether: str) -> None:
    # What keeps Dagster from noting it is for the run itself to find.
    with contextlib.suppress(Exception):
        instance.add_run_tags(run.run_id, {WAITING_TAG: whether})


def repeated(compute: Compute) -> Compute:
    """The function of an asset or a check, which takes a context first, under `retried_later`."""

    @functools.wraps(compute)
    def patient(context: Any, *arguments: Any, **named: Any) -> Any:
        with retried_later(context.instance, context.run, context.retry_number):
            return compute(context, *arguments, **named)

    return patient  # type: ignore[return-value]

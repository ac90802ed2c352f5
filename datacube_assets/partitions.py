"""The partitions of the asset graph, one per model run or dataset, and the tags of their runs.

How keys are encoded is in `dojo/model_run.py`.
"""

from dagster import DynamicPartitionsDefinition

from datacube_assets.dojo.model_run import ModelRun

model_runs = DynamicPartitionsDefinition(name="model_runs")

CODE_VERSION = "6"
"""Raise it when the same input gives other tables or objects than before: everything is then made anew."""

FROM_SCRATCH = "datacube/from_scratch"
"""Run tag, of any value, with which everything is made and published again, whether it is there or not."""
AS_PUBLISHED = "datacube/as_published"
"""Run tag of what writes again what is published, and never anything else."""
SOURCE_TAG = "datacube/source"
"""Run tag that says who asked for a run."""
REQUEST_TAG = "datacube/request"
"""Run tag with the name of the request in the queue that the run was started for."""
WANTED_VERSION = "datacube/version"
"""Run tag with the number of the earlier version that a run publishes again, or `previous`."""
VERSION_TAG = ".dagster/datacube_version"
CHANGE_TAG = ".dagster/datacube_change"
"""Run tags with the state of a partition that a sensor's run is for; the UI hides those that begin so."""
WAITING_TAG = ".dagster/datacube_waits"
"""Run tag that is `yes` while a run waits for Dojo or a file server, and so holds no place of the queue."""
PARTITION_TAG = "dagster/partition"
"""Dagster's tag of a run with the key of its partition."""
BACKFILL_TAG = "dagster/backfill"
"""Dagster's tag of a run that belongs to a backfill."""
AT_COMMAND_LINE = "command"
FROM_DOJO = "dojo"
"""What `SOURCE_TAG` says of runs that a command executes itself, and of runs for a sensor of Dojo."""
NAME_TAG = "datacube/name"
"""Run tag with the name that Dojo has for the model or dataset: ids are hard to recognise."""


def run_tags(run: ModelRun) -> dict[str, str]:
    """Tags by which the runs page can be filtered; what the partition says already needs none."""
    return {"datacube/model": run.model_id}

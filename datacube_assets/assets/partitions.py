"""The partitions of the asset graph, one per model run or dataset (DESIGN 2), and the tags of their runs.

How keys are encoded is in `dojo/model_run.py`.
"""

from dagster import DynamicPartitionsDefinition

model_runs = DynamicPartitionsDefinition(name="model_runs")

CODE_VERSION = "3"
"""Raise it when the same input gives other tables or objects than before: everything is then made anew."""

FROM_SCRATCH = "datacube/from_scratch"
"""Run tag, of any value, with which everything is made and published again, whether it is there or not."""
SOURCE_TAG = "datacube/source"
"""Run tag that says who asked for a run."""
AT_COMMAND_LINE = "command"
FROM_DOJO = "dojo"

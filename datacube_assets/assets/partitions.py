"""The partitions of the asset graph, one per model run or dataset (DESIGN 2), and the tags of their runs.

How keys are encoded is in `dojo/model_run.py`.
"""

from dagster import DynamicPartitionsDefinition

model_runs = DynamicPartitionsDefinition(name="model_runs")

SOURCE_TAG = "datacube/source"
"""Run tag that says who asked for a run."""
AT_COMMAND_LINE = "command"
FROM_DOJO = "dojo"

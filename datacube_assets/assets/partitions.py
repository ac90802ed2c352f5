"""The partitions of the asset graph: one per model run or dataset (DESIGN 2).

How keys are encoded is in `dojo/model_run.py`.
"""

from dagster import DynamicPartitionsDefinition

model_runs = DynamicPartitionsDefinition(name="model_runs")

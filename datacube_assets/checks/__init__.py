"""Asset checks: what every datacube is held to, before and after it is published (docs/checks.md).

A check reads what assets stored and judges it. How it judges is in plain functions on Arrow tables and
NumPy arrays, in `judging/`, which imports no Dagster. What they are given is in `check.py`, the checks of
each asset group are in `points.py` to `results.py`, and the steps of a run that execute them in `steps.py`.
Input that must not be processed at all is refused where it is read, in the kernels, not here.
"""

"""What exists because Dagster runs: jobs, the run launcher and its worker, storage, locks, the embedded home.

What a run does is in `assets/`; when one starts is in `sensors/`.
"""

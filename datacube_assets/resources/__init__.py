"""Dagster resources: Dojo, CauseMos, the lake, the buckets and Dask; links and pictures for the UI.

A resource turns settings into a client of `dojo`, `causemos` or `storage`, or into a way of running
kernels. It holds no logic that could be used without Dagster.
"""

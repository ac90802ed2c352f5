"""Tests of parts working together: assets, partitions, daemon, S3, Dask and HTTP.

The other side of a connection is a simulator started by the test; nothing here needs the network.
"""

"""Tests of one function or module at a time, without Dagster, network or cluster; all of them take seconds.

The laws of the kernels, checked on generated input, belong here too.
"""

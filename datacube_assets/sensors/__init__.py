"""What starts by itself: watching Dojo, watching requests, reporting outcomes.

What is new, and where to go on next time, is decided by plain functions that need no Dagster; a
sensor's body only connects them to cursors, partitions and run requests.
"""

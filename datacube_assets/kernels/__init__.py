"""The kernels: what a datacube is, and how its tables and objects are computed.

Pure functions on Arrow tables and NumPy arrays: schema, cleaning, aggregation in time and space,
qualifiers, quadkeys and tiles, the encoding and the keys of objects. Nothing here imports Dagster,
Dask, an HTTP library or a storage library, and nothing here reads or writes a file.
"""

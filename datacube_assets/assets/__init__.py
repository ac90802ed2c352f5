"""The Dagster assets, one module per group of the lineage graph.

An asset is thin: it reads its inputs, calls kernels, stores what they return and reports metadata.
How a number is computed belongs in `kernels`, how bytes are stored in `storage`, and how assets are
wired to resources in `definitions`.
"""

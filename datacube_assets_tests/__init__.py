"""The tests: `unit` for the kernels, `integration` for everything that meets Dagster, storage or HTTP,
`browser` for the UI, `golden` for agreement with the original's output.

Slow and soak tests are marked, and left out unless asked for.
"""

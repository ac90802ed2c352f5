"""How a check judges, without Dagster: figures and objects in, a verdict out.

What is fetched for it, and how a verdict reaches the UI, is in `checks/check.py`.
"""

"""How fast and how large: a generator of synthetic input and what is measured on it.

Run as `python -m benchmarks` or `make bench`. Whether results are right is for the tests to say.
"""

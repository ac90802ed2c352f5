"""Dojo's side: its documents, the client that fetches them, and the request derived from them.

What a run or a dataset says about itself is understood here and nowhere else. What is done with the
data belongs in `kernels` and `assets`, waiting for new runs in `sensors`.
"""

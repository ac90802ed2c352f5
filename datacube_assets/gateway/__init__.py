"""The place of the original's request queue: what CauseMos calls, on top of Dagster.

What the original does and CauseMos expects: docs/specification/queue-and-causemos.md.

`server.py` is the HTTP application, `parameters.py` what a request may say, `queue.py` the queue,
`flows.py` what is told about a run, `checking.py` what becomes of a request before it is put in,
`admission.py` who may call, `listening.py` how a server listens, `metrics.py` what is measured.
"""

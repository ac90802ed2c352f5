"""Asset checks: what a person should look at although the materialization went through.

A check reads what its asset stored and judges it. Input that must not be published is refused where
it is read, in the kernels, not here.
"""

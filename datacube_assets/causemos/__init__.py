"""CauseMos's side: the reports about outcomes, and the client that delivers them.

The endpoints of CauseMos, and what it is sent there, are spelled out here and nowhere else. What it calls
is in `gateway`, the objects that it fetches are encoded in `kernels`; deciding when to report belongs in
`sensors`.
"""

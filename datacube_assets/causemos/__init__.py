"""CauseMos's side: reporting outcomes to it, and the request interface that it calls.

The documents and endpoints that CauseMos knows are spelled out here and nowhere else. The objects
that it fetches are encoded in `datacube`; deciding when to report belongs in `sensors`.
"""

"""The page behind `datacube view`: what is published, on a map, as CauseMos' reader would read it.

Here belong the server (`server.py`), what it finds to look at (`catalogue.py`, `places.py`), and the page
itself (`static/`). It reads and never writes. How objects are read is `storage/published.py`.
"""

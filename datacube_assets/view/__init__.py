"""The page behind `datacube view`: what is published, on a map, as CauseMos' reader would read it.

Here belong the server (`server.py`), what answers for a version of a datacube (`answers.py`), and the page
itself (`static/`). It reads and never writes. How objects and tables are read is in `read/`.
"""

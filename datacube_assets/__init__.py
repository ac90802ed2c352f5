"""From a model run's Parquet output in Dojo to the datacube that CauseMos reads.

Data flows one way: dojo, points, aggregates, datacube, results. Everything is computed once into a
few tables in the lake; the objects that CauseMos fetches are views of these tables.
"""

__version__ = "0.1.0"

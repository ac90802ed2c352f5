"""What only development needs: simulators of Dojo and CauseMos, a sample, an S3 server, a local cluster.

Nothing here runs in production.
"""

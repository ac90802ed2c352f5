"""`make cluster`: a Dask cluster of processes on this machine that many runs share.

How it is started is in `resources/local_cluster.py`, where a run that has one to itself finds it, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import click

from datacube_assets.resources.local_cluster import start_cluster

PORT, DASHBOARD_PORT = 8786, 8787
"""Where Dask listens by habit."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workers", "-w", default=0, metavar="N", help="Worker processes. [default: one per core]")
@click.option("--port", default=PORT, show_default=True, help="Port of the scheduler; 0 for any free one.")
@click.option(
    "--dashboard-port", default=DASHBOARD_PORT, show_default=True, help="Port of the dashboard; likewise."
)
def main(workers: int, port: int, dashboard_port: int) -> None:
    """Run a Dask scheduler and workers on this machine until interrupted."""
    over = threading.Event()
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda *_: over.set())
    try:
        cluster = start_cluster(workers or os.cpu_count() or 1, port=port, dashboard_port=dashboard_port)
    except OSError as error:
        raise click.ClickException(f"port {port} cannot be used: {error.strerror}") from error
    with cluster:
        for line in (
            f"Scheduler   {cluster.scheduler_address}",
            f"Dashboard   {cluster.dashboard_link}",
            f"Workers     {len(cluster.workers)} processes",
            "",
            f"export DATACUBE_DASK_SCHEDULER={cluster.scheduler_address}",
            "",
            "Stop everything with Ctrl-C.",
        ):
            click.echo(line)
        sys.stdout.flush()
        # Code that comes with the tasks of runs may put a handler of its own before Python's, after which a
        # signal wakes nobody who waits without end.
        while not over.wait(1):
            pass


if __name__ == "__main__":
    main()

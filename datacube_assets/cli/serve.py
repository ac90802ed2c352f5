"""Commands that serve until they are stopped: the UI, the map, the gateway, an S3 server, simulators.

What is served belongs elsewhere; arguments and addresses, here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datacube_assets.cli.options import store_options, told
from datacube_assets.cli.ports import check_ports
from datacube_assets.orchestration.startup import importing

if TYPE_CHECKING:
    from datacube_assets.settings import Settings


@click.command(short_help="Open the Dagster UI, watching a simulated Dojo.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port",
    default=3000,
    help="Port of the UI; the simulators and the map take the next three. [default: 3000]",
)
@store_options
def dev(
    host: str,
    port: int,
    settings: Settings,
) -> None:
    """Open the Dagster UI with the sensors on, beside simulators of Dojo and CauseMos, and the map.

    The simulator of Dojo has the sample: two finished runs and a dataset, which start at once, and a run
    that finishes when you say so. Every partition can be materialized, materialized again and
    backfilled by hand; no run config is needed. Where DOJO_URL or CAUSEMOS_URL is set, that one is
    used instead of its simulator. Stop everything with Ctrl-C.
    """
    from datacube_assets.development.dev import PORTS, run_development

    check_ports(host, port, PORTS, "`datacube dev`")
    with told():
        sys.exit(run_development(settings, host, port, click.echo))


@click.command(short_help="Look at what is published, on a map.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3003, help="Port to listen on. [default: 3003]")
@store_options
def view(host: str, port: int, settings: Settings) -> None:
    """Serve a page that shows published datacubes on a map, as CauseMos will show them.

    It reads the objects in the buckets and never writes. Whoever reaches the address can read everything
    that is published: leave it on this machine, or put a proxy that asks for a password before it.

    \b
    Examples
      datacube view
      datacube view --models-bucket s3://models --indicators-bucket s3://indicators
    """
    from datacube_assets.view.server import serve

    check_ports(host, port, what="`datacube view`")
    with told():
        serve(
            settings,
            host,
            port,
            lambda: click.echo(f"Datacubes at http://{host}:{port}; stop it with Ctrl-C."),
        )


@click.command(short_help="Take requests of CauseMos, in place of its queue.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=4040, help="Port to listen on. [default: 4040]")
@store_options
def gateway(host: str, port: int, settings: Settings) -> None:
    """Serve what CauseMos calls as its request queue (WM_QUEUE_SERVICE_URL) and as Prefect (WM_PIPELINE_URL).

    Requests wait in the lake until the sensor `requests` starts their runs; runs are executed by Dagster's
    daemon, not here. Beyond this machine, DATACUBE_GATEWAY_CLIENTS has to say who may call.

    \b
    Examples
      datacube gateway
      DATACUBE_GATEWAY_CLIENTS=10.1.0.0/16 datacube gateway --host 0.0.0.0
    """
    check_ports(host, port, what="`datacube gateway`")
    with importing(), told():
        from datacube_assets.gateway.server import serve

    with told():
        click.echo(f"Taking requests at http://{host}:{port}/data-pipeline; stop it with Ctrl-C.")
        serve(settings, host, port)


@click.command("s3", short_help="Run a real S3 server for development.")
@click.option("--port", default=8333, help="Port to listen on, on loopback. [default: 8333]")
@store_options
def s3(port: int, settings: Settings) -> None:
    """Run SeaweedFS on this machine, and print the variables that lead everything else to it.

    Its data stay in the folder s3 of the home folder. It comes with the extra `dev`.
    """
    from datacube_assets.development.s3_server import serve as serve_s3

    with told():
        serve_s3(settings, port, click.echo)


@click.command("dojo-simulator", short_help="Stand in for Dojo.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3001, help="Port to listen on. [default: 3001]")
@click.option("--prefix", default="", metavar="PATH", help="Path in front of the API, as behind a proxy.")
@click.option("--sample", is_flag=True, help="Put the files of the sample into FOLDER, to be asked for.")
def dojo_simulator(folder: Path, host: str, port: int, prefix: str, sample: bool) -> None:
    """Serve a FOLDER of runs/*.json, models/*.json, indicators/*.json and files/ as Dojo would.

    DOJO_USERNAME and DOJO_PASSWORD are asked for where they are set. Requests below /simulator finish or
    fail runs, add documents and make it misbehave; they are listed at the top of
    `datacube_assets/development/dojo_simulator.py`. With --sample there are files, and no documents about
    them: nothing starts by itself.
    """
    from datacube_assets.development.dojo_simulator import serve
    from datacube_assets.development.sample import write_parts

    check_ports(host, port, what="the simulator of Dojo")
    with told():
        from datacube_assets.settings import Settings

        settings = Settings.from_environment()
        if sample:
            write_parts(folder)
    click.echo(f"Standing in for Dojo at http://{host}:{port}{prefix}; stop it with Ctrl-C.")
    serve(
        folder,
        host,
        port,
        prefix=prefix,
        username=settings.dojo_username,
        password=settings.dojo_password.get_secret_value(),
    )


@click.command("causemos-simulator", short_help="Stand in for CauseMos.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3002, help="Port to listen on. [default: 3002]")
@click.option("--queue", default="", metavar="URL", help="Gateway to send requests to, as CauseMos would.")
@store_options
def causemos_simulator(
    host: str,
    port: int,
    queue: str,
    settings: Settings,
) -> None:
    """Receive reports as CauseMos would, and show them at its address.

    It reads results.json from the bucket before it believes a success. With --queue it also takes what Dojo
    says of runs and datasets that are through, and sends requests for them to `datacube gateway`.
    """
    from datacube_assets.development.causemos_simulator import serve
    from datacube_assets.storage.opening import open_store

    check_ports(host, port, what="the simulator of CauseMos")
    click.echo(f"Standing in for CauseMos at http://{host}:{port}; stop it with Ctrl-C.")
    serve(
        open_store(settings.models_bucket, settings.s3_endpoint),
        open_store(settings.indicators_bucket, settings.s3_endpoint),
        host,
        port,
        upsert=True,
        queue_url=queue,
        username=settings.causemos_username,
        password=settings.causemos_password.get_secret_value(),
    )

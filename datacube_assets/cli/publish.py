"""Commands that process in this process: `datacube publish`, `datacube demo`.

What processing is belongs to `operations/publish.py`; what a terminal shows of it, here.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datacube_assets.cli.options import store_options, told
from datacube_assets.cli.request import request_options
from datacube_assets.orchestration.startup import importing, spare_imports

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from datacube_assets.dojo.request import DatacubeRequest
    from datacube_assets.operations.publish import Outcome
    from datacube_assets.settings import Settings

STARTED = time.monotonic()
INTERRUPTED = 130
"""Status of a command that was interrupted, as shells have it."""


@click.command(short_help="Turn Parquet parts into a published datacube.")
@request_options()
@store_options
@click.option("--report-json", type=click.Path(dir_okay=False), hidden=True, help="Write figures to a file.")
@click.option(
    "--from-scratch", is_flag=True, help="Make and write everything again, whether it is there or not."
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def publish(
    request: DatacubeRequest,
    settings: Settings,
    report_json: str | None,
    from_scratch: bool,
    quiet: bool,
) -> None:
    """Turn the Parquet PARTs of one model run or dataset into a published datacube.

    All assets of the run are materialized through Dagster, in this process; the run then also shows in
    the UI of `datacube dev`. Objects land at BUCKET/MODEL_ID/RUN_ID/... Publishing again writes only
    what changed.

    \b
    Examples
      datacube publish locusts.parquet.gzip --model-id locusts --run-id run-1
      datacube publish prices.parquet.gzip --model-id prices --indicator \\
          --qualifier-map '{"price": ["market"]}' --weight-column population
    """
    outcomes = _process(settings, [request], quiet=quiet, from_scratch=from_scratch)
    if report_json:
        Path(report_json).write_text(json.dumps(_report(outcomes[0]), indent=1))
    if not quiet:
        _tell_where(settings, outcomes)


def _process(
    settings: Settings, requests: list[DatacubeRequest], *, quiet: bool, from_scratch: bool = False
) -> list[Outcome]:
    """Process requests one after the other, showing progress."""
    from datacube_assets.resources.drawing import drawing_beside

    with drawing_beside(wanted=settings.pictures):
        return _process_all(settings, requests, quiet=quiet, from_scratch=from_scratch)


def _process_all(
    settings: Settings, requests: list[DatacubeRequest], *, quiet: bool, from_scratch: bool
) -> list[Outcome]:
    with importing():
        spare_imports()
        from dagster import DagsterExecutionInterruptedError

        import datacube_assets.operations.publish  # noqa: F401
        from datacube_assets.dojo.model_run import ModelRun
        from datacube_assets.orchestration.home import open_instance
        from datacube_assets.storage.opening import open_store

    outcomes = []
    with told():
        # Requests are left there before any run begins.
        open_store(settings.lake, settings.s3_endpoint).check("DATACUBE_LAKE")
    with told(), open_instance(settings) as instance:
        for request in requests:
            if not quiet:
                click.secho(f"{request.model_id} {request.run_id}", bold=True)
            try:
                outcomes.append(_process_one(settings, instance, request, quiet, from_scratch))
            except DagsterExecutionInterruptedError:
                click.echo(
                    f"Interrupted: {ModelRun.of(request)} is not complete. The same command goes on.",
                    err=True,
                )
                raise click.exceptions.Exit(INTERRUPTED) from None
            if not quiet:
                click.echo(f"  {_summary(outcomes[-1])}")
                for warning in outcomes[-1].warnings:
                    click.secho(f"  Check this: {warning}", fg="yellow")
    return outcomes


def _process_one(
    settings: Settings, instance: DagsterInstance, request: DatacubeRequest, quiet: bool, from_scratch: bool
) -> Outcome:
    from datacube_assets.cli.progress import Display
    from datacube_assets.operations.publish import STEPS, process

    if quiet:
        return process(settings, instance, request, lambda *_: None, from_scratch=from_scratch)
    display = Display(STEPS)
    with display.shown():
        return process(
            settings,
            instance,
            request,
            lambda asset, metadata, _: display.ends(asset, _figures(metadata)),
            begun=display.begins,
            from_scratch=from_scratch,
        )


def _figures(metadata: dict[str, Any]) -> str:
    """The figures of one asset that tell most, on one line."""
    if "objects" in metadata:
        counted = _count(metadata["objects"], "object")
        if metadata["objects unchanged"]:
            counted += f", {metadata['objects unchanged']:,} unchanged"
    elif "dagster/row_count" in metadata:
        counted = _count(metadata["dagster/row_count"], "row")
        if metadata.get("rows dropped"):
            counted += f", {metadata['rows dropped']:,} dropped"
    else:
        parts = metadata["parts"]
        counted = _count(parts if isinstance(parts, int) else len(parts), "part")
    return f"{counted:34} {metadata['seconds']:6.2f} s" if "seconds" in metadata else counted


def _count(number: int, thing: str) -> str:
    return f"{number:>9,} {thing}{'' if number == 1 else 's'}"


def _summary(outcome: Outcome) -> str:
    objects, written = outcome.total("objects"), outcome.total("objects written")
    return (
        f"{objects:,} objects, {outcome.total('bytes') / 1e6:,.1f} MB in {outcome.seconds:.1f} s: "
        f"{written:,} written, {objects - written:,} unchanged, {outcome.total('objects deleted'):,} deleted"
    )


def _report(outcome: Outcome) -> dict[str, object]:
    """Figures for the benchmark."""
    return {
        "assets": {name: data.get("seconds", 0.0) for name, data in outcome.assets.items()},
        "objects": outcome.total("objects"),
        "written": outcome.total("objects written"),
        "bytes": outcome.total("bytes"),
        "seconds": outcome.seconds,
        "startup_seconds": time.monotonic() - STARTED - outcome.seconds,
    }


def _tell_where(settings: Settings, outcomes: list[Outcome]) -> None:
    from datacube_assets.storage.opening import open_store

    click.echo()
    for outcome in outcomes:
        url = settings.bucket_for(indicator=outcome.run.is_indicator)
        path = open_store(url, settings.s3_endpoint).local_path(outcome.run.prefix.rstrip("/"))
        click.echo(f"Published  {path or f'{url}/{outcome.run.prefix}'}")
    click.echo(f"Tables     {settings.lake}")


@click.command(short_help="Process a small sample and see what comes out.")
@store_options
def demo(settings: Settings) -> None:
    """Process a small sample: three runs of a toy crop model and a dataset of market prices.

    Everything happens in one local folder, without any server.
    """
    from datacube_assets.development.sample import write_sample_requests

    with told():
        requests = write_sample_requests(settings.home / "sample")
    outcomes = _process(settings, requests, quiet=False)
    _tell_where(settings, outcomes)
    click.echo(
        "\nWhat next\n"
        "  make view                    look at it on a map\n"
        "  make dev                     look at lineage and data quality in the Dagster UI,\n"
        "                               and materialize or backfill these partitions by hand\n"
        "  .venv/bin/datacube publish PART... --model-id ID --run-id ID\n"
        "                               process Parquet files of your own\n"
        "  README.md, docs/             what the objects mean, and how it all works"
    )

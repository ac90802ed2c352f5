"""Commands that process in this process: `datacube publish`, `datacube demo`.

What processing is belongs to `datacube_assets/process.py`; what a terminal shows of it, here.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datacube_assets.cli.options import known_limits, read_json, store_options, told
from datacube_assets.orchestration.startup import importing

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from datacube_assets.dojo.request import DatacubeRequest
    from datacube_assets.operations.publish import Outcome
    from datacube_assets.settings import Settings

STARTED = time.monotonic()


@click.command(short_help="Turn Parquet parts into a published datacube.")
@click.argument("parts", nargs=-1, required=True, metavar="PART...")
@click.option("--model-id", required=True, metavar="ID", help="Id of the model or dataset.")
@click.option("--run-id", metavar="ID", help="Id of the run; with --indicator it is `indicator`.")
@click.option(
    "--indicator", is_flag=True, help="The parts are a dataset: publish into the indicators bucket."
)
@click.option(
    "--qualifier-map",
    default="{}",
    metavar="JSON|@FILE",
    help='Qualifier columns that break a feature down: \'{"yield": ["crop"]}\'.',
)
@click.option("--weight-column", default="", metavar="NAME", help="Column with the weights of rows.")
@click.option(
    "--thresholds",
    default="{}",
    metavar="JSON",
    help="Limits on qualifiers: max_count, regional_timeseries_count, regional_timeseries_max_level.",
)
@click.option(
    "--fill-timestamp", default=0, metavar="MS", help="Time of rows without one, ms UTC. [default: 0]"
)
@click.option(
    "--raw-count-threshold",
    default=10_000,
    metavar="N",
    help="Features with more rows get no raw.csv. [default: 10000]",
)
@click.option(
    "--timestamp-unit",
    type=click.Choice(["s", "ms", "us", "ns"]),
    default="ms",
    help="Unit of numeric timestamps. [default: ms]",
)
@store_options
@click.option("--report-json", type=click.Path(dir_okay=False), hidden=True, help="Write figures to a file.")
@click.option(
    "--from-scratch", is_flag=True, help="Make and write everything again, whether it is there or not."
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def publish(
    parts: tuple[str, ...],
    model_id: str,
    run_id: str | None,
    indicator: bool,
    qualifier_map: str,
    weight_column: str,
    thresholds: str,
    fill_timestamp: int,
    raw_count_threshold: int,
    timestamp_unit: str,
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
    from datacube_assets.dojo.request import INDICATOR_RUN_ID

    if indicator and run_id not in (None, INDICATOR_RUN_ID):
        raise click.UsageError(f"the run id of a dataset is `{INDICATOR_RUN_ID}`; leave --run-id out")
    if not indicator and not run_id:
        raise click.UsageError("give --run-id, or --indicator for a dataset")
    if not indicator and run_id == INDICATOR_RUN_ID:
        raise click.UsageError(f"the run id `{INDICATOR_RUN_ID}` is that of datasets; give --indicator")
    request = _request(
        model_id=model_id,
        run_id=INDICATOR_RUN_ID if indicator else run_id,
        data_paths=[_absolute(part) for part in parts],
        is_indicator=indicator,
        qualifier_map=read_json("--qualifier-map", qualifier_map),
        weight_column=weight_column,
        qualifier_thresholds=known_limits(read_json("--thresholds", thresholds)),
        fill_timestamp=fill_timestamp,
        raw_count_threshold=raw_count_threshold,
        timestamp_unit=timestamp_unit,
    )
    outcomes = _process(settings, [request], quiet=quiet, from_scratch=from_scratch)
    if report_json:
        Path(report_json).write_text(json.dumps(_report(outcomes[0]), indent=1))
    if not quiet:
        _tell_where(settings, outcomes)


def _absolute(part: str) -> str:
    return part if "://" in part else str(Path(part).expanduser().absolute())


def _request(**fields: object) -> DatacubeRequest:
    from pydantic import ValidationError

    from datacube_assets.dojo.request import DatacubeRequest

    try:
        return DatacubeRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=True)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-").replace("qualifier-thresholds", "thresholds")
        where = "".join(f" {part!r}" for part in first["loc"][1:])
        told = first["msg"].replace("valid tuple", "valid list")
        raise click.ClickException(f"{option}{where}: {told} (got {first['input']!r})") from error


def _process(
    settings: Settings, requests: list[DatacubeRequest], *, quiet: bool, from_scratch: bool = False
) -> list[Outcome]:
    """Process requests one after the other, showing progress."""
    with importing():
        # Arrow imports it anyway, at its first array.
        import pandas  # noqa: F401

        import datacube_assets.operations.publish  # noqa: F401
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
            outcomes.append(_process_one(settings, instance, request, quiet, from_scratch))
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
        url = settings.indicators_bucket if outcome.run.is_indicator else settings.models_bucket
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
